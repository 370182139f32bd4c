// Microkernels and packing for SDOT, for tile.h.
#pragma once

#include "kernels/neon/tile.h"

namespace packqvit::neon_dotprod {

struct Sdot {
  static constexpr size_t kGroup = 4;  // a lane of 32 bits
  static const neon::TileKernels kernels;

  static void pack_rows(const int8x16_t (&rows)[4], int8x16_t (&packed)[4]) {
    int64x2_t even[2];
    int64x2_t odd[2];
    for (size_t i = 0; i < 2; ++i) {
      const int32x4_t first = vreinterpretq_s32_s8(rows[2 * i]);
      const int32x4_t second = vreinterpretq_s32_s8(rows[2 * i + 1]);
      even[i] = vreinterpretq_s64_s32(vtrn1q_s32(first, second));
      odd[i] = vreinterpretq_s64_s32(vtrn2q_s32(first, second));
    }
    packed[0] = vreinterpretq_s8_s64(vtrn1q_s64(even[0], even[1]));
    packed[1] = vreinterpretq_s8_s64(vtrn1q_s64(odd[0], odd[1]));
    packed[2] = vreinterpretq_s8_s64(vtrn2q_s64(even[0], even[1]));
    packed[3] = vreinterpretq_s8_s64(vtrn2q_s64(odd[0], odd[1]));
  }

  static void pack_columns(const int8x16_t (&rows)[kGroup], int8x16_t (&packed)[kGroup]) {
    const int8x16x2_t first = vzipq_s8(rows[0], rows[1]);
    const int8x16x2_t second = vzipq_s8(rows[2], rows[3]);
    for (size_t i = 0; i < 2; ++i) {
      const int16x8_t low = vreinterpretq_s16_s8(first.val[i]);
      const int16x8_t high = vreinterpretq_s16_s8(second.val[i]);
      packed[2 * i] = vreinterpretq_s8_s16(vzip1q_s16(low, high));
      packed[2 * i + 1] = vreinterpretq_s8_s16(vzip2q_s16(low, high));
    }
  }
};

// With the full tile's microkernel for CPUs that issue in order.
struct SdotInOrder : Sdot {
  static const neon::TileKernels kernels;
};

}  // namespace packqvit::neon_dotprod
