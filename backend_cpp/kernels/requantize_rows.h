// Requantisation and sums of codes, as plain loops over channels: each tier compiles them for its ISA, where they
// become vectors.
#pragma once

#include <algorithm>
#include <limits>

#include "kernels/tier.h"

namespace packqvit {
// Static as the functions of scalar.h, for the same reason.

// Eight bits: in 16-bit numbers throughout, which docs/numerics.md, "In 16 bits", shows to give the same codes.
template <typename Code>
static void requantize_row(const RequantizeArguments& arguments, const Code* __restrict x, int8_t* __restrict output) {
  const Requantizer& requantizer = arguments.requantizer;
  const int16_t* __restrict multiplier = requantizer.multiplier;
  const uint8_t* __restrict shift = requantizer.shift;
  const int32_t left_shift = static_cast<int32_t>(requantizer.left_shift);
  const int32_t fraction_bits = static_cast<int32_t>(requantizer.fraction_bits);
  const int32_t offset = requantizer.zero_point * (1 << fraction_bits) + requantizer.half();
  const int32_t qmin = requantizer.qmin;
  const int32_t qmax = requantizer.qmax;
  for (size_t c = 0; c < arguments.channels; ++c) {
    const int32_t rounding = (1 << shift[c]) >> 1;
    const int32_t t = (int32_t{x[c]} * (1 << left_shift) + rounding) >> shift[c];  // at most 2^30 + 2^29 before it
    const int32_t v = (std::clamp<int32_t>(t, INT16_MIN, INT16_MAX) * multiplier[c] + (1 << 14)) >> 15;
    output[c] = static_cast<int8_t>(std::clamp((v + offset) >> fraction_bits, qmin, qmax));
  }
}

template <typename Code>
static void requantize_row(const RequantizeArguments& arguments, const Code* __restrict x, int16_t* __restrict output) {
  for (size_t c = 0; c < arguments.channels; ++c) output[c] = static_cast<int16_t>(arguments.requantizer(x[c], c));
}

// The product with the multiplier in 32 bits: docs/numerics.md, "In 16 bits", 3.
template <typename Code, typename Output>
static void add_row(const RequantizeArguments& arguments, const Code* __restrict x, const Output* __restrict residual,
                    Output* __restrict output) {
  const Requantizer& requantizer = arguments.requantizer;
  const int16_t* __restrict multiplier = requantizer.multiplier;
  const uint8_t* __restrict shift = requantizer.shift;
  const int16_t* __restrict residual_multiplier = arguments.residual_multiplier;
  const int32_t left_shift = static_cast<int32_t>(requantizer.left_shift);
  const int32_t fraction_bits = static_cast<int32_t>(requantizer.fraction_bits);
  const int32_t half = requantizer.half();
  constexpr int32_t kLift = sizeof(Output) == 1 ? 1 << 8 : 1;
  for (size_t c = 0; c < arguments.channels; ++c) {
    const int32_t rounding = (1 << shift[c]) >> 1;
    const int32_t t = (int32_t{x[c]} * (1 << left_shift) + rounding) >> shift[c];  // at most 2^30 + 2^29 before it
    const int32_t v = (t >> 15) * multiplier[c] + (((t & 32767) * multiplier[c] + (1 << 14)) >> 15);
    const int32_t u = scale_residual(int32_t{residual[c]} * kLift, residual_multiplier[c]);
    const int32_t code = (u + v + half) >> fraction_bits;
    output[c] = static_cast<Output>(
        std::clamp<int32_t>(code, std::numeric_limits<Output>::min(), std::numeric_limits<Output>::max()));
  }
}

template <typename Code, typename Output>
static void requantize_rows_to(const RequantizeArguments& arguments, Range rows) {
  const Code* x = static_cast<const Code*>(arguments.x);
  const Output* residual = static_cast<const Output*>(arguments.residual);
  Output* output = static_cast<Output*>(arguments.output);
  for (size_t first = rows.begin * arguments.channels; first < rows.end * arguments.channels;
       first += arguments.channels) {
    residual != nullptr ? add_row(arguments, x + first, residual + first, output + first)
                        : requantize_row(arguments, x + first, output + first);
  }
}

static inline void requantize_rows(const RequantizeArguments& arguments, Range rows) {
  if (arguments.wide_input) {
    arguments.wide_output ? requantize_rows_to<int16_t, int16_t>(arguments, rows)
                          : requantize_rows_to<int16_t, int8_t>(arguments, rows);
  } else {
    arguments.wide_output ? requantize_rows_to<int8_t, int16_t>(arguments, rows)
                          : requantize_rows_to<int8_t, int8_t>(arguments, rows);
  }
}

}  // namespace packqvit
