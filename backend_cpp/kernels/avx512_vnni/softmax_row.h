// Int-2^n-Softmax of one row, 64 scores at a time. docs/numerics.md, "softmax".
#pragma once

#include <immintrin.h>

#include "kernels/avx512_vnni/epilogue.h"

namespace packqvit::avx512_vnni {

// Twice 2^14 * 2^(-f / 2^10) for the low 10 bits of e: within uint16.
inline __m512i exp2_mantissa_twice(__m512i e) {
  const __m512i f = _mm512_and_si512(_mm512_slli_epi16(e, 5), _mm512_set1_epi16(0x7FE0));
  __m512i p = _mm512_add_epi16(_mm512_mulhrs_epi16(f, _mm512_set1_epi16(-637)), _mm512_set1_epi16(3772));
  p = _mm512_add_epi16(_mm512_mulhrs_epi16(f, p), _mm512_set1_epi16(-11327));
  p = _mm512_add_epi16(_mm512_mulhrs_epi16(f, p), _mm512_set1_epi16(16384));
  return _mm512_add_epi16(p, p);
}

// rshr(mantissa, n) of twice the mantissa; 0 for n > 15, as vpsrlvw shifts.
inline __m512i shift_rounded(__m512i mantissa_twice, __m512i n) {
  return _mm512_avg_epu16(_mm512_srlv_epi16(mantissa_twice, n), _mm512_setzero_si512());
}

class SoftmaxRow {
 public:
  explicit SoftmaxRow(const SoftmaxParameters& parameters)
      : multiplier_(_mm512_set1_epi16(static_cast<int16_t>(parameters.multiplier))),
        right_(parameters.shift > 0 ? parameters.shift - 1 : 0),
        left_(parameters.shift < 0 ? -parameters.shift : 0),
        rounds_(parameters.shift > 0),
        limit_(_mm512_set1_epi32(parameters.shift < 0 ? 32767 >> -parameters.shift : -1)) {}

  // x: `columns` scores in an array of a multiple of 64, into which the bias is added. e: as many int16 of scratch.
  // Calls store(first column, codes of 64 columns) for each 64; codes beyond the row stand for zero.
  template <Probabilities kFormat, typename Store>
  void run(int32_t* x, const int32_t* bias, size_t columns, int16_t* e, const Store& store) const {
    const __m512i maximum = _mm512_set1_epi32(add_bias_and_find_maximum(x, bias, columns));
    __m512i sums = _mm512_setzero_si512();
    size_t first = 0;
    for (; first + 64 <= columns; first += 64) {
      for (size_t half = 0; half < 2; ++half) {
        const int32_t* scores = x + first + 32 * half;
        sums = _mm512_add_epi32(
            sums, weigh(distance(maximum, scores), distance(maximum, scores + 16), e + first + 32 * half));
      }
    }
    if (first < columns) {
      for (size_t half = 0; half < 2; ++half) {
        const size_t from = first + 32 * half;
        sums = _mm512_add_epi32(sums, weigh(distance_or_zero_weight(maximum, x, from, columns),
                                            distance_or_zero_weight(maximum, x, from + 16, columns), e + from));
      }
    }
    const int32_t normaliser = log2_of_sum(static_cast<uint32_t>(_mm512_reduce_add_epi32(sums)));
    for (first = 0; first < columns; first += 64) {
      const __m512i low = code<kFormat>(_mm512_load_si512(e + first), normaliser);
      const __m512i high = code<kFormat>(_mm512_load_si512(e + first + 32), normaliser);
      store(first, to_unsigned_bytes(low, high));
    }
  }

 private:
  static int32_t add_bias_and_find_maximum(int32_t* x, const int32_t* bias, size_t columns) {
    __m512i maximum = _mm512_set1_epi32(INT32_MIN);
    for (size_t i = 0; i < columns; i += 16) {
      const __mmask16 mask = static_cast<__mmask16>(byte_mask(columns - i));
      __m512i scores = _mm512_load_si512(x + i);
      if (bias != nullptr) {
        scores = _mm512_add_epi32(scores, _mm512_maskz_loadu_epi32(mask, bias + i));
        _mm512_store_si512(x + i, scores);
      }
      maximum = _mm512_mask_max_epi32(maximum, mask, maximum, scores);
    }
    return _mm512_reduce_max_epi32(maximum);
  }

  // The distance to the maximum in steps of 2^shift scores, at most 32767.
  __m512i distance(__m512i maximum, const int32_t* x) const {
    __m512i d = _mm512_min_epu32(_mm512_sub_epi32(maximum, _mm512_load_si512(x)), limit_);
    if (rounds_) d = _mm512_srli_epi32(_mm512_add_epi32(_mm512_srli_epi32(d, right_), _mm512_set1_epi32(1)), 1);
    return _mm512_min_epu32(_mm512_slli_epi32(d, left_), _mm512_set1_epi32(32767));
  }

  // The same; columns beyond the row are so far that their weight is 0.
  __m512i distance_or_zero_weight(__m512i maximum, const int32_t* x, size_t from, size_t columns) const {
    const __mmask16 inside = static_cast<__mmask16>(byte_mask(columns > from ? columns - from : 0));
    return _mm512_mask_mov_epi32(_mm512_set1_epi32(32767), inside, distance(maximum, x + from));
  }

  // Stores the octaves of 32 distances and returns sums of their weights.
  __m512i weigh(__m512i t0, __m512i t1, int16_t* e) const {
    const __m512i octaves = _mm512_mulhrs_epi16(_mm512_packs_epi32(t0, t1), multiplier_);
    _mm512_store_si512(e, octaves);
    const __m512i weight = shift_rounded(exp2_mantissa_twice(octaves), _mm512_srli_epi16(octaves, 10));
    return _mm512_madd_epi16(weight, _mm512_set1_epi16(1));
  }

  template <Probabilities kFormat>
  static __m512i code(__m512i e, int32_t normaliser) {
    if constexpr (kFormat == Probabilities::kLog2) {
      const __m512i rounded = _mm512_adds_epu16(e, _mm512_set1_epi16(static_cast<int16_t>(normaliser + 512)));
      return _mm512_min_epi16(_mm512_srli_epi16(rounded, 10), _mm512_set1_epi16(15));
    } else {
      const __m512i sum = _mm512_adds_epu16(e, _mm512_set1_epi16(static_cast<int16_t>(normaliser)));
      const __m512i biased = _mm512_min_epu16(sum, _mm512_set1_epi16(32767));
      const __m512i n = _mm512_add_epi16(_mm512_srli_epi16(biased, 10), _mm512_set1_epi16(6));
      return shift_rounded(exp2_mantissa_twice(biased), n);
    }
  }

  // to_bytes() with saturation to [0, 255].
  static __m512i to_unsigned_bytes(__m512i low, __m512i high) {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_epi32(order, _mm512_packus_epi16(low, high));
  }

  __m512i multiplier_;
  unsigned right_;
  unsigned left_;
  bool rounds_;
  __m512i limit_;
};

}  // namespace packqvit::avx512_vnni
