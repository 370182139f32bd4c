// Winograd's inner product (1968): with x1, x2 and w1, w2 from neighbouring groups of k,
//     x1 w1 + x2 w2 = (x1 + w2 + 128) (x2 + w1) - x2 (x1 + 128) - w1 (w2 + 128)
// is one product for two. Its additions run on ports that vpdpbusd does not use on Zen 4 and 5; the corrections are one
// number for each row of x, summed while it is copied, and one for each channel, in the bias.
#include <cstring>

#include "kernels/avx512_vnni/avx512_vnni.h"
#include "kernels/avx512_vnni/gemm.h"
#include "kernels/x86/cpu.h"

namespace packqvit::avx512_vnni {
namespace {

constexpr int kOffset = 128;

struct InnerProduct {
  static constexpr int8_t kEvenOffset = 0;
  static constexpr int8_t kOddOffset = static_cast<int8_t>(kOffset);

  // += x2 (x1 + 128).
  static void add_correction(__m512i& sum, __m512i codes) {
    // In every 8 bytes: x1 + 128 in the place of x2, nothing in the place of x1.
    const __m512i first = _mm512_slli_epi64(_mm512_xor_si512(codes, _mm512_set1_epi8(INT8_MIN)), 32);
    multiply_add(sum, first, codes);
  }

  template <size_t kRows>
  __attribute__((always_inline)) static void multiply(const Tile& tile, __m512i (&acc)[kRows][kVectors]) {
    for_each_step<8>(tile, [&](size_t k, const int8_t* ahead) __attribute__((always_inline)) {
      const int8_t* panel = tile.panel + kPanel * k;
      __m512i w1[kVectors];
      __m512i w2[kVectors];
      unroll<kVectors>([&](auto j) __attribute__((always_inline)) {
        w1[j] = _mm512_load_si512(panel + 64 * j);
        w2[j] = _mm512_load_si512(panel + 64 * (kVectors + j));
        _mm_prefetch(ahead + 64 * j, _MM_HINT_T0);
        _mm_prefetch(ahead + 64 * (kVectors + j), _MM_HINT_T0);
      });
      unroll<kRows>([&](auto i) __attribute__((always_inline)) {
        const __m512i x1 = broadcast(tile.x + i * tile.stride + k);
        const __m512i x2 = broadcast(tile.x + i * tile.stride + k + 4);
        unroll<kVectors>([&](auto j) __attribute__((always_inline)) {
          multiply_add(acc[i][j], _mm512_add_epi8(x1, w2[j]), _mm512_add_epi8(x2, w1[j]));
        });
      });
    });
  }
};

void fold_bias(const PackedWeights& weights, Epilogue epilogue, const Requantizer& requantizer, int32_t* bias) {
  fold_rounding(weights, epilogue, requantizer, bias);
  add_column_products(weights, kOffset, -1, bias);
}

}  // namespace

const GemmRoute& inner_product_route() {
  static constexpr GemmRoute kRoute = {
      "inner_product",
      // x2 + w1 within int8 and x1 + w2 + 128 within uint8, for weights in [-7, 7].
      [](unsigned weight_bits, CodeRange x) { return weight_bits == 4 && x.low >= -121 && x.high <= 120; },
      [] { return x86::cpu().adds_beside_products; },
      {kTileRows, kPanel, /*kr=*/4},
      fold_bias,
      Gemm<InnerProduct>::scratch_bytes,
      Gemm<InnerProduct>::run,
  };
  return kRoute;
}

}  // namespace packqvit::avx512_vnni
