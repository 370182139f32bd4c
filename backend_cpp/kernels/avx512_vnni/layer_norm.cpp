#include <immintrin.h>

#include <algorithm>
#include <limits>

#include "kernels/avx512_vnni/avx512_vnni.h"
#include "kernels/avx512_vnni/epilogue.h"
#include "kernels/avx512_vnni/products.h"
#include "kernels/avx512_vnni/row_statistics.h"
#include "kernels/reference/reference.h"

namespace packqvit::avx512_vnni {
namespace {

// 32 channels as int16: X of docs/numerics.md; zero beyond the row.
template <typename Code>
__m512i load(const LayerNormArguments& arguments, const Code* x, size_t c) {
  const __mmask32 mask = word_mask(arguments.channels - c);
  if constexpr (sizeof(Code) == 2) {
    return _mm512_maskz_loadu_epi16(mask, x + c);
  } else {
    const __m512i codes = _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(mask, x + c));
    if (arguments.channel_shift == nullptr) return codes;
    const __m256i shift = _mm256_maskz_loadu_epi8(mask, arguments.channel_shift + c);
    return _mm512_sllv_epi16(codes, _mm512_cvtepu8_epi16(shift));
  }
}

// Sums of a row's X and of their squares, as 8 int64 each.
struct Moments {
  __m512i sum;
  __m512i squares;
};

template <typename Code>
Moments moments_of(const LayerNormArguments& arguments, const Code* x) {
  __m512i sum = _mm512_setzero_si512();
  __m512i squares = _mm512_setzero_si512();
  for (size_t c = 0; c < arguments.channels; c += 32) {
    const __m512i codes = load(arguments, x, c);
    multiply_add_words(sum, codes, _mm512_set1_epi16(1));
    // A pair of squares reaches 2^31: unsigned from here on.
    const __m512i pairs = _mm512_madd_epi16(codes, codes);
    squares = _mm512_add_epi64(squares, _mm512_and_si512(pairs, _mm512_set1_epi64(0xFFFFFFFF)));
    squares = _mm512_add_epi64(squares, _mm512_srli_epi64(pairs, 32));
  }
  if (!arguments.centred) return {_mm512_setzero_si512(), squares};
  const __m512i even = _mm512_srai_epi64(_mm512_slli_epi64(sum, 32), 32);
  return {_mm512_add_epi64(even, _mm512_srai_epi64(sum, 32)), squares};
}

// Of `count` rows from x on.
template <typename Code>
RowStatistics statistics_of(const LayerNormArguments& arguments, const Code* x, size_t count) {
  __m512i sums[kStatisticsRows];
  __m512i squares[kStatisticsRows];
  for (size_t i = 0; i < kStatisticsRows; ++i) {
    const Moments moments = i < count ? moments_of(arguments, x + i * arguments.stride()) : Moments{};
    sums[i] = moments.sum;
    squares[i] = moments.squares;
  }
  return {sums_of(sums), sums_of(squares), arguments.channels, arguments.epsilon};
}

// 64 channels of weight and bias, as 4 registers of int32: in the order in which vpunpcklwd and vpunpckhwd, and behind
// them vpackssdw, leave 32 channels of a row.
struct Affine {
  __m512i weight[4];
  __m512i bias[4];

  Affine(const LayerNormArguments& arguments, size_t c) {
    const __mmask64 mask = byte_mask(arguments.channels - c);
    const __m512i zero = _mm512_setzero_si512();
    for (size_t half = 0; half < 2; ++half) {
      const size_t first = c + 32 * half;
      const __mmask32 inside = static_cast<__mmask32>(mask >> 32 * half);
      const __m512i w = _mm512_maskz_loadu_epi16(inside, arguments.weight + first);
      weight[2 * half] = _mm512_unpacklo_epi16(w, zero);
      weight[2 * half + 1] = _mm512_unpackhi_epi16(w, zero);
      const __m512i low = _mm512_maskz_loadu_epi32(static_cast<__mmask16>(inside), arguments.bias + first);
      const __m512i high = _mm512_maskz_loadu_epi32(static_cast<__mmask16>(inside >> 16), arguments.bias + first + 16);
      bias[2 * half] = _mm512_shuffle_i32x4(low, high, 0x88);
      bias[2 * half + 1] = _mm512_shuffle_i32x4(low, high, 0xDD);
    }
  }
};

// 32 channels as int32, the ones that vpackssdw takes from its first and from its second operand.
struct Steps {
  __m512i first;
  __m512i second;
};

// (x - mean) / sigma of a row, times weight, plus bias, before it is clamped.
class Normalise {
 public:
  Normalise(const LayerNormArguments& arguments, const RowStatistics& statistics, size_t row)
      // rshr(X 2^12 - M, s) = (X 2^12 - M + 2^(s-1)) >> s: within int32, because |X 2^12 - M| < 2^29 and s <= 30.
      : start_(_mm512_set1_epi32(static_cast<int>((statistics.shift[row] > 0 ? 1 << (statistics.shift[row] - 1) : 0) -
                                                  statistics.mean[row]))),
        shift_(_mm_cvtsi64_si128(statistics.shift[row])),
        reciprocal_(_mm512_set1_epi16(static_cast<int16_t>(statistics.reciprocal[row]))),
        output_shift_(_mm_cvtsi32_si128(static_cast<int>(arguments.output_shift))) {}

