// vpdpbusd multiplies unsigned by signed bytes: x + 128 by the weights, and 128 times the sum of the weights is taken
// off the bias. x becomes unsigned where a tile reads it, which costs nothing where other operations run beside
// vpdpbusd, or else in a copy.
#include "kernels/avx512_vnni/avx512_vnni.h"
#include "kernels/avx512_vnni/gemm.h"
#include "kernels/x86/cpu.h"

namespace packqvit::avx512_vnni {
namespace {

template <bool kInPlace>
struct Direct {
  static constexpr bool kCopies = !kInPlace;
  static constexpr bool kRowBias = false;
  static constexpr int8_t kOddOffset = 0;

  static __m512i flip(__m512i codes) { return _mm512_xor_si512(codes, _mm512_set1_epi8(INT8_MIN)); }

  static void copy_row(const int8_t* x, size_t k, size_t padded_k, int8_t* out) {
    for (size_t i = 0; i < padded_k; i += 64) {
      const __m512i codes = _mm512_maskz_loadu_epi8(byte_mask(k > i ? k - i : 0), x + i);
      _mm512_mask_storeu_epi8(out + i, byte_mask(padded_k - i), kCopies ? flip(codes) : codes);
    }
  }

  template <size_t kRows, size_t kUsed>
  __attribute__((always_inline)) static void multiply(const Tile& tile, __m512i (&acc)[kRows][kUsed]) {
    for_each_step<4>(tile, [&](size_t k, const int8_t* ahead) __attribute__((always_inline)) {
      __m512i w[kUsed];
      unroll<kUsed>([&](auto j) __attribute__((always_inline)) {
        w[j] = _mm512_load_si512(tile.panel + kPanel * k + 64 * j);
        _mm_prefetch(ahead + 64 * j, _MM_HINT_T0);
      });
      unroll<kRows>([&](auto i) __attribute__((always_inline)) {
        __m512i x = broadcast(tile.x + i * tile.stride + k);
        if constexpr (kInPlace) x = flip(x);
        unroll<kUsed>([&](auto j) __attribute__((always_inline)) { multiply_add(acc[i][j], x, w[j]); });
      });
    });
  }
};

void fold_bias(const PackedWeights& weights, Epilogue epilogue, const Requantizer& requantizer, int32_t* bias) {
  fold_rounding(weights, epilogue, requantizer, bias);
  add_column_sums(weights, -128, bias);
}

bool accepts(unsigned, CodeRange) { return true; }

}  // namespace

const GemmRoute& direct_in_place_route() {
  static constexpr GemmRoute kRoute = {
      "direct_in_place",
      accepts,
      [] { return x86::cpu().adds_beside_products; },
      {kTileRows, kPanel, /*kr=*/4},
      fold_bias,
      Gemm<Direct<true>>::scratch_bytes,
      Gemm<Direct<true>>::run,
  };
  return kRoute;
}

const GemmRoute& direct_route() {
  static constexpr GemmRoute kRoute = {
      "direct",
      accepts,
      [] { return true; },
      {kTileRows, kPanel, /*kr=*/4},
      fold_bias,
      Gemm<Direct<false>>::scratch_bytes,
      Gemm<Direct<false>>::run,
  };
  return kRoute;
}

}  // namespace packqvit::avx512_vnni
