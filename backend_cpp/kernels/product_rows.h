// Products of two activations, and rotary positions, as plain loops over channels: each tier compiles them for its ISA,
// where they become vectors. docs/numerics.md, "multiply" and "rotate".
#pragma once

#include <algorithm>

#include "kernels/requantize_rows.h"
#include "kernels/tier.h"

namespace packqvit {
// Static as the functions of scalar.h, for the same reason.

template <typename X, typename Y, typename Output>
static void multiply_rows_of(const MultiplyArguments& arguments, Range rows) {
  const size_t channels = arguments.channels;
  const int32_t x_zero_point = arguments.x_zero_point;
  const int32_t y_zero_point = arguments.y_zero_point;
  const unsigned shift = arguments.product_shift;
  const int32_t half = (1 << shift) >> 1;
  const RequantizeCode<Output> requantize(arguments.requantizer);
  for (size_t row = rows.begin; row < rows.end; ++row) {
    const X* __restrict x = static_cast<const X*>(arguments.x) + row * channels;
    const Y* __restrict y = static_cast<const Y*>(arguments.y) + row * channels;
    Output* __restrict output = static_cast<Output*>(arguments.output) + row * channels;
    for (size_t c = 0; c < channels; ++c) {
      const int32_t product = (x[c] - x_zero_point) * (y[c] - y_zero_point);
      output[c] = requantize(std::clamp((product + half) >> shift, INT16_MIN, INT16_MAX), c);
    }
  }
}

template <typename X, typename Y>
static void multiply_rows_of(const MultiplyArguments& arguments, Range rows) {
  arguments.wide_output ? multiply_rows_of<X, Y, int16_t>(arguments, rows)
                        : multiply_rows_of<X, Y, int8_t>(arguments, rows);
}

static inline void multiply_rows(const MultiplyArguments& arguments, Range rows) {
  if (arguments.wide_x) {
    arguments.wide_y ? multiply_rows_of<int16_t, int16_t>(arguments, rows)
                     : multiply_rows_of<int16_t, int8_t>(arguments, rows);
  } else {
    arguments.wide_y ? multiply_rows_of<int8_t, int16_t>(arguments, rows)
                     : multiply_rows_of<int8_t, int8_t>(arguments, rows);
  }
}

// A head whose first channel is `first` of the row. The two usual orders of partners have loops that become vectors.
static inline void rotate_head(const RotateArguments& arguments, const RequantizeCode<int8_t>& requantize, size_t first,
                               const int16_t* __restrict x, const int16_t* __restrict cosine,
                               const int16_t* __restrict sine, int8_t* __restrict output) {
  const size_t size = arguments.head_size;
  const auto code = [&](size_t c, size_t partner) {
    const int32_t sum = int32_t{x[c]} * cosine[c] + int32_t{x[partner]} * sine[c];
    return requantize((sum + (1 << 15)) >> 16, first + c);
  };
  if (arguments.order == Partners::kHalves) {
    const size_t half = size / 2;
    for (size_t c = 0; c < half; ++c) output[c] = code(c, c + half);
    for (size_t c = half; c < size; ++c) output[c] = code(c, c - half);
  } else if (arguments.order == Partners::kNeighbours) {
    for (size_t c = 0; c < size; c += 2) {
      output[c] = code(c, c + 1);
      output[c + 1] = code(c + 1, c);
    }
  } else {
    for (size_t c = 0; c < size; ++c) output[c] = code(c, arguments.partner[c]);
  }
}

static inline void rotate_rows(const RotateArguments& arguments, Range rows) {
  const size_t channels = arguments.channels;
  const RequantizeCode<int8_t> requantize(arguments.requantizer);
  for (size_t row = rows.begin; row < rows.end; ++row) {
    const size_t factors = row % arguments.tokens * arguments.factors;
    for (size_t first = 0; first < channels; first += arguments.head_size) {
      const size_t factor = factors + first % arguments.factors;
      const size_t index = row * channels + first;
      rotate_head(arguments, requantize, first, arguments.x + index, arguments.cosine + factor, arguments.sine + factor,
                  arguments.output + index);
    }
  }
}

}  // namespace packqvit
