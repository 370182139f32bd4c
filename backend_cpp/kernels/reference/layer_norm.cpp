#include <algorithm>
#include <limits>

#include "kernels/reference/reference.h"

namespace packqvit::reference {
namespace {

// Codes of a row without a residual, or its sum with one.
template <typename Output>
class Finish {
 public:
  Finish(const LayerNormArguments& arguments, size_t row) : arguments_(arguments) {
    if (arguments.residual != nullptr) {
      residual_ = static_cast<const Output*>(arguments.residual) + row * arguments.channels;
    }
  }

  Output operator()(int32_t steps, size_t c) const {
    if (residual_ == nullptr) return static_cast<Output>(std::clamp(steps, arguments_.qmin, arguments_.qmax));
    const int32_t lifted = residual_[c] * (sizeof(Output) == 1 ? 256 : 1);
    const int32_t sum = steps + scale_residual(lifted, arguments_.residual_multiplier[c]);
    using Limits = std::numeric_limits<Output>;
    return static_cast<Output>(std::clamp<int32_t>(rshr(sum, arguments_.fraction_bits), Limits::min(), Limits::max()));
  }

 private:
  const LayerNormArguments& arguments_;
  const Output* residual_ = nullptr;
};

template <typename Code, typename Output>
void normalise_row(const LayerNormArguments& arguments, size_t row) {
  const size_t channels = arguments.channels;
  const Code* x = static_cast<const Code*>(arguments.x) + row * channels;
  Output* output = static_cast<Output*>(arguments.output) + row * channels;
  const Finish<Output> finish(arguments, row);
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
    output[c] = finish((normalised * arguments.weight[c] + arguments.bias[c]) >> arguments.output_shift, c);
  }
}

}  // namespace

void layer_norm(const LayerNormArguments& arguments, Range rows) {
  const auto normalise =
      arguments.wide ? (arguments.wide_output ? normalise_row<int16_t, int16_t> : normalise_row<int16_t, int8_t>)
                     : (arguments.wide_output ? normalise_row<int8_t, int16_t> : normalise_row<int8_t, int8_t>);
  for (size_t row = rows.begin; row < rows.end; ++row) normalise(arguments, row);
}

}  // namespace packqvit::reference
