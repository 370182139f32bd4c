#include <algorithm>
#include <limits>

#include "kernels/reference/reference.h"

namespace packqvit::reference {
namespace {

// (x - mean) / sigma times weight, plus bias, onto the residual of a row.
template <typename Output>
Output add(const LayerNormArguments& arguments, int32_t steps, Output residual, size_t c) {
  const int32_t lifted = residual * (sizeof(Output) == 1 ? 256 : 1);
  const int32_t sum = rshr(steps + scale_residual(lifted, arguments.residual_multiplier[c]), arguments.fraction_bits);
  using Limits = std::numeric_limits<Output>;
  return static_cast<Output>(std::clamp<int32_t>(sum, Limits::min(), Limits::max()));
}

template <typename Code, typename Output, bool kAdds>
void normalise_row(const LayerNormArguments& arguments, size_t row) {
  const size_t channels = arguments.channels;
  const Code* x = static_cast<const Code*>(arguments.x) + row * arguments.stride();
  Output* output = static_cast<Output*>(arguments.output) + row * arguments.stride();
  const Output* residual = static_cast<const Output*>(arguments.residual);
  const uint8_t* channel_shift = arguments.channel_shift;
  const auto value = [&](size_t c) { return int32_t{x[c]} * (1 << (channel_shift != nullptr ? channel_shift[c] : 0)); };

  int64_t sum = 0;
  int64_t squares = 0;
  for (size_t c = 0; c < channels; ++c) {
    if (arguments.centred) sum += value(c);
    squares += int64_t{value(c)} * value(c);
  }
  const int64_t count = static_cast<int64_t>(channels);
  const int32_t mean = static_cast<int32_t>(floor_divide(sum * 8192 + count, 2 * count));
  const int64_t variance = std::max<int64_t>(count * squares - sum * sum + arguments.epsilon, 1);
  const InverseDeviation inverse = inverse_deviation(static_cast<uint64_t>(variance), channels);
  for (size_t c = 0; c < channels; ++c) {
    const int32_t normalised = mulhrs(inverse.deviation(value(c) * 4096 - mean), inverse.reciprocal);
    const int32_t steps = (normalised * arguments.weight[c] + arguments.bias[c]) >> arguments.output_shift;
    if constexpr (kAdds) {
      output[c] = add(arguments, steps, residual[row * arguments.stride() + c], c);
    } else {
      output[c] = static_cast<Output>(std::clamp(steps, arguments.qmin, arguments.qmax));
    }
  }
}

template <typename Code, typename Output>
void normalise_rows(const LayerNormArguments& arguments, Range rows) {
  const auto normalise =
      arguments.residual != nullptr ? normalise_row<Code, Output, true> : normalise_row<Code, Output, false>;
  for (size_t row = rows.begin; row < rows.end; ++row) normalise(arguments, row);
}

}  // namespace

void layer_norm(const LayerNormArguments& arguments, Range rows) {
  if (arguments.wide) {
    arguments.wide_output ? normalise_rows<int16_t, int16_t>(arguments, rows)
                          : normalise_rows<int16_t, int8_t>(arguments, rows);
  } else {
    arguments.wide_output ? normalise_rows<int8_t, int16_t>(arguments, rows)
                          : normalise_rows<int8_t, int8_t>(arguments, rows);
  }
}

}  // namespace packqvit::reference
