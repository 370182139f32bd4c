// Int-2^n-Softmax, 16 scores at a time. docs/numerics.md, "softmax".
#pragma once

#include "kernels/ymm/vector.h"

namespace packqvit::PACKQVIT_ISA {

// 2^14 * 2^(-f / 2^10) for the low 10 bits of e.
inline __m256i exp2_mantissas(__m256i e) {
  const __m256i f = _mm256_and_si256(_mm256_slli_epi16(e, 5), _mm256_set1_epi16(0x7FE0));
  __m256i p = _mm256_add_epi16(_mm256_mulhrs_epi16(f, _mm256_set1_epi16(-637)), _mm256_set1_epi16(3772));
  p = _mm256_add_epi16(_mm256_mulhrs_epi16(f, p), _mm256_set1_epi16(-11327));
  return _mm256_add_epi16(_mm256_mulhrs_epi16(f, p), _mm256_set1_epi16(16384));
}

// rshr(p, n) for n <= 15, else 0: mulhrs(p, 2^(15 - n)). For n = 0 that power is -2^15 in 16 bits, and the product -p.
inline __m256i shift_rounded(__m256i p, __m256i n) {
  const __m256i upper = _mm256_setr_epi8(-128, 64, 32, 16, 8, 4, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0,  //
                                         -128, 64, 32, 16, 8, 4, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0);
  const __m256i lower = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, -128, 64, 32, 16, 8, 4, 2, 1,  //
                                         0, 0, 0, 0, 0, 0, 0, 0, -128, 64, 32, 16, 8, 4, 2, 1);
  // Indices from 16 on get their upper bit set, which VPSHUFB answers with 0; so do the bytes that are not wanted.
  const __m256i index = _mm256_add_epi16(n, _mm256_set1_epi16(0x70));
  const __m256i low = _mm256_shuffle_epi8(lower, _mm256_or_si256(index, _mm256_set1_epi16(INT16_MIN)));
  const __m256i high_index = _mm256_or_si256(_mm256_slli_epi16(index, 8), _mm256_set1_epi16(0x80));
  const __m256i power = _mm256_or_si256(low, _mm256_shuffle_epi8(upper, high_index));
  return _mm256_abs_epi16(_mm256_mulhrs_epi16(p, power));
}

class Softmax {
 public:
  explicit Softmax(const SoftmaxParameters& parameters)
      : multiplier_(_mm256_set1_epi16(static_cast<int16_t>(parameters.multiplier))),
        right_(_mm_cvtsi32_si128(parameters.shift > 0 ? parameters.shift - 1 : 0)),
        left_(_mm_cvtsi32_si128(parameters.shift < 0 ? -parameters.shift : 0)),
        rounding_(_mm256_set1_epi32(parameters.shift > 0 ? 1 : 0)),
        limit_(_mm256_set1_epi32(parameters.shift < 0 ? 32768 >> -parameters.shift : INT32_MAX)) {}

  // x: `columns` scores in an array of a multiple of 16, into which the bias is added; octaves: as many int16 of
  // scratch. Calls store(first column, 16 codes as int16) for each 16; codes beyond the row stand for zero.
  template <Probabilities kFormat, typename Store>
  void run(int32_t* x, const ScoreBias& bias, size_t columns, int16_t* octaves, const Store& store_codes) const {
    if (bias.narrow != nullptr) {
      for (size_t i = 0; i < columns; ++i) x[i] += bias.narrow[i] * (1 << bias.shift);
    } else if (bias.wide != nullptr) {
      for (size_t i = 0; i < columns; ++i) x[i] += bias.wide[i];
    }
    int32_t maximum = INT32_MIN;
    for (size_t i = 0; i < columns; ++i) maximum = std::max(maximum, x[i]);
    const size_t padded = round_up(columns, 16);
    // So far away that their weight is 0, whatever the shift: set below.
    const __m256i top = _mm256_set1_epi32(maximum);
    for (size_t i = 0; i < padded; i += 16) {
      const __m256i t = to_words(distance(top, x + i), distance(top, x + i + 8));
      store(octaves + i, _mm256_mulhrs_epi16(t, multiplier_));
    }
    std::fill(octaves + columns, octaves + padded, int16_t{32767});
    if constexpr (kFormat == Probabilities::kLinear) {
      for (size_t i = 0; i < padded; i += 16) store_codes(i, linear_codes(load(octaves + i)));
    } else {
      __m256i sums = _mm256_setzero_si256();
      for (size_t i = 0; i < padded; i += 16) {
        const __m256i e = load(octaves + i);
        const __m256i weight = shift_rounded(exp2_mantissas(e), _mm256_srli_epi16(e, 10));
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(weight, _mm256_set1_epi16(1)));
      }
      const int32_t normaliser = log2_of_sum(static_cast<uint32_t>(sum_of(sums)));
      for (size_t i = 0; i < padded; i += 16) store_codes(i, log2_codes(load(octaves + i), normaliser));
    }
  }

 private:
  // In steps of 2^shift scores, at most 32767. Distances are below 2^31: docs/numerics.md, `max - x[j]`.
  __m256i distance(__m256i top, const int32_t* x) const {
    __m256i d = _mm256_min_epu32(_mm256_sub_epi32(top, load(x)), limit_);
    // (d >> (shift - 1)) + 1 >> 1 where there is a shift to the right.
    d = _mm256_add_epi32(_mm256_srl_epi32(d, right_), rounding_);
    if (_mm256_testz_si256(rounding_, rounding_) == 0) d = _mm256_srli_epi32(d, 1);
    return _mm256_min_epi32(_mm256_sll_epi32(d, left_), _mm256_set1_epi32(32767));
  }

  static __m256i log2_codes(__m256i e, int32_t normaliser) {
    const __m256i rounded = _mm256_adds_epu16(e, _mm256_set1_epi16(static_cast<int16_t>(normaliser + 512)));
    return _mm256_min_epi16(_mm256_srli_epi16(rounded, 10), _mm256_set1_epi16(15));
  }

  static __m256i linear_codes(__m256i e) {
    const __m256i exponent = _mm256_adds_epi16(e, _mm256_set1_epi16(kLargestCodeExponent));
    const __m256i n = _mm256_add_epi16(_mm256_srli_epi16(exponent, 10), _mm256_set1_epi16(6));
    return shift_rounded(exp2_mantissas(exponent), n);
  }

  __m256i multiplier_;
  __m128i right_;
  __m128i left_;
  __m256i rounding_;
  __m256i limit_;
};

}  // namespace packqvit::PACKQVIT_ISA
