// Mean and reciprocal deviation of 8 LayerNorm rows at once, one in each 64-bit lane: the divisions and the square root
// of a row wait for each other and are slow one by one. docs/numerics.md, "layer_norm".
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/scalar.h"

namespace packqvit::avx512_vnni {

inline constexpr size_t kStatisticsRows = 8;

// The sum of the 8 int64 of each register.
inline __m512i sums_of(const __m512i (&x)[kStatisticsRows]) {
  const auto halves = [](__m512i a, __m512i b) {  // neighbouring lanes of 128 bits: two of a, then two of b
    return _mm512_add_epi64(_mm512_shuffle_i64x2(a, b, 0x88), _mm512_shuffle_i64x2(a, b, 0xDD));
  };
  __m512i pairs[kStatisticsRows / 2];
  for (size_t i = 0; i < kStatisticsRows / 2; ++i) {
    const __m512i a = x[2 * i], b = x[2 * i + 1];
    pairs[i] = _mm512_add_epi64(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
  }
  return halves(halves(pairs[0], pairs[1]), halves(pairs[2], pairs[3]));
}

// Of rows of `channels` numbers X within int16: M, R and s of docs/numerics.md, and whether s < 0.
struct RowStatistics {
  alignas(64) int64_t mean[kStatisticsRows];
  alignas(64) int64_t reciprocal[kStatisticsRows];
  alignas(64) int64_t shift[kStatisticsRows];

  bool is_flat(size_t row) const { return shift[row] < 0; }

  // Sums and sums of squares by row; the sums are zero where the mean is not to be subtracted.
  RowStatistics(__m512i sum, __m512i squares, size_t channels, int64_t epsilon) {
    const auto all = [](int64_t x) { return _mm512_set1_epi64(x); };
    const int64_t count = static_cast<int64_t>(channels);
    const __m512d twice = _mm512_set1_pd(static_cast<double>(2 * count));
    // |numerator| < 2^41: a quotient below an integer is so by more than doubles are rounded by.
    const __m512i numerator = _mm512_add_epi64(_mm512_slli_epi64(sum, 13), all(count));
    const __m512d quotient = _mm512_div_pd(_mm512_cvtepi64_pd(numerator), twice);
    _mm512_store_si512(mean, _mm512_cvttpd_epi64(_mm512_roundscale_pd(quotient, _MM_FROUND_TO_NEG_INF)));

    const __m512i variance = _mm512_sub_epi64(_mm512_mullo_epi64(all(count), squares), _mm512_mullo_epi64(sum, sum));
    const __m512i v = _mm512_max_epi64(_mm512_add_epi64(variance, all(epsilon)), all(1));
    const __m512i a = _mm512_srli_epi64(_mm512_sub_epi64(_mm512_lzcnt_epi64(v), all(2)), 1);
    const __m512i h = root_of(_mm512_sllv_epi64(v, _mm512_slli_epi64(a, 1)));
    const __m512i q = quotient_of(count << 48, h);
    const __m512i z = _mm512_sub_epi64(all(64 - 15), _mm512_lzcnt_epi64(q));  // above 0, as q >= 2^18
    // rshr(q, z) is (q >> (z - 1)) + 1 >> 1.
    const __m512i lifted = _mm512_add_epi64(_mm512_srlv_epi64(q, _mm512_sub_epi64(z, all(1))), all(1));
    const __m512i r = _mm512_srli_epi64(lifted, 1);
    const __mmask8 is_two = _mm512_cmpeq_epi64_mask(r, all(1 << 15));
    _mm512_store_si512(reciprocal, _mm512_mask_srli_epi64(r, is_two, r, 1));
    const int64_t constant = 45 - static_cast<int64_t>(layer_norm_fraction_bits(channels));
    const __m512i s = _mm512_sub_epi64(all(constant), _mm512_add_epi64(z, a));
    _mm512_store_si512(shift, _mm512_min_epi64(_mm512_mask_sub_epi64(s, is_two, s, all(1)), all(31)));
  }

 private:
  // isqrt() for x in [2^60, 2^62).
  static __m512i root_of(__m512i x) {
    const __m512i one = _mm512_set1_epi64(1);
    __m512i root = _mm512_cvttpd_epi64(_mm512_sqrt_pd(_mm512_cvtepi64_pd(x)));
    root = _mm512_mask_sub_epi64(root, _mm512_cmpgt_epi64_mask(_mm512_mul_epu32(root, root), x), root, one);
    const __m512i next = _mm512_add_epi64(root, one);
    return _mm512_mask_mov_epi64(root, _mm512_cmple_epi64_mask(_mm512_mul_epu32(next, next), x), next);
  }

  // floor(n / h) for a double n < 2^61 and h in [2^30, 2^31): the rounded quotient is never too small.
  static __m512i quotient_of(int64_t n, __m512i h) {
    const __m512i q = _mm512_cvttpd_epi64(_mm512_div_pd(_mm512_set1_pd(static_cast<double>(n)), _mm512_cvtepi64_pd(h)));
    const __mmask8 beyond = _mm512_cmpgt_epi64_mask(_mm512_mul_epu32(q, h), _mm512_set1_epi64(n));
    return _mm512_mask_sub_epi64(q, beyond, q, _mm512_set1_epi64(1));
  }
};

}  // namespace packqvit::avx512_vnni
