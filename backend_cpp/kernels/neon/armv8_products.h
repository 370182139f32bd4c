// The two products of attention without dot product instructions: int16 operands, SMLAL by element.
//
// 8-bit operands would need a SADALP behind every two SMLALs and do not take log2 weights, which are up to 2^14. Both
// products share one microkernel: rows [k] of the left operand, panels [k][16] of the right one.
#pragma once

#include <cstdint>

#include "kernels/tier.h"

namespace packqvit::neon {

struct ArmV8Products {
  static constexpr size_t kQueries = 16;
  static constexpr size_t kKeys = 16;
  static constexpr size_t kChannels = 16;

  static size_t keys_bytes(const AttentionShape& shape);
  static size_t values_bytes(const AttentionShape& shape, Probabilities format);
  static size_t rows_bytes(const AttentionShape& shape, Probabilities format);

  static void pack_keys(const int8_t* k, size_t stride, const AttentionShape& shape, void* packed);
  static void pack_values(const int8_t* v, size_t stride, const AttentionShape& shape, Probabilities format,
                          void* packed);
  static void scores(const int8_t* q, size_t stride, size_t count, const AttentionShape& shape, const void* packed_keys,
                     void* rows, int32_t* output, size_t output_stride);
  static void values(const uint8_t* codes, size_t stride, size_t count, const AttentionShape& shape,
                     Probabilities format, const void* packed_values, void* rows, int32_t* output,
                     size_t output_stride);
};

}  // namespace packqvit::neon
