// vpdpbusd multiplies unsigned by signed bytes: weights + 128 by x, and 128 times the sum of a row of x is taken off
// the row. So x is read where it is.
#include "kernels/avx512_vnni/avx512_vnni.h"
#include "kernels/avx512_vnni/gemm.h"

namespace packqvit::avx512_vnni {
namespace {

constexpr uint8_t kOffset = 128;

struct Direct {
  static constexpr int8_t kEvenOffset = static_cast<int8_t>(kOffset);
  static constexpr int8_t kOddOffset = static_cast<int8_t>(kOffset);

  // += 128 x.
  static void add_correction(__m512i& sum, __m512i codes) { multiply_add(sum, _mm512_set1_epi8(kOddOffset), codes); }

  template <size_t kRows>
  __attribute__((always_inline)) static void multiply(const Tile& tile, __m512i (&acc)[kRows][kVectors]) {
    for_each_step<4>(tile, [&](size_t k, const int8_t* ahead) __attribute__((always_inline)) {
      __m512i w[kVectors];
      unroll<kVectors>([&](auto j) __attribute__((always_inline)) {
        w[j] = _mm512_load_si512(tile.panel + kPanel * k + 64 * j);
        _mm_prefetch(ahead + 64 * j, _MM_HINT_T0);
      });
      unroll<kRows>([&](auto i) __attribute__((always_inline)) {
        const __m512i x = broadcast(tile.x + i * tile.stride + k);
        unroll<kVectors>([&](auto j) __attribute__((always_inline)) { multiply_add(acc[i][j], w[j], x); });
      });
    });
  }
};

}  // namespace

const GemmRoute& direct_route() {
  static constexpr GemmRoute kRoute = {
      "direct",
      [](unsigned, CodeRange) { return true; },
      [] { return true; },
      {kTileRows, kPanel, /*kr=*/4, kOffset},
      fold_rounding,
      Gemm<Direct>::scratch_bytes,
      Gemm<Direct>::run,
  };
  return kRoute;
}

}  // namespace packqvit::avx512_vnni
