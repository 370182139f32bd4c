#pragma once

#include "kernels/ymm/vector.h"

namespace packqvit::PACKQVIT_ISA {

template <typename Code>
void quantize_row(const QuantizeArguments& arguments, size_t row) {
  const size_t channel = row % arguments.channels;
  const __m256 inverse_scale = _mm256_set1_ps(arguments.inverse_scale[arguments.scale_per_channel ? channel : 0]);
  const __m256 offset = _mm256_set1_ps(arguments.offset[arguments.offset_per_channel ? channel : 0]);
  const __m256 low = _mm256_set1_ps(static_cast<float>(arguments.qmin));
  const __m256 high = _mm256_set1_ps(static_cast<float>(arguments.qmax));
  const auto quantize = [&](const float* x) {
    const __m256 scaled = _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(x), offset), inverse_scale);
    const __m256 number = _mm256_and_ps(scaled, _mm256_cmp_ps(scaled, scaled, _CMP_ORD_Q));
    // The limits are integers, so that clamping before rounding changes nothing but the range.
    return _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(number, low), high));
  };
  const float* x = arguments.x + row * arguments.inner;
  Code* output = static_cast<Code*>(arguments.output) + row * arguments.inner;
  for (size_t i = 0; i < arguments.inner; i += 16) {
    const size_t count = std::min<size_t>(16, arguments.inner - i);
    float last[16] = {};
    const float* from = x + i;
    if (count < 16) {
      std::memcpy(last, from, count * sizeof(float));
      from = last;
    }
    const __m256i codes = to_words(quantize(from), quantize(from + 8));
    if constexpr (sizeof(Code) == 1) {
      store_bytes(output + i, count, to_bytes(codes));
    } else {
      store_words(output + i, count, codes);
    }
  }
}

inline void quantize_rows(const QuantizeArguments& arguments, Range rows) {
  for (size_t row = rows.begin; row < rows.end; ++row) {
    arguments.wide ? quantize_row<int16_t>(arguments, row) : quantize_row<int8_t>(arguments, row);
  }
}

}  // namespace packqvit::PACKQVIT_ISA
