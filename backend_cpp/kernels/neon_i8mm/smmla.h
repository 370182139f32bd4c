// Microkernels and packing for SMMLA, for tile.h.
#pragma once

#include "kernels/neon/tile.h"

namespace packqvit::neon_i8mm {

struct Smmla {
  static constexpr size_t kGroup = 8;  // half a vector
  static const neon::TileKernels kernels;

  static void pack_rows(const int8x16_t (&rows)[4], int8x16_t (&packed)[4]) {
    for (size_t i = 0; i < 2; ++i) {
      const int64x2_t first = vreinterpretq_s64_s8(rows[2 * i]);
      const int64x2_t second = vreinterpretq_s64_s8(rows[2 * i + 1]);
      packed[i] = vreinterpretq_s8_s64(vzip1q_s64(first, second));
      packed[i + 2] = vreinterpretq_s8_s64(vzip2q_s64(first, second));
    }
  }

  static void pack_columns(const int8x16_t (&rows)[kGroup], int8x16_t (&packed)[kGroup]) {
    int8x16x2_t pairs[4];  // of rows, for the lower and the upper eight columns
    for (size_t i = 0; i < 4; ++i) pairs[i] = vzipq_s8(rows[2 * i], rows[2 * i + 1]);
    for (size_t half = 0; half < 2; ++half) {
      int16x8x2_t fours[2];  // of rows, for four columns each
      for (size_t i = 0; i < 2; ++i) {
        fours[i] =
            vzipq_s16(vreinterpretq_s16_s8(pairs[2 * i].val[half]), vreinterpretq_s16_s8(pairs[2 * i + 1].val[half]));
      }
      for (size_t i = 0; i < 2; ++i) {
        const int32x4_t low = vreinterpretq_s32_s16(fours[0].val[i]);
        const int32x4_t high = vreinterpretq_s32_s16(fours[1].val[i]);
        packed[4 * half + 2 * i] = vreinterpretq_s8_s32(vzip1q_s32(low, high));
        packed[4 * half + 2 * i + 1] = vreinterpretq_s8_s32(vzip2q_s32(low, high));
      }
    }
  }
};

}  // namespace packqvit::neon_i8mm
