// Pooling of tokens, as plain loops over channels: each tier compiles them for its ISA, where they become vectors.
#pragma once

#include <algorithm>

#include "kernels/tier.h"

namespace packqvit {
// Static as the functions of scalar.h, for the same reason.

constexpr size_t kPooledChannels = 64;  // at a time, so that what they add up to stays in the first-level cache

template <typename Code, bool kLargest>
static void reduce_tokens(const PoolTokensArguments& arguments, size_t first, size_t count,
                          int32_t* __restrict pooled) {
  const Code* __restrict x = static_cast<const Code*>(arguments.x) + first;
  for (size_t c = 0; c < count; ++c) pooled[c] = x[c];
  for (size_t n = 1; n < arguments.tokens; ++n) {
    x += arguments.channels;
    for (size_t c = 0; c < count; ++c) {
      pooled[c] = kLargest ? std::max<int32_t>(pooled[c], x[c]) : pooled[c] + x[c];
    }
  }
}

template <typename Code>
static void reduce_tokens(const PoolTokensArguments& arguments, size_t first, size_t count, int32_t* pooled) {
  arguments.pooling == Pooling::kMaximum ? reduce_tokens<Code, true>(arguments, first, count, pooled)
                                         : reduce_tokens<Code, false>(arguments, first, count, pooled);
}

static inline void pool_channels(const PoolTokensArguments& arguments, Range channels) {
  int32_t pooled[kPooledChannels];
  for (size_t first = channels.begin; first < channels.end; first += kPooledChannels) {
    const size_t count = std::min(kPooledChannels, channels.end - first);
    arguments.wide_input ? reduce_tokens<int16_t>(arguments, first, count, pooled)
                         : reduce_tokens<int8_t>(arguments, first, count, pooled);
    for (size_t i = 0; i < count; ++i) {
      const size_t c = first + i;
      const int32_t code = arguments.requantizer(arguments.bias[c] + pooled[i], c);
      if (arguments.wide_output) {
        static_cast<int16_t*>(arguments.output)[c] = static_cast<int16_t>(code);
      } else {
        static_cast<int8_t*>(arguments.output)[c] = static_cast<int8_t>(code);
      }
    }
  }
}

}  // namespace packqvit
