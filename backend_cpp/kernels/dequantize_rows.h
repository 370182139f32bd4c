// Dequantisation of rows of single values, as a plain loop over channels: each tier compiles it for its ISA, where it
// becomes vectors. With a scale for each of the last axis's channels such rows are what linear layers give out.
#pragma once

#include <algorithm>

#include "kernels/tier.h"

namespace packqvit {
// Static as the functions of scalar.h, for the same reason.

// Whether a code and the zero point differ by an int32, which vectors of every CPU convert to float with one rounding.
template <typename Code>
static bool differs_by_int32(int32_t zero_point) {
  return zero_point == 0 || (sizeof(Code) < 4 && zero_point > -(1 << 30) && zero_point < (1 << 30));
}

template <typename Code, typename Difference>
static void dequantize_each(const Code* x, const float* scale, Difference zero_point, float* output, size_t size) {
  for (size_t i = 0; i < size; ++i) output[i] = static_cast<float>(Difference{x[i]} - zero_point) * scale[i];
}

// Rows of one value, each with the scale of its channel: as many at once as there are until channel 0 comes again.
template <typename Code>
static void dequantize_single_values(const DequantizeArguments& arguments, Range rows) {
  const Code* x = static_cast<const Code*>(arguments.x);
  for (size_t row = rows.begin; row < rows.end;) {
    const size_t channel = row % arguments.channels;
    const size_t size = std::min(arguments.channels - channel, rows.end - row);
    const float* scale = arguments.scale + channel;
    if (differs_by_int32<Code>(arguments.zero_point)) {
      dequantize_each<Code, int32_t>(x + row, scale, arguments.zero_point, arguments.output + row, size);
    } else {
      dequantize_each<Code, int64_t>(x + row, scale, arguments.zero_point, arguments.output + row, size);
    }
    row += size;
  }
}

static inline bool are_single_values(const DequantizeArguments& arguments) {
  return arguments.scale_per_channel && arguments.inner == 1;
}

}  // namespace packqvit
