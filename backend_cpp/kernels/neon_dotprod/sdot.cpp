#include "kernels/neon_dotprod/sdot.h"

#include "kernels/neon_dotprod/sdot_8x12_in_order.h"

namespace packqvit::neon_dotprod {
namespace {

using neon::kTileColumns;
using neon::kTileRows;

constexpr size_t kGroup = Sdot::kGroup;

// Each lane of a vector of a is one row.
template <size_t kRow, size_t kVectors>
inline void dot_row(int32x4_t (&acc)[kVectors], const int8x16_t (&b)[kVectors], int8x16_t a) {
  for (size_t j = 0; j < kVectors; ++j) acc[j] = vdotq_laneq_s32(acc[j], b[j], a, kRow % 4);
}

// One group of k: 8 by 12 sums, two vectors of a and three of b fill 29 registers.
template <size_t kRows, size_t kVectors>
inline void dot_group(int32x4_t (&acc)[kRows][kVectors], const int8_t* a, const int8_t* b) {
  const int8x16_t low = vld1q_s8(a);
  const int8x16_t high = kRows > 4 ? vld1q_s8(a + 16) : low;
  int8x16_t columns[kVectors];
  for (size_t j = 0; j < kVectors; ++j) columns[j] = vld1q_s8(b + 16 * j);
  dot_row<0>(acc[0], columns, low);
  if constexpr (kRows > 1) dot_row<1>(acc[1], columns, low);
  if constexpr (kRows > 2) dot_row<2>(acc[2], columns, low);
  if constexpr (kRows > 3) dot_row<3>(acc[3], columns, low);
  if constexpr (kRows > 4) dot_row<4>(acc[4], columns, high);
  if constexpr (kRows > 5) dot_row<5>(acc[5], columns, high);
  if constexpr (kRows > 6) dot_row<6>(acc[6], columns, high);
  if constexpr (kRows > 7) dot_row<7>(acc[7], columns, high);
}

// Not inlined: compilers keep the accumulators in registers only where nothing else lives beside them.
template <size_t kRows, size_t kVectors>
__attribute__((noinline)) void multiply(const int8_t* a, const int8_t* b, size_t groups, const int32_t* bias,
                                        int32_t* sums, size_t stride) {
  int32x4_t acc[kRows][kVectors];
  for (size_t i = 0; i < kRows; ++i) {
    for (size_t j = 0; j < kVectors; ++j) acc[i][j] = vld1q_s32(bias + 4 * j);
  }
  for (; groups > 0; --groups) {
    dot_group(acc, a, b);
    a += kTileRows * kGroup;
    b += 4 * kVectors * kGroup;
  }
  for (size_t i = 0; i < kRows; ++i) {
    for (size_t j = 0; j < kVectors; ++j) vst1q_s32(sums + i * stride + 4 * j, acc[i][j]);
  }
}

}  // namespace

const neon::TileKernels Sdot::kernels = {
    {multiply<1, 1>, multiply<2, 1>, multiply<3, 1>, multiply<4, 1>, multiply<5, 1>, multiply<6, 1>, multiply<7, 1>,
     multiply<8, 1>},
    {multiply<1, 2>, multiply<2, 2>, multiply<3, 2>, multiply<4, 2>, multiply<5, 2>, multiply<6, 2>, multiply<7, 2>,
     multiply<8, 2>},
    {multiply<1, 3>, multiply<2, 3>, multiply<3, 3>, multiply<4, 3>, multiply<5, 3>, multiply<6, 3>, multiply<7, 3>,
     multiply_8x12},
};

const neon::TileKernels SdotInOrder::kernels = {
    {multiply<1, 1>, multiply<2, 1>, multiply<3, 1>, multiply<4, 1>, multiply<5, 1>, multiply<6, 1>, multiply<7, 1>,
     multiply<8, 1>},
    {multiply<1, 2>, multiply<2, 2>, multiply<3, 2>, multiply<4, 2>, multiply<5, 2>, multiply<6, 2>, multiply<7, 2>,
     multiply<8, 2>},
    {multiply<1, 3>, multiply<2, 3>, multiply<3, 3>, multiply<4, 3>, multiply<5, 3>, multiply<6, 3>, multiply<7, 3>,
     multiply_8x12_in_order},
};

}  // namespace packqvit::neon_dotprod
