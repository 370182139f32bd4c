#pragma once

#include <algorithm>

#include "kernels/reference/reference.h"
#include "kernels/ymm/vector.h"

namespace packqvit::PACKQVIT_ISA {

// 16 channels as int16: X of docs/numerics.md; zero beyond the row.
template <typename Code>
__m256i load_channels(const LayerNormArguments& arguments, const Code* x, size_t c) {
  const size_t count = arguments.channels - c;
  if constexpr (sizeof(Code) == 2) {
    return load_words(x + c, count);
  } else {
    const __m256i codes = _mm256_cvtepi8_epi16(load_bytes(x + c, count));
    if (arguments.channel_shift == nullptr) return codes;
    const __m128i shift = load_bytes(reinterpret_cast<const int8_t*>(arguments.channel_shift) + c, count);
    const __m128i powers = _mm_setr_epi8(1, 2, 4, 8, 16, 32, 64, -128, 0, 0, 0, 0, 0, 0, 0, 0);
    return _mm256_mullo_epi16(codes, _mm256_cvtepu8_epi16(_mm_shuffle_epi8(powers, shift)));
  }
}

// 16 codes of the residual in the steps of what they are added to; zero beyond the row.
template <typename Output>
__m256i load_residual(const LayerNormArguments& arguments, const Output* residual, size_t c) {
  const size_t count = arguments.channels - c;
  __m256i lifted;
  if constexpr (sizeof(Output) == 2) {
    lifted = load_words(residual + c, count);
  } else {
    lifted = _mm256_slli_epi16(_mm256_cvtepi8_epi16(load_bytes(residual + c, count)), 8);
  }
  const __m256i multiplier = load_words(arguments.residual_multiplier + c, count);
  const __m256i is_unit = _mm256_cmpeq_epi16(multiplier, _mm256_set1_epi16(kUnitResidual));
  return _mm256_blendv_epi8(_mm256_mulhrs_epi16(lifted, multiplier), lifted, is_unit);
}

// False, and nothing is written, for a row that hardly varies: the reference shifts its deviations to the left.
template <typename Code, typename Output, bool kAdds>
bool normalise_row(const LayerNormArguments& arguments, size_t row) {
  const size_t channels = arguments.channels;
  const Code* x = static_cast<const Code*>(arguments.x) + row * arguments.stride();
  Output* output = static_cast<Output*>(arguments.output) + row * arguments.stride();
  __m256i sums = _mm256_setzero_si256();
  __m256i squares = _mm256_setzero_si256();
  for (size_t c = 0; c < channels; c += 16) {
    const __m256i codes = load_channels(arguments, x, c);
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(codes, _mm256_set1_epi16(1)));
    const __m256i pairs = _mm256_madd_epi16(codes, codes);  // up to 2^31: unsigned from here on
    squares = _mm256_add_epi64(squares, _mm256_and_si256(pairs, _mm256_set1_epi64x(0xFFFFFFFF)));
    squares = _mm256_add_epi64(squares, _mm256_srli_epi64(pairs, 32));
  }
  int64_t square_lanes[4];
  store(square_lanes, squares);
  const int64_t sum = arguments.centred ? sum_of(sums) : 0;
  const int64_t count = static_cast<int64_t>(channels);
  const int64_t square_sum = square_lanes[0] + square_lanes[1] + square_lanes[2] + square_lanes[3];
  const int32_t mean = static_cast<int32_t>(floor_divide(sum * 8192 + count, 2 * count));
  const int64_t variance = std::max<int64_t>(count * square_sum - sum * sum + arguments.epsilon, 1);
  const InverseDeviation inverse = inverse_deviation(static_cast<uint64_t>(variance), channels);
  if (inverse.shift < 0) return false;

