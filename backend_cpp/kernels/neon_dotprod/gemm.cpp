#include "kernels/mca.h"
#include "kernels/neon/tile_gemm.h"
#include "kernels/neon_dotprod/dotprod.h"

namespace packqvit::neon_dotprod {
namespace {

using neon::kTileColumns;
using neon::kTileRows;

constexpr size_t kGroup = 4;  // codes of k in a lane of SDOT
constexpr size_t kVectors = kTileColumns / 4;

// The four lanes of one vector of a are one row each.
template <size_t kRow>
inline void dot_row(int32x4_t (&acc)[kVectors], const int8x16_t (&b)[kVectors], int8x16_t a) {
  for (size_t j = 0; j < kVectors; ++j) acc[j] = vdotq_laneq_s32(acc[j], b[j], a, kRow % 4);
}

// One group of k: kRows by 12 accumulators, two vectors of a and three of b fill 29 registers.
template <size_t kRows>
inline void dot_group(int32x4_t (&acc)[kRows][kVectors], const int8_t* a, const int8_t* b) {
  const int8x16_t low = vld1q_s8(a);
  const int8x16_t high = kRows > 4 ? vld1q_s8(a + 16) : low;
  const int8x16_t columns[kVectors] = {vld1q_s8(b), vld1q_s8(b + 16), vld1q_s8(b + 32)};
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
template <size_t kRows>
__attribute__((noinline)) void multiply(const int8_t* a, const int8_t* b, size_t groups, const int32_t* bias,
                                        int32_t* sums) {
  int32x4_t acc[kRows][kVectors];
  for (size_t i = 0; i < kRows; ++i) {
    for (size_t j = 0; j < kVectors; ++j) acc[i][j] = vld1q_s32(bias + 4 * j);
  }
  constexpr size_t kUnroll = 4;
  constexpr size_t kStepA = kTileRows * kGroup;
  constexpr size_t kStepB = kTileColumns * kGroup;
  for (; groups >= kUnroll; groups -= kUnroll) {
    if constexpr (kRows == kTileRows) PACKQVIT_MCA_BEGIN("sdot_8x12");
    for (size_t i = 0; i < kUnroll; ++i) dot_group<kRows>(acc, a + i * kStepA, b + i * kStepB);
    a += kUnroll * kStepA;
    b += kUnroll * kStepB;
    if constexpr (kRows == kTileRows) {
      for (size_t i = 0; i < kRows; ++i) {
        for (size_t j = 0; j < kVectors; ++j) PACKQVIT_MCA_KEEP(acc[i][j]);
      }
      PACKQVIT_MCA_END();
    }
  }
  for (; groups > 0; --groups) {
    dot_group<kRows>(acc, a, b);
    a += kStepA;
    b += kStepB;
  }
  for (size_t i = 0; i < kRows; ++i) {
    for (size_t j = 0; j < kVectors; ++j) vst1q_s32(sums + i * kTileColumns + 4 * j, acc[i][j]);
  }
}

// Four rows by sixteen codes: transposes groups of four codes.
inline void pack_rows(const int8x16_t (&rows)[4], int8_t* (&out)[4]) {
  const auto words = [](int8x16_t x) { return vreinterpretq_s32_s8(x); };
  const auto doubles = [](int32x4_t x) { return vreinterpretq_s64_s32(x); };
  const int64x2_t even01 = doubles(vtrn1q_s32(words(rows[0]), words(rows[1])));
  const int64x2_t odd01 = doubles(vtrn2q_s32(words(rows[0]), words(rows[1])));
  const int64x2_t even23 = doubles(vtrn1q_s32(words(rows[2]), words(rows[3])));
  const int64x2_t odd23 = doubles(vtrn2q_s32(words(rows[2]), words(rows[3])));
  vst1q_s8(out[0], vreinterpretq_s8_s64(vtrn1q_s64(even01, even23)));
  vst1q_s8(out[1], vreinterpretq_s8_s64(vtrn1q_s64(odd01, odd23)));
  vst1q_s8(out[2], vreinterpretq_s8_s64(vtrn2q_s64(even01, even23)));
  vst1q_s8(out[3], vreinterpretq_s8_s64(vtrn2q_s64(odd01, odd23)));
}

void pack_tile(const int8_t* x, size_t rows, size_t k, size_t padded_k, int8_t* packed) {
  const int8_t* row[kTileRows];
  for (size_t i = 0; i < kTileRows; ++i) row[i] = x + std::min(i, rows - 1) * k;
  for (size_t column = 0; column < padded_k; column += 4 * kGroup) {
    const size_t groups = std::min((padded_k - column) / kGroup, size_t{4});
    for (size_t half = 0; half < rows; half += 4) {
      const int8x16_t codes[4] = {neon::load_codes(row[half], column, k), neon::load_codes(row[half + 1], column, k),
                                  neon::load_codes(row[half + 2], column, k),
                                  neon::load_codes(row[half + 3], column, k)};
      int8_t unused[16];
      int8_t* out[4];
      for (size_t i = 0; i < 4; ++i) {
        out[i] = i < groups ? packed + (column + i * kGroup) * kTileRows + half * kGroup : unused;
      }
      pack_rows(codes, out);
    }
  }
}

void run(const GemmArguments& arguments, Range rows, Range panels, void* scratch) {
  static constexpr neon::TileKernels kKernels = {multiply<1>, multiply<2>, multiply<3>, multiply<4>,
                                                 multiply<5>, multiply<6>, multiply<7>, multiply<8>};
  neon::tile_gemm<kGroup>(arguments, rows, panels, scratch, pack_tile, kKernels);
}

}  // namespace

const GemmRoute& gemm_route() {
  static constexpr GemmRoute kRoute = {
      "sdot",
      [](unsigned, CodeRange) { return true; },
      [] { return true; },
      {kTileRows, kTileColumns, kGroup},
      nullptr,
      neon::tile_gemm_scratch,
      run,
  };
  return kRoute;
}

}  // namespace packqvit::neon_dotprod
