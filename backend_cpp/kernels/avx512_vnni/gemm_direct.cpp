// vpdpbusd multiplies unsigned by signed bytes: x + 128 by the weights, and 128 times the sum of the weights is taken
// off the bias.
#include "kernels/avx512_vnni/avx512_vnni.h"
#include "kernels/avx512_vnni/gemm.h"

namespace packqvit::avx512_vnni {
namespace {

struct Direct {
  static constexpr bool kCopies = true;
  static constexpr bool kRowBias = false;
  static constexpr int8_t kOddOffset = 0;

  static void copy_row(const int8_t* x, size_t k, size_t padded_k, int8_t* out) {
    const __m512i flip = _mm512_set1_epi8(INT8_MIN);
    size_t i = 0;
    for (; i + 64 <= k; i += 64) _mm512_storeu_si512(out + i, _mm512_xor_si512(_mm512_loadu_si512(x + i), flip));
    if (i < padded_k) {
      const __m512i last = _mm512_maskz_loadu_epi8(byte_mask(k - i), x + i);
      _mm512_mask_storeu_epi8(out + i, byte_mask(padded_k - i), _mm512_xor_si512(last, flip));
    }
  }

  template <size_t kRows>
  __attribute__((always_inline)) static void multiply(const Tile& tile, __m512i (&acc)[kRows][kVectors]) {
    const int8_t* panel = tile.panel;
    for (size_t k = 0; k < tile.stride; k += 4, panel += 4 * kPanel) {
      __m512i w[kVectors];
      unroll<kVectors>([&](auto j) __attribute__((always_inline)) { w[j] = _mm512_load_si512(panel + 64 * j); });
      unroll<kRows>([&](auto i) __attribute__((always_inline)) {
        const __m512i x = broadcast(tile.x + i * tile.stride + k);
        unroll<kVectors>([&](auto j) __attribute__((always_inline)) { multiply_add(acc[i][j], x, w[j]); });
      });
    }
  }
};

void fold_bias(const PackedWeights& weights, Epilogue epilogue, const Requantizer& requantizer, int32_t* bias) {
  fold_rounding(weights, epilogue, requantizer, bias);
  add_column_sums(weights, -128, bias);
}

}  // namespace

const GemmRoute& direct_route() {
  static constexpr GemmRoute kRoute = {
      "direct",
      [](unsigned, CodeRange) { return true; },
      [] { return true; },
      {kTileRows, kPanel, /*kr=*/4},
      fold_bias,
      Gemm<Direct>::scratch_bytes,
      Gemm<Direct>::run,
  };
  return kRoute;
}

}  // namespace packqvit::avx512_vnni
