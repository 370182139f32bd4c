#include "kernels/neon/requantize.h"

#include "kernels/neon/neon.h"

namespace packqvit::neon {

void divide_row(const RowDivision& division, size_t columns, int32_t* sums) {
  const int32x4_t shift = vdupq_n_s32(-static_cast<int32_t>(division.shift));
  for (size_t c = 0; c < columns; c += 4) {
    const int32x4_t shifted = vrshlq_s32(vld1q_s32(sums + c), shift);
    vst1q_s32(sums + c, vrshrq_n_s32(vmulq_n_s32(shifted, division.reciprocal), 14));
  }
}

void requantize_rows(const int32_t* sums, size_t stride, size_t rows, size_t columns, const Requantizer& requantizer,
                     size_t channel, int8_t* output, size_t output_stride) {
  const RequantizeCommon common = requantize_common(requantizer);
  size_t c = 0;
  for (; c + 8 <= columns; c += 8) {
    const RequantizeChannels channels = requantize_channels(common, requantizer, channel + c);
    for (size_t i = 0; i < rows; ++i) {
      const int32_t* x = sums + i * stride + c;
      vst1_s8(output + i * output_stride + c,
              vmovn_s16(requantize_codes(common, channels, vld1q_s32(x), vld1q_s32(x + 4))));
    }
  }
  for (; c < columns; ++c) {
    for (size_t i = 0; i < rows; ++i) {
      output[i * output_stride + c] = static_cast<int8_t>(requantizer(sums[i * stride + c], channel + c));
    }
  }
}

}  // namespace packqvit::neon
