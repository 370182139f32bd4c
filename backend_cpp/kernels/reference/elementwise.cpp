#include <algorithm>

#include "kernels/dequantize_rows.h"
#include "kernels/pool_tokens.h"
#include "kernels/product_rows.h"
#include "kernels/reference/reference.h"
#include "kernels/requantize_rows.h"

namespace packqvit::reference {
namespace {

// The nearest integer, ties to even, for |x| < 2^22: adding 1.5 * 2^23 leaves no fraction bit in the sum.
float round_to_even(float x) {
  constexpr float kMagic = 12582912.0f;
  return (x + kMagic) - kMagic;
}

template <typename Code>
void quantize_row(const QuantizeArguments& arguments, size_t row) {
  const size_t channel = row % arguments.channels;
  const float inverse_scale = arguments.inverse_scale[arguments.scale_per_channel ? channel : 0];
  const float offset = arguments.offset[arguments.offset_per_channel ? channel : 0];
  const float low = static_cast<float>(arguments.qmin);
  const float high = static_cast<float>(arguments.qmax);
  const float* x = arguments.x + row * arguments.inner;
  Code* output = static_cast<Code*>(arguments.output) + row * arguments.inner;
  for (size_t i = 0; i < arguments.inner; ++i) {
    const float scaled = (x[i] - offset) * inverse_scale;
    const float number = scaled == scaled ? scaled : 0.0f;
    // The limits are integers, so that clamping before rounding changes nothing but the range.
    output[i] = static_cast<Code>(round_to_even(std::min(std::max(number, low), high)));
  }
}

template <typename Code, typename Difference>
void dequantize_row(const DequantizeArguments& arguments, size_t row) {
  const float scale = arguments.scale[arguments.scale_per_channel ? row % arguments.channels : 0];
  const Difference zero_point = arguments.zero_point;
  const Code* x = static_cast<const Code*>(arguments.x) + row * arguments.inner;
  float* output = arguments.output + row * arguments.inner;
  for (size_t i = 0; i < arguments.inner; ++i) {
    output[i] = static_cast<float>(Difference{x[i]} - zero_point) * scale;
  }
}

template <typename Code>
void dequantize_rows(const DequantizeArguments& arguments, Range rows) {
  if (are_single_values(arguments)) return dequantize_single_values<Code>(arguments, rows);
  const bool narrow = differs_by_int32<Code>(arguments.zero_point);
  for (size_t row = rows.begin; row < rows.end; ++row) {
    narrow ? dequantize_row<Code, int32_t>(arguments, row) : dequantize_row<Code, int64_t>(arguments, row);
  }
}

}  // namespace

void lookup_table(const int8_t* x, const int8_t* table, int8_t* output, size_t size) {
  for (size_t i = 0; i < size; ++i) output[i] = table[x[i] + 128];
}

void quantize(const QuantizeArguments& arguments, Range rows) {
  for (size_t row = rows.begin; row < rows.end; ++row) {
    arguments.wide ? quantize_row<int16_t>(arguments, row) : quantize_row<int8_t>(arguments, row);
  }
}

void dequantize(const DequantizeArguments& arguments, Range rows) {
  switch (arguments.type) {
    case CodeType::kInt8:
      return dequantize_rows<int8_t>(arguments, rows);
    case CodeType::kInt16:
      return dequantize_rows<int16_t>(arguments, rows);
    case CodeType::kInt32:
      return dequantize_rows<int32_t>(arguments, rows);
  }
}

void pool_tokens(const PoolTokensArguments& arguments, Range channels) { pool_channels(arguments, channels); }

void requantize(const RequantizeArguments& arguments, Range rows) { requantize_rows(arguments, rows); }

void multiply(const MultiplyArguments& arguments, Range rows) { multiply_rows(arguments, rows); }

void rotate(const RotateArguments& arguments, Range rows) { rotate_rows(arguments, rows); }

}  // namespace packqvit::reference