  // 32 channels.
  Steps operator()(__m512i x, const __m512i* weight, const __m512i* bias) const {
    const __m512i zero = _mm512_setzero_si512();
    const __m512i deviation =
        _mm512_packs_epi32(shifted(_mm512_unpacklo_epi16(x, zero)), shifted(_mm512_unpackhi_epi16(x, zero)));
    const __m512i normalised = _mm512_mulhrs_epi16(deviation, reciprocal_);
    return {scaled(_mm512_unpacklo_epi16(normalised, zero), weight[0], bias[0]),
            scaled(_mm512_unpackhi_epi16(normalised, zero), weight[1], bias[1])};
  }

 private:
  // Both take int16 in the lower halves of 32 bits.
  __m512i shifted(__m512i x) const {
    __m512i deviation = start_;
    multiply_add_words(deviation, x, _mm512_set1_epi16(1 << 12));
    return _mm512_sra_epi32(deviation, shift_);
  }
  __m512i scaled(__m512i normalised, __m512i weight, __m512i bias) const {
    multiply_add_words(bias, normalised, weight);
    return _mm512_sra_epi32(bias, output_shift_);
  }

  __m512i start_;
  __m128i shift_;
  __m512i reciprocal_;
  __m128i output_shift_;
};

// To int16 codes as they are; the type's range, or a narrower one, is left to Codes.
class Saturate {
 public:
  Saturate(const LayerNormArguments&, size_t) {}
  __m512i operator()(const Steps& steps, size_t, size_t) const { return _mm512_packs_epi32(steps.first, steps.second); }
};

// Onto the residual codes of 64 channels from `c` on.
template <typename Output>
class Add {
 public:
  Add(const LayerNormArguments& arguments, size_t c)
      : residual_(static_cast<const Output*>(arguments.residual)),
        rounding_(_mm512_set1_epi32((1 << arguments.fraction_bits) >> 1)),
        fraction_bits_(_mm_cvtsi32_si128(static_cast<int>(arguments.fraction_bits))) {
    const __mmask64 mask = byte_mask(arguments.channels - c);
    for (size_t half = 0; half < 2; ++half) {
      inside_[half] = static_cast<__mmask32>(mask >> 32 * half);
      multiplier_[half] = _mm512_maskz_loadu_epi16(inside_[half], arguments.residual_multiplier + c + 32 * half);
      is_scaled_[half] = _mm512_cmpneq_epi16_mask(multiplier_[half], _mm512_set1_epi16(kUnitResidual));
    }
  }

  // The sums of 32 channels, saturated to int16; `index` of the first one's residual.
  __m512i operator()(const Steps& steps, size_t half, size_t index) const {
    __m512i lifted;
    if constexpr (sizeof(Output) == 2) {
      lifted = _mm512_maskz_loadu_epi16(inside_[half], residual_ + index);
    } else {
      const __m256i codes = _mm256_maskz_loadu_epi8(inside_[half], residual_ + index);
      lifted = _mm512_slli_epi16(_mm512_cvtepi8_epi16(codes), 8);
    }
    const __m512i u = _mm512_mask_mulhrs_epi16(lifted, is_scaled_[half], lifted, multiplier_[half]);
    return _mm512_packs_epi32(rounded(steps.first, widen_first(u)), rounded(steps.second, widen_second(u)));
  }

