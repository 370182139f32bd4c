#include <arm_neon.h>

#include <algorithm>

#include "kernels/neon/neon.h"

namespace packqvit::neon {
namespace {

// Octaves below the maximum of 8 scores, 10 fraction bits.
class Octaves {
 public:
  Octaves(int32_t maximum, const SoftmaxParameters& parameters)
      : maximum_(vdupq_n_s32(maximum)),
        shift_(vdupq_n_s32(-parameters.shift)),
        limit_(vdupq_n_s32(parameters.shift >= 0 ? INT32_MAX : 32768 >> -parameters.shift)),
        multiplier_(static_cast<int16_t>(parameters.multiplier)) {}

  template <bool kLeft>
  int16x8_t of(const int32_t* x) const {
    const int16x4_t low = distance<kLeft>(x);
    return vqrdmulhq_n_s16(vcombine_s16(low, distance<kLeft>(x + 4)), multiplier_);
  }

 private:
  // SRSHL rounds without an intermediate overflow; SQXTN is the minimum with 32767. SQSUB, not SUB: in the lanes behind
  // a row's end, whose results nobody reads, anything can stand.
  template <bool kLeft>
  int16x4_t distance(const int32_t* x) const {
    int32x4_t d = vqsubq_s32(maximum_, vld1q_s32(x));
    if constexpr (kLeft) d = vminq_s32(d, limit_);
    return vqmovn_s32(vrshlq_s32(d, shift_));
  }