  // rshr(X 2^12 - M, s) = (X 2^12 - M + 2^(s-1)) >> s: within int32, because |X 2^12 - M| < 2^29 and s <= 30.
  const __m256i start = _mm256_set1_epi32((inverse.shift > 0 ? 1 << (inverse.shift - 1) : 0) - mean);
  const __m128i shift = _mm_cvtsi32_si128(static_cast<int>(inverse.shift));
  const __m256i reciprocal = _mm256_set1_epi16(static_cast<int16_t>(inverse.reciprocal));
  const __m128i output_shift = _mm_cvtsi32_si128(static_cast<int>(arguments.output_shift));
  const __m256i low = _mm256_set1_epi32(arguments.qmin);
  const __m256i high = _mm256_set1_epi32(arguments.qmax);
  const __m256i rounding = _mm256_set1_epi32((1 << arguments.fraction_bits) >> 1);
  const __m128i fraction_bits = _mm_cvtsi32_si128(static_cast<int>(arguments.fraction_bits));
  for (size_t c = 0; c < channels; c += 16) {
    const size_t left = channels - c;
    const __m256i codes = load_channels(arguments, x, c);
    const __m128i half[2] = {_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1)};
    __m256i t[2];
    for (size_t i = 0; i < 2; ++i) {
      const __m256i deviation = _mm256_add_epi32(_mm256_slli_epi32(_mm256_cvtepi16_epi32(half[i]), 12), start);
      t[i] = _mm256_sra_epi32(deviation, shift);
    }
    const __m256i normalised = _mm256_mulhrs_epi16(to_words(t[0], t[1]), reciprocal);
    const __m256i weight = load_words(arguments.weight + c, left);
    int32_t bias[16] = {};
    std::memcpy(bias, arguments.bias + c, std::min<size_t>(left, 16) * sizeof(int32_t));
    __m256i residual = _mm256_setzero_si256();
    if constexpr (kAdds) {
      residual = load_residual(arguments, static_cast<const Output*>(arguments.residual) + row * arguments.stride(), c);
    }
    __m256i y[2];
    for (int i = 0; i < 2; ++i) {
      const __m128i n = i == 0 ? _mm256_castsi256_si128(normalised) : _mm256_extracti128_si256(normalised, 1);
      const __m128i w = i == 0 ? _mm256_castsi256_si128(weight) : _mm256_extracti128_si256(weight, 1);
      const __m256i product = _mm256_mullo_epi32(_mm256_cvtepi16_epi32(n), _mm256_cvtepi16_epi32(w));
      const __m256i scaled = _mm256_sra_epi32(_mm256_add_epi32(product, load(bias + 8 * i)), output_shift);
      if constexpr (kAdds) {
        const __m128i u = i == 0 ? _mm256_castsi256_si128(residual) : _mm256_extracti128_si256(residual, 1);
        const __m256i sum = _mm256_add_epi32(scaled, _mm256_cvtepi16_epi32(u));
        y[i] = _mm256_sra_epi32(_mm256_add_epi32(sum, rounding), fraction_bits);
      } else {
        y[i] = _mm256_min_epi32(_mm256_max_epi32(scaled, low), high);
      }
    }
    const __m256i words = to_words(y[0], y[1]);
    if constexpr (sizeof(Output) == 2) {
      store_words(output + c, left, words);
    } else {
      store_bytes(output + c, left, to_bytes(words));
    }
  }
  return true;
}

template <typename Code, typename Output>
void normalise_rows(const LayerNormArguments& arguments, Range rows) {
  const auto normalise =
      arguments.residual != nullptr ? normalise_row<Code, Output, true> : normalise_row<Code, Output, false>;
  for (size_t row = rows.begin; row < rows.end; ++row) {
    if (!normalise(arguments, row)) reference::layer_norm(arguments, {row, row + 1});
  }
}

inline void layer_norm_rows(const LayerNormArguments& arguments, Range rows) {
  if (arguments.wide) {
    arguments.wide_output ? normalise_rows<int16_t, int16_t>(arguments, rows)
                          : normalise_rows<int16_t, int8_t>(arguments, rows);
  } else {
    arguments.wide_output ? normalise_rows<int8_t, int16_t>(arguments, rows)
                          : normalise_rows<int8_t, int8_t>(arguments, rows);
  }
}

}  // namespace packqvit::PACKQVIT_ISA
