#include <algorithm>

#include "kernels/reference/reference.h"

namespace packqvit::reference {
namespace {

template <typename Code>
void normalise_row(const LayerNormArguments& arguments, const Code* x, int8_t* output) {
  const size_t channels = arguments.channels;
  const uint8_t* channel_shift = arguments.channel_shift;
  const auto value = [&](size_t c) { return int32_t{x[c]} * (1 << (channel_shift != nullptr ? channel_shift[c] : 0)); };

  int64_t sum = 0;
  int64_t squares = 0;
  for (size_t c = 0; c < channels; ++c) {
    sum += value(c);
    squares += int64_t{value(c)} * value(c);
  }
  const int64_t count = static_cast<int64_t>(channels);
  const int32_t mean = static_cast<int32_t>(floor_divide(sum * 8192 + count, 2 * count));
  const int64_t variance = std::max<int64_t>(count * squares - sum * sum + arguments.epsilon, 1);
  const InverseDeviation inverse = inverse_deviation(static_cast<uint64_t>(variance), channels);
  for (size_t c = 0; c < channels; ++c) {
    const int32_t normalised = mulhrs(inverse.deviation(value(c) * 4096 - mean), inverse.reciprocal);
    const int32_t code = (normalised * arguments.weight[c] + arguments.bias[c]) >> arguments.output_shift;
    output[c] = static_cast<int8_t>(std::clamp(code, arguments.qmin, arguments.qmax));
  }
}

}  // namespace

void layer_norm(const LayerNormArguments& arguments, Range rows) {
  for (size_t row = rows.begin; row < rows.end; ++row) {
    const size_t offset = row * arguments.channels;
    if (arguments.wide) {
      normalise_row(arguments, static_cast<const int16_t*>(arguments.x) + offset, arguments.output + offset);
    } else {
      normalise_row(arguments, static_cast<const int8_t*>(arguments.x) + offset, arguments.output + offset);
    }
  }
}

}  // namespace packqvit::reference