 private:
  __m512i rounded(__m512i v, __m512i u) const {
    return _mm512_sra_epi32(_mm512_add_epi32(_mm512_add_epi32(v, u), rounding_), fraction_bits_);
  }

  const Output* residual_;
  __m512i rounding_;
  __m128i fraction_bits_;
  __mmask32 inside_[2];
  __m512i multiplier_[2];
  __mmask32 is_scaled_[2];
};

// Stores up to 64 codes of int16 registers that hold 32 each.
template <typename Output>
class Codes {
 public:
  Codes(int32_t qmin, int32_t qmax)
      : low_(sizeof(Output) == 2 ? _mm512_set1_epi16(static_cast<int16_t>(qmin))
                                 : _mm512_set1_epi8(static_cast<int8_t>(qmin))),
        high_(sizeof(Output) == 2 ? _mm512_set1_epi16(static_cast<int16_t>(qmax))
                                  : _mm512_set1_epi8(static_cast<int8_t>(qmax))) {}

  void store(Output* output, __mmask64 mask, __m512i left, __m512i right) const {
    if constexpr (sizeof(Output) == 2) {
      _mm512_mask_storeu_epi16(output, static_cast<__mmask32>(mask), clamp(left));
      _mm512_mask_storeu_epi16(output + 32, static_cast<__mmask32>(mask >> 32), clamp(right));
    } else {
      const __m512i code = from_packed_order(_mm512_packs_epi16(left, right));
      _mm512_mask_storeu_epi8(output, mask, _mm512_min_epi8(_mm512_max_epi8(code, low_), high_));
    }
  }

 private:
  __m512i clamp(__m512i words) const { return _mm512_min_epi16(_mm512_max_epi16(words, low_), high_); }

  __m512i low_;
  __m512i high_;
};

// Some rows at a time: weight and bias are put into their order once for all.
template <typename Code, typename Output, typename Finish>
void normalise_rows(const LayerNormArguments& arguments, Range rows) {
  const size_t channels = arguments.channels;
  const size_t stride = arguments.stride();
  const bool adds = arguments.residual != nullptr;
  using Limits = std::numeric_limits<Output>;
  const Codes<Output> codes(adds ? Limits::min() : arguments.qmin, adds ? Limits::max() : arguments.qmax);
  Output* output = static_cast<Output*>(arguments.output);
  const Code* x = static_cast<const Code*>(arguments.x);
  for (size_t first = rows.begin; first < rows.end; first += kStatisticsRows) {
    const size_t count = std::min(kStatisticsRows, rows.end - first);
    const RowStatistics statistics = statistics_of(arguments, x + first * stride, count);
    for (size_t c = 0; c < channels; c += 64) {
      const Affine affine(arguments, c);
      const Finish finish(arguments, c);
      const __mmask64 mask = byte_mask(channels - c);
      for (size_t i = 0; i < count; ++i) {
        if (statistics.is_flat(i)) continue;
        const Normalise normalise(arguments, statistics, i);
        const size_t index = (first + i) * stride + c;
        const Code* row = x + (first + i) * stride;
        const auto half = [&](size_t j) __attribute__((always_inline)) {
          const __m512i words = load(arguments, row, c + 32 * j);
          return finish(normalise(words, affine.weight + 2 * j, affine.bias + 2 * j), j, index + 32 * j);
        };
        const __m512i left = half(0);
        codes.store(output + index, mask, left, c + 32 < channels ? half(1) : _mm512_setzero_si512());
      }
    }
    for (size_t i = 0; i < count; ++i) {
      if (statistics.is_flat(i)) reference::layer_norm(arguments, {first + i, first + i + 1});
    }
  }
}

template <typename Code, typename Output>
void normalise(const LayerNormArguments& arguments, Range rows) {
  arguments.residual != nullptr ? normalise_rows<Code, Output, Add<Output>>(arguments, rows)
                                : normalise_rows<Code, Output, Saturate>(arguments, rows);
}

}  // namespace

void layer_norm(const LayerNormArguments& arguments, Range rows) {
  if (arguments.wide) {
    arguments.wide_output ? normalise<int16_t, int16_t>(arguments, rows) : normalise<int16_t, int8_t>(arguments, rows);
  } else {
    arguments.wide_output ? normalise<int8_t, int16_t>(arguments, rows) : normalise<int8_t, int8_t>(arguments, rows);
  }
}

}  // namespace packqvit::avx512_vnni
