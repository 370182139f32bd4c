// Requantisation of 8 accumulators (docs/numerics.md, "Requantise") in vectors.
#pragma once

#include <arm_neon.h>

#include "kernels/scalar.h"

namespace packqvit::neon {

// The part of a requantizer that all channels share.
struct RequantizeCommon {
  int32x4_t left_shift;
  int16x8_t offset;  // zero point and rounding
  int16x8_t right_shift;
  int16x8_t low;
  int16x8_t high;
};

static inline RequantizeCommon requantize_common(const Requantizer& requantizer) {
  const int fraction_bits = static_cast<int>(requantizer.fraction_bits);
  return {vdupq_n_s32(static_cast<int32_t>(requantizer.left_shift)),
          vdupq_n_s16(static_cast<int16_t>(requantizer.zero_point * (1 << fraction_bits) + requantizer.half())),
          vdupq_n_s16(static_cast<int16_t>(-fraction_bits)), vdupq_n_s16(static_cast<int16_t>(requantizer.qmin)),
          vdupq_n_s16(static_cast<int16_t>(requantizer.qmax))};
}

// Multipliers and shifts of 8 channels. As acc << left_shift fits into int32, one SRSHL by the difference does both.
struct RequantizeChannels {
  int32x4_t shift[2];
  int16x8_t multiplier;
};

static inline RequantizeChannels requantize_channels(const RequantizeCommon& common, const Requantizer& requantizer,
                                                     size_t channel) {
  const int16x8_t shift = vreinterpretq_s16_u16(vmovl_u8(vld1_u8(requantizer.shift + channel)));
  return {{vsubw_s16(common.left_shift, vget_low_s16(shift)), vsubw_s16(common.left_shift, vget_high_s16(shift))},
          vld1q_s16(requantizer.multiplier + channel)};
}

// Output steps with fraction bits, for codes of 8 bits: docs/numerics.md, "In 16 bits".
static inline int16x8_t requantize_scale(const RequantizeChannels& channels, int32x4_t low, int32x4_t high) {
  const int16x4_t narrow = vqmovn_s32(vrshlq_s32(low, channels.shift[0]));
  const int16x8_t t = vqmovn_high_s32(narrow, vrshlq_s32(high, channels.shift[1]));
  return vqrdmulhq_s16(t, channels.multiplier);
}

static inline int16x8_t requantize_codes(const RequantizeCommon& common, const RequantizeChannels& channels,
                                         int32x4_t low, int32x4_t high) {
  const int16x8_t v = vqaddq_s16(requantize_scale(channels, low, high), common.offset);
  return vmaxq_s16(vminq_s16(vshlq_s16(v, common.right_shift), common.high), common.low);
}

// Codes of 8 or 16 bits: nothing saturates before the last step.
static inline int16x8_t requantize_wide_codes(const RequantizeCommon& common, const RequantizeChannels& channels,
                                              int32x4_t low, int32x4_t high) {
  const int16x8_t zero = vdupq_n_s16(0);
  const int32x4_t multiplier[2] = {vreinterpretq_s32_s16(vzip1q_s16(zero, channels.multiplier)),
                                   vreinterpretq_s32_s16(vzip2q_s16(zero, channels.multiplier))};
  low = vqrdmulhq_s32(vrshlq_s32(low, channels.shift[0]), multiplier[0]);
  high = vqrdmulhq_s32(vrshlq_s32(high, channels.shift[1]), multiplier[1]);
  low = vshlq_s32(vaddw_s16(low, vget_low_s16(common.offset)), vmovl_s16(vget_low_s16(common.right_shift)));
  high = vshlq_s32(vaddw_high_s16(high, common.offset), vmovl_high_s16(common.right_shift));
  const int16x8_t codes = vqmovn_high_s32(vqmovn_s32(low), high);
  return vmaxq_s16(vminq_s16(codes, common.high), common.low);
}

}  // namespace packqvit::neon
