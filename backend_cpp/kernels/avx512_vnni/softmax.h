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

// log2_of_sum() of 16 sums.
inline __m512i log2_of_sums(__m512i sum) {
  const auto mulhrs = [](__m512i a, __m512i b) {
    return _mm512_srai_epi32(_mm512_add_epi32(_mm512_mullo_epi32(a, b), _mm512_set1_epi32(1 << 14)), 15);
  };
  const __m512i zeros = _mm512_lzcnt_epi32(sum);
  const __m512i z = _mm512_sub_epi32(_mm512_set1_epi32(31), zeros);
  // (sum << (30 - z)) - 2^30, of which the 15 upper bits are g.
  const __m512i aligned = _mm512_srli_epi32(_mm512_sllv_epi32(sum, zeros), 1);
  const __m512i g = _mm512_srli_epi32(_mm512_sub_epi32(aligned, _mm512_set1_epi32(1 << 30)), 15);
  __m512i l = _mm512_add_epi32(_mm512_set1_epi32(10605), mulhrs(g, _mm512_set1_epi32(-2762)));
  l = _mm512_add_epi32(_mm512_set1_epi32(-22220), mulhrs(g, l));
  l = _mm512_add_epi32(_mm512_set1_epi32(14370), mulhrs(g, l));
  l = _mm512_add_epi32(g, mulhrs(g, l));
  const __m512i fraction = _mm512_srai_epi32(_mm512_add_epi32(l, _mm512_set1_epi32(16)), 5);
  return _mm512_add_epi32(_mm512_slli_epi32(_mm512_sub_epi32(z, _mm512_set1_epi32(14)), 10), fraction);
}

class Softmax {
 public:
  explicit Softmax(const SoftmaxParameters& parameters)
      : multiplier_(_mm512_set1_epi16(static_cast<int16_t>(parameters.multiplier))),
        shift_(parameters.shift),
        right_(_mm_cvtsi32_si128(parameters.shift > 0 ? parameters.shift - 1 : 0)) {}

  // Adds the bias, where there is one, to `columns` scores in an array of a multiple of 64, and returns the largest.
  __attribute__((always_inline)) static int32_t maximum(int32_t* x, const ScoreBias& bias, size_t columns) {
    if (bias.narrow != nullptr) {
      const __m128i shift = _mm_cvtsi32_si128(static_cast<int>(bias.shift));
      return sum_maximum(x, columns, [&](size_t i, __mmask16 mask) {
        const __m256i words = _mm256_maskz_loadu_epi16(mask, bias.narrow + i);
        return _mm512_sll_epi32(_mm512_cvtepi16_epi32(words), shift);
      });
    }
    if (bias.wide != nullptr) {
      return sum_maximum(x, columns,
                         [&](size_t i, __mmask16 mask) { return _mm512_maskz_loadu_epi32(mask, bias.wide + i); });
    }
    __m512i largest = _mm512_set1_epi32(INT32_MIN);
    size_t i = 0;
    for (; i + 16 <= columns; i += 16) largest = _mm512_max_epi32(largest, _mm512_load_si512(x + i));
    if (i < columns)
      largest = _mm512_mask_max_epi32(largest, rest_mask(columns - i), largest, _mm512_load_si512(x + i));
    return _mm512_reduce_max_epi32(largest);
  }

  // Stores the octaves of the scores, in an order of their own, to an array of a multiple of 64 int16, and returns the
  // sum of their weights, which linear codes do not need: 0. Columns beyond the row are so far away that they weigh
  // nothing.
  template <Probabilities kFormat>
  int32_t weigh(const int32_t* x, int32_t maximum, size_t columns, int16_t* octaves) const {
    if (shift_ > 0) return weigh<kFormat, Shift::kRight>(x, maximum, columns, octaves);
    return shift_ == 0 ? weigh<kFormat, Shift::kNone>(x, maximum, columns, octaves)
                       : weigh<kFormat, Shift::kLeft>(x, maximum, columns, octaves);
  }

  // Calls store(first column, codes of 64 columns) for each 64; codes beyond the row stand for zero. Linear codes need
  // no normaliser.
  template <Probabilities kFormat, typename Store>
  static void codes(const int16_t* octaves, int32_t normaliser, size_t columns, const Store& store) {
    const auto code = [&](const int16_t* e) {
      return kFormat == Probabilities::kLog2 ? log2_codes(_mm512_load_si512(e), normaliser)
                                             : linear_codes(_mm512_load_si512(e));
    };
    for (size_t first = 0; first < columns; first += 64) {
      const __m512i low = code(octaves + first);
      const __m512i high = code(octaves + first + 32);
      store(first, to_unsigned_bytes(low, high));
    }
  }

 private:
  static __mmask16 rest_mask(size_t count) { return static_cast<__mmask16>(byte_mask(count)); }

