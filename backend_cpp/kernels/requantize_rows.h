// Requantisation and sums of codes, as plain loops over channels: each tier compiles them for its ISA, where they
// become vectors.
#pragma once

#include <algorithm>
#include <limits>

#include "kernels/tier.h"

namespace packqvit {
// Static as the functions of scalar.h, for the same reason.

template <typename Output>
class RequantizeCode;

// Eight bits: in 16-bit numbers throughout, which docs/numerics.md, "In 16 bits", shows to give the same codes.
template <>
class RequantizeCode<int8_t> {
 public:
  explicit RequantizeCode(const Requantizer& requantizer)
      : multiplier_(requantizer.multiplier),
        shift_(requantizer.shift),
        left_shift_(static_cast<int32_t>(requantizer.left_shift)),
        fraction_bits_(static_cast<int32_t>(requantizer.fraction_bits)),
        offset_(requantizer.zero_point * (1 << requantizer.fraction_bits) + requantizer.half()),
        qmin_(requantizer.qmin),
        qmax_(requantizer.qmax) {}

  // Of |x| <= 2^15, in channel c.
  int8_t operator()(int32_t x, size_t c) const {
    const int32_t rounding = (1 << shift_[c]) >> 1;
    const int32_t t = (x * (1 << left_shift_) + rounding) >> shift_[c];  // at most 2^30 + 2^29 before it
    const int32_t v = (std::clamp<int32_t>(t, INT16_MIN, INT16_MAX) * multiplier_[c] + (1 << 14)) >> 15;
    return static_cast<int8_t>(std::clamp((v + offset_) >> fraction_bits_, qmin_, qmax_));
  }

 private:
  const int16_t* __restrict multiplier_;
  const uint8_t* __restrict shift_;
  int32_t left_shift_;
  int32_t fraction_bits_;
  int32_t offset_;
  int32_t qmin_;
  int32_t qmax_;
};

template <>
class RequantizeCode<int16_t> {
 public:
  explicit RequantizeCode(const Requantizer& requantizer) : requantizer_(requantizer) {}
  int16_t operator()(int32_t x, size_t c) const { return static_cast<int16_t>(requantizer_(x, c)); }

 private:
  const Requantizer& requantizer_;
};

template <typename Code, typename Output>
static void requantize_row(const RequantizeArguments& arguments, const Code* __restrict x, Output* __restrict output) {
  const RequantizeCode<Output> requantize(arguments.requantizer);
  for (size_t c = 0; c < arguments.channels; ++c) output[c] = requantize(x[c], c);
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
