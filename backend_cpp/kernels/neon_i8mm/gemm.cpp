#include "kernels/mca.h"
#include "kernels/neon/tile_gemm.h"
#include "kernels/neon_i8mm/i8mm.h"

namespace packqvit::neon_i8mm {
namespace {

using neon::kTileColumns;
using neon::kTileRows;

constexpr size_t kGroup = 8;  // codes of k in half a vector of SMMLA
constexpr size_t kColumnPairs = kTileColumns / 2;

// One group of k. An accumulator holds two rows by two columns, so that 4 x 6 of them and four vectors of a leave room
// for four of b.
template <size_t kRowPairs>
inline void multiply_group(int32x4_t (&acc)[kRowPairs][kColumnPairs], const int8_t* a, const int8_t* b) {
  int8x16_t rows[kRowPairs];
  for (size_t i = 0; i < kRowPairs; ++i) rows[i] = vld1q_s8(a + 16 * i);
  for (size_t j = 0; j < kColumnPairs; ++j) {
    const int8x16_t columns = vld1q_s8(b + 16 * j);
    for (size_t i = 0; i < kRowPairs; ++i) acc[i][j] = vmmlaq_s32(acc[i][j], rows[i], columns);
  }
}

inline int64x2_t doubles(int32x4_t x) { return vreinterpretq_s64_s32(x); }

// Not inlined: compilers keep the accumulators in registers only where nothing else lives beside them.
template <size_t kRowPairs>
__attribute__((noinline)) void multiply(const int8_t* a, const int8_t* b, size_t groups, const int32_t* bias,
                                        int32_t* sums) {
  int32x4_t acc[kRowPairs][kColumnPairs];
  for (size_t j = 0; j < kColumnPairs; ++j) {
    const int32x2_t pair = vld1_s32(bias + 2 * j);
    for (size_t i = 0; i < kRowPairs; ++i) acc[i][j] = vcombine_s32(pair, pair);
  }
  constexpr size_t kUnroll = 2;
  constexpr size_t kStepA = kTileRows * kGroup;
  constexpr size_t kStepB = kTileColumns * kGroup;
  for (; groups >= kUnroll; groups -= kUnroll) {
    if constexpr (2 * kRowPairs == kTileRows) PACKQVIT_MCA_BEGIN("smmla_8x12");
    for (size_t i = 0; i < kUnroll; ++i) multiply_group<kRowPairs>(acc, a + i * kStepA, b + i * kStepB);
    a += kUnroll * kStepA;
    b += kUnroll * kStepB;
    if constexpr (2 * kRowPairs == kTileRows) {
      for (size_t i = 0; i < kRowPairs; ++i) {
        for (size_t j = 0; j < kColumnPairs; ++j) PACKQVIT_MCA_KEEP(acc[i][j]);
      }
      PACKQVIT_MCA_END();
    }
  }
  if (groups > 0) multiply_group<kRowPairs>(acc, a, b);
  static_assert(kUnroll == 2, "one group is left at most");
  for (size_t i = 0; i < kRowPairs; ++i) {
    int32_t* even = sums + 2 * i * kTileColumns;
    for (size_t j = 0; j < kColumnPairs; j += 2) {
      const int64x2_t left = doubles(acc[i][j]);
      const int64x2_t right = doubles(acc[i][j + 1]);
      vst1q_s32(even + 2 * j, vreinterpretq_s32_s64(vzip1q_s64(left, right)));
      vst1q_s32(even + kTileColumns + 2 * j, vreinterpretq_s32_s64(vzip2q_s64(left, right)));
    }
  }
}

void pack_tile(const int8_t* x, size_t rows, size_t k, size_t padded_k, int8_t* packed) {
  for (size_t row = 0; row < rows; row += 2) {
    const int8_t* even = x + row * k;
    const int8_t* odd = x + std::min(row + 1, rows - 1) * k;
    int8_t* out = packed + row * kGroup;
    for (size_t column = 0; column < padded_k; column += 2 * kGroup) {
      const int64x2_t first = vreinterpretq_s64_s8(neon::load_codes(even, column, k));
      const int64x2_t second = vreinterpretq_s64_s8(neon::load_codes(odd, column, k));
      vst1q_s8(out, vreinterpretq_s8_s64(vzip1q_s64(first, second)));
      if (padded_k - column > kGroup) {
        vst1q_s8(out + kTileRows * kGroup, vreinterpretq_s8_s64(vzip2q_s64(first, second)));
      }
      out += 2 * kTileRows * kGroup;
    }
  }
}

void run(const GemmArguments& arguments, Range rows, Range panels, void* scratch) {
  // The sums of an odd last row come with those of a row that nobody reads.
  static constexpr neon::TileKernels kKernels = {multiply<1>, multiply<1>, multiply<2>, multiply<2>,
                                                 multiply<3>, multiply<3>, multiply<4>, multiply<4>};
  neon::tile_gemm<kGroup>(arguments, rows, panels, scratch, pack_tile, kKernels);
}

}  // namespace

const GemmRoute& gemm_route() {
  static constexpr GemmRoute kRoute = {
      "smmla",
      [](unsigned, CodeRange) { return true; },
      [] { return true; },
      {kTileRows, kTileColumns, kGroup},
      nullptr,
      neon::tile_gemm_scratch,
      run,
  };
  return kRoute;
}

}  // namespace packqvit::neon_i8mm
