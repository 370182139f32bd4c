// Int-2^n-Softmax, 64 scores at a time, in the three stages between which a row has to wait for one number: its maximum
// and the sum of its weights. Doing a stage for several rows hides that. docs/numerics.md, "softmax".
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

class Softmax {
 public:
  explicit Softmax(const SoftmaxParameters& parameters)
      : multiplier_(_mm512_set1_epi16(static_cast<int16_t>(parameters.multiplier))),
        right_(parameters.shift > 0 ? parameters.shift - 1 : 0),
        left_(parameters.shift < 0 ? -parameters.shift : 0),
        rounds_(parameters.shift > 0),
        limit_(_mm512_set1_epi32(parameters.shift < 0 ? 32767 >> -parameters.shift : -1)) {}

  // Adds the bias, where there is one, to `columns` scores in an array of a multiple of 64, and returns the largest.
  static int32_t maximum(int32_t* x, const int32_t* bias, size_t columns) {
    __m512i largest = _mm512_set1_epi32(INT32_MIN);
    for (size_t i = 0; i < columns; i += 16) {
      const __mmask16 mask = static_cast<__mmask16>(byte_mask(columns - i));
      __m512i scores = _mm512_load_si512(x + i);
      if (bias != nullptr) {
        scores = _mm512_add_epi32(scores, _mm512_maskz_loadu_epi32(mask, bias + i));
        _mm512_store_si512(x + i, scores);
      }
      largest = _mm512_mask_max_epi32(largest, mask, largest, scores);
    }
    return _mm512_reduce_max_epi32(largest);
  }

  // Stores the octaves of the scores, in an order of their own, to an array of as many int16, and returns the logarithm
  // of the sum of their weights.
  int32_t normaliser(const int32_t* x, int32_t maximum, size_t columns, int16_t* octaves) const {
    const __m512i top = _mm512_set1_epi32(maximum);
    __m512i sums = _mm512_setzero_si512();
    size_t first = 0;
    for (; first + 32 <= columns; first += 32) {
      sums = _mm512_add_epi32(sums, weigh(distance(top, x + first), distance(top, x + first + 16), octaves + first));
    }
    for (; first < columns || first % 64 != 0; first += 32) {
      sums = _mm512_add_epi32(sums, weigh(distance_or_zero_weight(top, x, first, columns),
                                          distance_or_zero_weight(top, x, first + 16, columns), octaves + first));
    }
    return log2_of_sum(static_cast<uint32_t>(_mm512_reduce_add_epi32(sums)));
  }

  // Calls store(first column, codes of 64 columns) for each 64; codes beyond the row stand for zero.
  template <Probabilities kFormat, typename Store>
  static void codes(const int16_t* octaves, int32_t normaliser, size_t columns, const Store& store) {
    for (size_t first = 0; first < columns; first += 64) {
      const __m512i low = code<kFormat>(_mm512_load_si512(octaves + first), normaliser);
      const __m512i high = code<kFormat>(_mm512_load_si512(octaves + first + 32), normaliser);
      store(first, to_unsigned_bytes(low, high));
    }
  }

 private:
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
