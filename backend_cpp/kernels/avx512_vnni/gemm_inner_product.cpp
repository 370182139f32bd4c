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
  static constexpr bool kCopies = false;
  static constexpr bool kRowBias = true;
  static constexpr int8_t kOddOffset = static_cast<int8_t>(kOffset);

  static void copy_row(const int8_t* x, size_t k, size_t padded_k, int8_t* out) {
    std::memcpy(out, x, k);
    std::memset(out + k, 0, padded_k - k);
  }

  // -sum x2 (x1 + 128) of each row.
  static void bias_rows(const int8_t* x, size_t stride, size_t rows, int32_t* bias) {
    size_t row = 0;
    for (; row + 4 <= rows; row += 4) {
      __m512i sum[4];
      corrections<4>(x + row * stride, stride, sum);
      const __m512i sum01 =
          _mm512_add_epi32(_mm512_unpacklo_epi32(sum[0], sum[1]), _mm512_unpackhi_epi32(sum[0], sum[1]));
      const __m512i sum23 =
          _mm512_add_epi32(_mm512_unpacklo_epi32(sum[2], sum[3]), _mm512_unpackhi_epi32(sum[2], sum[3]));
      const __m512i lanes = _mm512_add_epi32(_mm512_unpacklo_epi64(sum01, sum23), _mm512_unpackhi_epi64(sum01, sum23));
      const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(lanes), _mm512_extracti64x4_epi64(lanes, 1));
      const __m128i total = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(bias + row), _mm_sub_epi32(_mm_setzero_si128(), total));
    }
    for (; row < rows; ++row) {
      __m512i sum[1];
      corrections<1>(x + row * stride, stride, sum);
      bias[row] = -_mm512_reduce_add_epi32(sum[0]);
    }
  }

  template <size_t kRows>
  __attribute__((always_inline)) static void corrections(const int8_t* x, size_t stride, __m512i (&sum)[kRows]) {
    unroll<kRows>([&](auto i) __attribute__((always_inline)) { sum[i] = _mm512_setzero_si512(); });
    for (size_t k = 0; k < stride; k += 64) {
      const __mmask64 mask = byte_mask(stride - k);
      unroll<kRows>([&](auto i) __attribute__((always_inline)) {
        add_correction(sum[i], _mm512_maskz_loadu_epi8(mask, x + i * stride + k));
      });
    }
  }

  // += x2 (x1 + 128).
  static void add_correction(__m512i& sum, __m512i codes) {
    // In every 8 bytes: x1 + 128 in the place of x2, nothing in the place of x1.
    const __m512i first = _mm512_slli_epi64(_mm512_xor_si512(codes, _mm512_set1_epi8(INT8_MIN)), 32);
    multiply_add(sum, first, codes);
  }

  template <size_t kRows, size_t kUsed>
  __attribute__((always_inline)) static void multiply(const Tile& tile, __m512i (&acc)[kRows][kUsed]) {
    for_each_step<8>(tile, [&](size_t k, const int8_t* ahead) __attribute__((always_inline)) {
      const int8_t* panel = tile.panel + kPanel * k;
      __m512i w1[kUsed];
      __m512i w2[kUsed];
      unroll<kUsed>([&](auto j) __attribute__((always_inline)) {
        w1[j] = _mm512_load_si512(panel + 64 * j);
        w2[j] = _mm512_load_si512(panel + 64 * (kVectors + j));
        _mm_prefetch(ahead + 64 * j, _MM_HINT_T0);
        _mm_prefetch(ahead + 64 * (kVectors + j), _MM_HINT_T0);
      });
      unroll<kRows>([&](auto i) __attribute__((always_inline)) {
        const __m512i x1 = broadcast(tile.x + i * tile.stride + k);
        const __m512i x2 = broadcast(tile.x + i * tile.stride + k + 4);
        unroll<kUsed>([&](auto j) __attribute__((always_inline)) {
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