  // load(first column, mask) is what is added.
  template <typename Load>
  __attribute__((always_inline)) static int32_t sum_maximum(int32_t* x, size_t columns, const Load& load) {
    __m512i largest = _mm512_set1_epi32(INT32_MIN);
    size_t i = 0;
    for (; i + 16 <= columns; i += 16) {
      const __m512i sums = _mm512_add_epi32(_mm512_load_si512(x + i), load(i, 0xFFFF));
      _mm512_store_si512(x + i, sums);
      largest = _mm512_max_epi32(largest, sums);
    }
    if (i < columns) {
      const __mmask16 mask = rest_mask(columns - i);
      const __m512i sums = _mm512_add_epi32(_mm512_load_si512(x + i), load(i, mask));
      _mm512_store_si512(x + i, sums);
      largest = _mm512_mask_max_epi32(largest, mask, largest, sums);
    }
    return _mm512_reduce_max_epi32(largest);
  }

  enum class Shift { kRight, kNone, kLeft };

  template <Probabilities kFormat, Shift kShift>
  int32_t weigh(const int32_t* x, int32_t maximum, size_t columns, int16_t* octaves) const {
    const __m512i top = _mm512_set1_epi32(maximum);
    __m512i sums = _mm512_setzero_si512();
    size_t first = 0;
    for (; first + 32 <= columns; first += 32) {
      const __m512i e = octaves_of<kShift>(top, x + first, ~__mmask32{0});
      _mm512_store_si512(octaves + first, e);
      if constexpr (kFormat == Probabilities::kLog2) sums = _mm512_add_epi32(sums, weights_of(e));
    }
    if (first < columns) {
      const __m512i e = octaves_of<kShift>(top, x + first, word_mask(columns - first));
      _mm512_store_si512(octaves + first, e);
      if constexpr (kFormat == Probabilities::kLog2) sums = _mm512_add_epi32(sums, weights_of(e));
      first += 32;
    }
    if (first % 64 != 0) _mm512_store_si512(octaves + first, _mm512_set1_epi16(32767));
    return _mm512_reduce_add_epi32(sums);
  }

  // mulhrs(t, multiplier) of 32 scores; t = 32767 outside of the mask. Distances are below 2^31: what
  // docs/numerics.md says of `max - x[j]`.
  template <Shift kShift>
  __m512i octaves_of(__m512i top, const int32_t* x, __mmask32 inside) const {
    const __m512i far = _mm512_set1_epi32(65535);
    __m512i d[2];
    for (size_t i = 0; i < 2; ++i) {
      const __mmask16 mask = static_cast<__mmask16>(inside >> 16 * i);
      const __m512i distance = _mm512_sub_epi32(top, _mm512_load_si512(x + 16 * i));
      if constexpr (kShift == Shift::kRight) {
        d[i] = _mm512_mask_srl_epi32(far, mask, distance, right_);
      } else if constexpr (kShift == Shift::kNone) {
        d[i] = _mm512_mask_mov_epi32(far, mask, distance);
      } else {
        const __m512i limited = _mm512_min_epi32(distance, _mm512_set1_epi32(32768 >> -shift_));
        d[i] = _mm512_mask_slli_epi32(far, mask, limited, static_cast<unsigned>(-shift_));
      }
    }
    __m512i t = _mm512_packus_epi32(d[0], d[1]);
    if constexpr (kShift == Shift::kRight) t = _mm512_avg_epu16(t, _mm512_setzero_si512());
    return _mm512_mulhrs_epi16(_mm512_min_epu16(t, _mm512_set1_epi16(32767)), multiplier_);
  }

  static __m512i weights_of(__m512i octaves) {
    const __m512i weight = shift_rounded(exp2_mantissa_twice(octaves), _mm512_srli_epi16(octaves, 10));
    return _mm512_madd_epi16(weight, _mm512_set1_epi16(1));
  }

  static __m512i log2_codes(__m512i e, int32_t normaliser) {
    const __m512i rounded = _mm512_adds_epu16(e, _mm512_set1_epi16(static_cast<int16_t>(normaliser + 512)));
    return _mm512_min_epi16(_mm512_srli_epi16(rounded, 10), _mm512_set1_epi16(15));
  }

  static __m512i linear_codes(__m512i e) {
    const __m512i exponent = _mm512_adds_epi16(e, _mm512_set1_epi16(kLargestCodeExponent));
    const __m512i n = _mm512_add_epi16(_mm512_srli_epi16(exponent, 10), _mm512_set1_epi16(6));
    return shift_rounded(exp2_mantissa_twice(exponent), n);
  }

  // to_bytes() with saturation to [0, 255].
  static __m512i to_unsigned_bytes(__m512i low, __m512i high) {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_epi32(order, _mm512_packus_epi16(low, high));
  }

  __m512i multiplier_;
  int32_t shift_;
  __m128i right_;
};

}  // namespace packqvit::avx512_vnni