  int32x4_t maximum_;
  int32x4_t shift_;
  int32x4_t limit_;
  int16_t multiplier_;
};

inline int16x8_t exp2_mantissas(int16x8_t e) {
  const int16x8_t f = vandq_s16(vshlq_n_s16(e, 5), vdupq_n_s16(32767));
  int16x8_t p = vaddq_s16(vdupq_n_s16(3772), vqrdmulhq_n_s16(f, -637));
  p = vaddq_s16(vdupq_n_s16(-11327), vqrdmulhq_s16(f, p));
  return vaddq_s16(vdupq_n_s16(16384), vqrdmulhq_s16(f, p));
}

// SRSHL by more than 15 is zero, as the definition wants it: mantissas are at most 2^14.
inline int16x8_t exp2_weights(int16x8_t e) { return vrshlq_s16(exp2_mantissas(e), vnegq_s16(vshrq_n_s16(e, 10))); }

// 32767 where a block of 16 has no column.
inline const int16_t* padding_mask(size_t columns_in_block) {
  constexpr int16_t kNone = 0;
  constexpr int16_t kPad = 32767;
  static constexpr int16_t kMask[32] = {kNone, kNone, kNone, kNone, kNone, kNone, kNone, kNone, kNone, kNone, kNone,
                                        kNone, kNone, kNone, kNone, kNone, kPad,  kPad,  kPad,  kPad,  kPad,  kPad,
                                        kPad,  kPad,  kPad,  kPad,  kPad,  kPad,  kPad,  kPad,  kPad,  kPad};
  return kMask + kCodeBlock - columns_in_block;
}

// Octaves of a row; returns the sum of their weights. `last` is where the last block begins; its padding counts
// nothing.
template <bool kLeft>
uint32_t octaves_of_row(const Octaves& octaves, const int32_t* x, size_t last, size_t columns, int16_t* e) {
  int32x4_t sum = vdupq_n_s32(0);
  const auto add = [&](size_t j, int16x8_t octave) {
    vst1q_s16(e + j, octave);
    sum = vpadalq_s16(sum, exp2_weights(octave));
  };
  for (size_t j = 0; j < last; j += 8) add(j, octaves.of<kLeft>(x + j));
  const int16_t* mask = padding_mask(columns - last);
  for (size_t j = last; j < last + kCodeBlock; j += 8) {
    add(j, vmaxq_s16(octaves.of<kLeft>(x + j), vld1q_s16(mask + j - last)));
  }
  return vaddvq_u32(vreinterpretq_u32_s32(sum));
}

// e + normaliser + 512 is below 2^16.
void log2_codes(const int16_t* e, int32_t normaliser, size_t size, uint8_t* codes) {
  const uint16x8_t offset = vdupq_n_u16(static_cast<uint16_t>(normaliser + 512));
  const auto octaves = [&](size_t j) { return vaddq_u16(vreinterpretq_u16_s16(vld1q_s16(e + j)), offset); };
  for (size_t j = 0; j < size; j += kCodeBlock) {
    const uint8x16_t x = vshrn_high_n_u16(vshrn_n_u16(octaves(j), 8), octaves(j + 8), 8);
    vst1q_u8(codes + j, vminq_u8(vshrq_n_u8(x, 2), vdupq_n_u8(15)));
  }
}

// The same columns straight to linear codes; returns their sum.
template <bool kLeft>
uint32_t linear_codes_of_row(const Octaves& octaves, const int32_t* x, size_t last, size_t columns, uint8_t* codes) {
  const int16x8_t offset = vdupq_n_s16(kLargestCodeExponent);
  const auto code = [&](int16x8_t octave) {
    const int16x8_t exponent = vqaddq_s16(octave, offset);
    const int16x8_t shift = vsubq_s16(vdupq_n_s16(-6), vshrq_n_s16(exponent, 10));
    return vqmovun_s16(vrshlq_s16(exp2_mantissas(exponent), shift));
  };
  uint32x4_t sum = vdupq_n_u32(0);
  const auto add = [&](size_t j, uint8x8_t low, uint8x8_t high) {
    const uint8x16_t block = vcombine_u8(low, high);
    vst1q_u8(codes + j, block);
    sum = vpadalq_u16(sum, vpaddlq_u8(block));
  };
  for (size_t j = 0; j < last; j += kCodeBlock) {
    add(j, code(octaves.of<kLeft>(x + j)), code(octaves.of<kLeft>(x + j + 8)));
  }
  const int16_t* mask = padding_mask(columns - last);
  const auto last_code = [&](size_t j) {
    return code(vmaxq_s16(octaves.of<kLeft>(x + last + j), vld1q_s16(mask + j)));
  };
  add(last, last_code(0), columns - last > 8 ? last_code(8) : vdup_n_u8(0));
  return vaddvq_u32(sum);
}

int32_t maximum_of(const int32_t* x, size_t columns) {
  if (columns < kCodeBlock) return *std::max_element(x, x + columns);
  int32x4_t maxima[4] = {vld1q_s32(x), vld1q_s32(x + 4), vld1q_s32(x + 8), vld1q_s32(x + 12)};
  const auto add_block = [&](size_t j) {
    for (size_t i = 0; i < 4; ++i) maxima[i] = vmaxq_s32(maxima[i], vld1q_s32(x + j + 4 * i));
  };
  for (size_t j = kCodeBlock; j + kCodeBlock <= columns; j += kCodeBlock) add_block(j);
  add_block(columns - kCodeBlock);
  return vmaxvq_s32(vmaxq_s32(vmaxq_s32(maxima[0], maxima[1]), vmaxq_s32(maxima[2], maxima[3])));
}

// x += bias; returns the largest sum. Sums beyond the contract wrap around. sums_of(j): of four columns from j on.
template <typename Sums>
int32_t store_sums(int32_t* x, size_t columns, const Sums& sums_of) {
  // The last columns overlap others, whose sums are stored twice: they are read before that.
  const int32x4_t last = sums_of(columns - 4);
  int32x4_t maxima[4] = {last, last, last, last};
  const auto store = [&](size_t j, int32x4_t& largest) {
    const int32x4_t sums = sums_of(j);
    vst1q_s32(x + j, sums);
    largest = vmaxq_s32(largest, sums);
  };
  size_t j = 0;
  for (; j + kCodeBlock <= columns; j += kCodeBlock) {
    for (size_t i = 0; i < 4; ++i) store(j + 4 * i, maxima[i]);
  }
  for (; j + 4 <= columns; j += 4) store(j, maxima[0]);
  vst1q_s32(x + columns - 4, last);
  return vmaxvq_s32(vmaxq_s32(vmaxq_s32(maxima[0], maxima[1]), vmaxq_s32(maxima[2], maxima[3])));
}

int32_t add_bias(int32_t* x, const ScoreBias& bias, size_t columns) {
  if (columns < 4) {
    for (size_t j = 0; j < columns; ++j) {
      x[j] = static_cast<int32_t>(static_cast<uint32_t>(x[j]) + static_cast<uint32_t>(bias[j]));
    }
    return *std::max_element(x, x + columns);
  }
  if (const int32_t* wide = bias.wide) {
    return store_sums(x, columns, [=](size_t j) { return vaddq_s32(vld1q_s32(x + j), vld1q_s32(wide + j)); });
  }
  // Shifts are at most 14: the power is within int16.
  const int16_t* narrow = bias.narrow;
  const int16_t power = static_cast<int16_t>(1 << bias.shift);
  return store_sums(x, columns, [=](size_t j) { return vmlal_n_s16(vld1q_s32(x + j), vld1_s16(narrow + j), power); });
}

}  // namespace

uint32_t softmax_row(const SoftmaxParameters& parameters, int32_t* scores, const ScoreBias& bias, size_t columns,
                     uint8_t* codes, int16_t* octaves) {
  const size_t padded = round_up(columns, kCodeBlock);
  const size_t last = padded - kCodeBlock;
  const int32_t maximum = bias ? add_bias(scores, bias, columns) : maximum_of(scores, columns);
  const Octaves below(maximum, parameters);
  const bool left = parameters.shift < 0;
  if (parameters.format == Probabilities::kLinear) {
    return left ? linear_codes_of_row<true>(below, scores, last, columns, codes)
                : linear_codes_of_row<false>(below, scores, last, columns, codes);
  }
  const uint32_t sum = left ? octaves_of_row<true>(below, scores, last, columns, octaves)
                            : octaves_of_row<false>(below, scores, last, columns, octaves);
  log2_codes(octaves, log2_of_sum(sum), padded, codes);
  return 0;
}

// A row of scores, of octaves and of codes.
size_t softmax_scratch(size_t columns) {
  return round_up(columns, kCodeBlock) * (sizeof(int32_t) + sizeof(int16_t) + sizeof(uint8_t));
}

void softmax(const SoftmaxArguments& arguments, Range rows, void* scratch) {
  const size_t columns = arguments.columns;
  const size_t padded = round_up(columns, kCodeBlock);
  int32_t* scores = static_cast<int32_t*>(scratch);
  int16_t* octaves = reinterpret_cast<int16_t*>(scores + padded);
  uint8_t* codes = reinterpret_cast<uint8_t*>(octaves + padded);
  for (size_t row = rows.begin; row < rows.end; ++row) {
    const ScoreBias bias = softmax_bias(arguments.softmax, row / arguments.rows_per_head, row % arguments.rows_per_head,
                                        arguments.rows_per_head, columns);
    std::copy_n(arguments.x + row * columns, columns, scores);
    softmax_row(arguments.softmax, scores, bias, columns, codes, octaves);
    std::copy_n(codes, columns, arguments.output + row * columns);
  }
}

}  // namespace packqvit::neon
