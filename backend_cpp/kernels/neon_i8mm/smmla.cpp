#include "kernels/neon_i8mm/smmla.h"

#include "kernels/neon_i8mm/smmla_8x12.h"

namespace packqvit::neon_i8mm {
namespace {

using neon::kTileColumns;
using neon::kTileRows;

constexpr size_t kGroup = Smmla::kGroup;

// One group of k. An accumulator holds two rows by two columns: 4 x 6 of them and four vectors of a leave room for four
// of b.
template <size_t kRowPairs, size_t kColumnPairs>
inline void multiply_group(int32x4_t (&acc)[kRowPairs][kColumnPairs], const int8_t* a, const int8_t* b) {
  int8x16_t rows[kRowPairs];
  for (size_t i = 0; i < kRowPairs; ++i) rows[i] = vld1q_s8(a + 16 * i);
  for (size_t j = 0; j < kColumnPairs; ++j) {
    const int8x16_t columns = vld1q_s8(b + 16 * j);
    for (size_t i = 0; i < kRowPairs; ++i) acc[i][j] = vmmlaq_s32(acc[i][j], rows[i], columns);
  }
}

template <size_t kRowPairs, size_t kColumnPairs>
inline void start(int32x4_t (&acc)[kRowPairs][kColumnPairs], const int32_t* bias) {
  for (size_t j = 0; j < kColumnPairs; ++j) {
    const int32x2_t pair = vld1_s32(bias + 2 * j);
    for (size_t i = 0; i < kRowPairs; ++i) acc[i][j] = vcombine_s32(pair, pair);
  }
}

template <size_t kRowPairs, size_t kColumnPairs>
inline void store(const int32x4_t (&acc)[kRowPairs][kColumnPairs], int32_t* sums, size_t stride) {
  for (size_t i = 0; i < kRowPairs; ++i) {
    int32_t* even = sums + 2 * i * stride;
    int32_t* odd = even + stride;
    for (size_t j = 0; j < kColumnPairs; j += 2) {
      const int64x2_t left = vreinterpretq_s64_s32(acc[i][j]);
      const int64x2_t right = vreinterpretq_s64_s32(acc[i][j + 1]);
      vst1q_s32(even + 2 * j, vreinterpretq_s32_s64(vzip1q_s64(left, right)));
      vst1q_s32(odd + 2 * j, vreinterpretq_s32_s64(vzip2q_s64(left, right)));
    }
  }
}

// Not inlined: compilers keep the accumulators in registers only where nothing else lives beside them.
template <size_t kRowPairs, size_t kColumnPairs>
__attribute__((noinline)) void multiply(const int8_t* a, const int8_t* b, size_t groups, const int32_t* bias,
                                        int32_t* sums, size_t stride) {
  int32x4_t acc[kRowPairs][kColumnPairs];
  start(acc, bias);
  for (; groups > 0; --groups) {
    multiply_group(acc, a, b);
    a += kTileRows * kGroup;
    b += 2 * kColumnPairs * kGroup;
  }
  store(acc, sums, stride);
}

}  // namespace

// An odd number of rows is computed as the next even one.
const neon::TileKernels Smmla::kernels = {
    {multiply<1, 2>, multiply<1, 2>, multiply<2, 2>, multiply<2, 2>, multiply<3, 2>, multiply<3, 2>, multiply<4, 2>,
     multiply<4, 2>},
    {multiply<1, 4>, multiply<1, 4>, multiply<2, 4>, multiply<2, 4>, multiply<3, 4>, multiply<3, 4>, multiply<4, 4>,
     multiply<4, 4>},
    {multiply<1, 6>, multiply<1, 6>, multiply<2, 6>, multiply<2, 6>, multiply<3, 6>, multiply<3, 6>, multiply_8x12,
     multiply_8x12},
};

}  // namespace packqvit::neon_i8mm
