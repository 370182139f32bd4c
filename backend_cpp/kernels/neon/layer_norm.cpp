#include <arm_neon.h>

#include <algorithm>
#include <type_traits>

#include "kernels/neon/neon.h"
#include "kernels/reference/reference.h"

namespace packqvit::neon {
namespace {

constexpr size_t kBlock = 16;
constexpr size_t kMaxChannels = 4096;

// Blocks of a row as int16, times kSign.
struct WideRow {
  static constexpr int kSign = 1;
  const int16_t* x;

  int16x8x2_t load(size_t c) const { return {{vld1q_s16(x + c), vld1q_s16(x + c + 8)}}; }
};

// x << shift is one multiplication by -2^shift, which fits into int8 for shifts up to 7: these rows are negated.
struct NarrowRow {
  static constexpr int kSign = -1;
  const int8_t* x;
  const int8_t* multiplier;

  int16x8x2_t load(size_t c) const {
    const int8x16_t codes = vld1q_s8(x + c);
    const int8x16_t factors = vld1q_s8(multiplier + c);
    return {{vmull_s8(vget_low_s8(codes), vget_low_s8(factors)), vmull_high_s8(codes, factors)}};
  }
};

// The last channels of a row, filled up with zeros.
struct Tail {
  int16_t wide[kBlock] = {};
  int8_t narrow[kBlock] = {};
  int8_t multiplier[kBlock] = {};
  int16_t weight[kBlock] = {};
  int32_t bias[kBlock] = {};

  Tail(const LayerNormArguments& arguments, size_t begin) {
    std::copy(arguments.weight + begin, arguments.weight + arguments.channels, weight);
    std::copy(arguments.bias + begin, arguments.bias + arguments.channels, bias);
  }
  WideRow row(const WideRow& row, size_t begin, size_t end) {
    std::copy(row.x + begin, row.x + end, wide);
    return {wide};
  }
  NarrowRow row(const NarrowRow& row, size_t begin, size_t end) {
    std::copy(row.x + begin, row.x + end, narrow);
    std::copy(row.multiplier + begin, row.multiplier + end, multiplier);
    return {narrow, multiplier};
  }
};

// Exact sums: of int16 in 32 bits, of squares in 64. And the end of the row at which the deviation is most negative.
struct Statistics {
  int32x4_t sums = vdupq_n_s32(0);
  uint64x2_t squares = vdupq_n_u64(0);
  int16x8_t end = vdupq_n_s16(0);

  template <typename Row>
  void add(const Row& row, size_t c) {
    const int16x8x2_t x = row.load(c);
    sums = vpadalq_s16(vpadalq_s16(sums, x.val[0]), x.val[1]);
    if constexpr (Row::kSign < 0) {
      end = vmaxq_s16(end, vmaxq_s16(x.val[0], x.val[1]));
      add_squares(square(square(vdupq_n_s32(0), x.val[0]), x.val[1]));  // 4 x 2^28
    } else {
      end = vminq_s16(end, vminq_s16(x.val[0], x.val[1]));
      add_squares(square(vdupq_n_s32(0), x.val[0]));  // 2 x 2^30, unsigned
      add_squares(square(vdupq_n_s32(0), x.val[1]));
    }
  }

 private:
  static int32x4_t square(int32x4_t sum, int16x8_t x) {
    return vmlal_high_s16(vmlal_s16(sum, vget_low_s16(x), vget_low_s16(x)), x, x);
  }
  void add_squares(int32x4_t x) { squares = vpadalq_u32(squares, vreinterpretq_u32_s32(x)); }
};

// sat16(rshr((X << 12) - mean, shift)) of any row, a negative shift included. The rows of a model are all taken by the
// cheaper forms below.
struct Deviation {
  int32x4_t mean;
  int32x4_t shift;

  Deviation(int32_t mean, int32_t shift) : mean(vdupq_n_s32(mean)), shift(vdupq_n_s32(-shift)) {}

  template <int kSign>
  int16x8_t of(int16x8_t x) const {
    if constexpr (kSign < 0) x = vnegq_s16(x);  // negated rows hold no -32768
    const int16x4_t low = narrow(vshll_n_s16(vget_low_s16(x), 12));
    return vcombine_s16(low, narrow(vshll_n_s16(vget_high_s16(x), 12)));
  }

 private:
  int16x4_t narrow(int32x4_t x) const { return vqmovn_s32(vrshlq_s32(vsubq_s32(x, mean), shift)); }
};

// The same in 16 bits for shifts from 0 to 12. As X << 12 has no bits below the rounding then, the deviation is
// (X << k) + rshr(-mean, shift) with k = 12 - shift, and with that constant split at bit k, ((X + high) << k) + low.
// All of it saturates. Where the shift does so below zero, `low` must not lift the result again: rows that reach so far
// down (kMasked) take two instructions more.
template <bool kMasked>
struct NarrowDeviation {
  int16x8_t high;
  int16x8_t low;
  int16x8_t k;
  int16x8_t least;  // the smallest number that (<< k) does not saturate

  NarrowDeviation(int32_t mean, int32_t shift)
      : high(vdupq_n_s16(static_cast<int16_t>(high_part(mean, shift)))),
        low(vdupq_n_s16(static_cast<int16_t>(rshr(-mean, static_cast<unsigned>(shift)) & ((1 << (12 - shift)) - 1)))),
        k(vdupq_n_s16(static_cast<int16_t>(12 - shift))),
        least(vdupq_n_s16(static_cast<int16_t>(-(1 << (shift + 3))))) {}

  template <int kSign>
  int16x8_t of(int16x8_t x) const {
    const int16x8_t y = kSign < 0 ? vqsubq_s16(high, x) : vqaddq_s16(x, high);
    const int16x8_t fraction = kMasked ? vandq_s16(low, vreinterpretq_s16_u16(vcgeq_s16(y, least))) : low;
    return vqaddq_s16(vqshlq_s16(y, k), fraction);
  }

  static int32_t high_part(int32_t mean, int32_t shift) {
    return rshr(-mean, static_cast<unsigned>(shift)) >> (12 - shift);
  }
};

// And for shift > 12: (X + term) >> (shift - 12) with term = (2^(shift - 1) - mean) >> 12, which SHADD begins.
struct HalvedDeviation {
  int16x8_t term;
  int16x8_t rest;

  HalvedDeviation(int32_t mean, int32_t shift)
      : term(vdupq_n_s16(static_cast<int16_t>(full_term(mean, shift)))),
        rest(vdupq_n_s16(static_cast<int16_t>(13 - shift))) {}

  template <int kSign>
  int16x8_t of(int16x8_t x) const {
    return vshlq_s16(kSign < 0 ? vhsubq_s16(term, x) : vhaddq_s16(x, term), rest);
  }

  static int64_t full_term(int32_t mean, int32_t shift) { return ((int64_t{1} << (shift - 1)) - mean) >> 12; }
};

// (normalised * weight + bias) >> output_shift, saturated to int16. UZP2 takes the upper halves, which is >> 16; the
// rest is a shift behind it, or a saturating one to the left before it.
template <bool kDeep>
struct Affine {
  const int16_t* weight;
  const int32_t* bias;
  int16x8_t reciprocal;
  int32x4_t shift_before;
  int16x8_t shift_behind;
  int8x16_t qmin;
  int8x16_t qmax;

  Affine(const LayerNormArguments& arguments, int32_t reciprocal)
      : weight(arguments.weight),
        bias(arguments.bias),
        reciprocal(vdupq_n_s16(static_cast<int16_t>(reciprocal))),
        shift_before(vdupq_n_s32(16 - static_cast<int32_t>(arguments.output_shift))),
        shift_behind(vdupq_n_s16(static_cast<int16_t>(16 - static_cast<int32_t>(arguments.output_shift)))),
        qmin(vdupq_n_s8(static_cast<int8_t>(arguments.qmin))),
        qmax(vdupq_n_s8(static_cast<int8_t>(arguments.qmax))) {}

  int16x8_t of(int16x8_t deviation, size_t c) const {
    const int16x8_t normalised = vqrdmulhq_s16(deviation, reciprocal);
    const int16x8_t factors = vld1q_s16(weight + c);
    int32x4_t low = vmlal_s16(vld1q_s32(bias + c), vget_low_s16(normalised), vget_low_s16(factors));
    int32x4_t high = vmlal_high_s16(vld1q_s32(bias + c + 4), normalised, factors);
    if constexpr (!kDeep) {
      low = vqshlq_s32(low, shift_before);
      high = vqshlq_s32(high, shift_before);
    }
    const int16x8_t upper = vuzp2q_s16(vreinterpretq_s16_s32(low), vreinterpretq_s16_s32(high));
    return kDeep ? vshlq_s16(upper, shift_behind) : upper;
  }
  int8x16_t codes(int16x8_t low, int16x8_t high) const {
    return vmaxq_s8(vminq_s8(vqmovn_high_s16(vqmovn_s16(low), high), qmax), qmin);
  }
};

template <typename Row, typename Deviations, bool kDeep>
inline int8x16_t normalise_block(const Row& row, size_t c, const Deviations& deviations, const Affine<kDeep>& affine) {
  const int16x8x2_t x = row.load(c);
  return affine.codes(affine.of(deviations.template of<Row::kSign>(x.val[0]), c),
                      affine.of(deviations.template of<Row::kSign>(x.val[1]), c + 8));
}

// By value: stores of int8 may alias what a reference refers to, and constants would be loaded again for every block.
template <typename Row, typename Deviations, bool kDeep>
__attribute__((always_inline)) inline void normalise_blocks(Row row, size_t channels, Deviations deviations,
                                                            Affine<kDeep> affine, int8_t* output) {
  size_t c = 0;
  for (; c + 2 * kBlock <= channels; c += 2 * kBlock) {
    vst1q_s8(output + c, normalise_block(row, c, deviations, affine));
    vst1q_s8(output + c + kBlock, normalise_block(row, c + kBlock, deviations, affine));
  }
  if (c < channels) vst1q_s8(output + c, normalise_block(row, c, deviations, affine));
}

template <typename Row, typename Deviations, bool kDeep>
void normalise(const LayerNormArguments& arguments, const Row& row, const Deviations& deviations, int32_t reciprocal,
               int8_t* output) {
  const size_t channels = arguments.channels;
  const size_t whole = channels / kBlock * kBlock;
  Affine<kDeep> affine(arguments, reciprocal);
  normalise_blocks(row, whole, deviations, affine, output);
  if (whole < channels) {
    Tail tail(arguments, whole);
    affine.weight = tail.weight;
    affine.bias = tail.bias;
    int8_t codes[kBlock];
    normalise_blocks(tail.row(row, whole, channels), kBlock, deviations, affine, codes);
    std::copy(codes, codes + channels - whole, output + whole);
  }
}

// Chooses the cheapest deviation that is exact for the row. `smallest`: not above any of its elements.
template <typename Row, bool kDeep>
void normalise_by(const LayerNormArguments& arguments, const Row& row, int32_t mean, const InverseDeviation& inverse,
                  int32_t smallest, int8_t* output) {
  const auto by = [&](const auto& deviations) {
    normalise<Row, std::decay_t<decltype(deviations)>, kDeep>(arguments, row, deviations, inverse.reciprocal, output);
  };
  const int32_t shift = inverse.shift;
  if (shift > 12) {
    const int64_t term = HalvedDeviation::full_term(mean, shift);
    if (term == static_cast<int16_t>(term)) return by(HalvedDeviation(mean, shift));
  } else if (shift >= 0) {
    const int32_t high = NarrowDeviation<true>::high_part(mean, shift);
    if (high <= INT16_MAX) {
      if (smallest + high < -(1 << (shift + 3))) return by(NarrowDeviation<true>(mean, shift));
      return by(NarrowDeviation<false>(mean, shift));
    }
  }
  by(Deviation(mean, shift));
}

template <typename Row>
__attribute__((always_inline)) inline Statistics statistics_of(const Row& row, size_t channels) {
  const size_t whole = channels / kBlock * kBlock;
  Statistics statistics;
  size_t c = 0;
  for (; c + 2 * kBlock <= channels; c += 2 * kBlock) {
    statistics.add(row, c);
    statistics.add(row, c + kBlock);
  }
  if (c < whole) statistics.add(row, c);
  return statistics;
}

template <typename Row, bool kDeep>
void normalise_row(const LayerNormArguments& arguments, const Row& row, int8_t* output) {
  const size_t channels = arguments.channels;
  const size_t whole = channels / kBlock * kBlock;
  Statistics statistics = statistics_of(row, channels);
  if (whole < channels) {
    Tail tail(arguments, whole);
    statistics.add(tail.row(row, whole, channels), 0);
  }
  const int64_t count = static_cast<int64_t>(channels);
  const int64_t sum = Row::kSign * int64_t{vaddvq_s32(statistics.sums)};
  const int64_t squares = static_cast<int64_t>(vaddvq_u64(statistics.squares));
  const int32_t mean = static_cast<int32_t>(floor_divide(sum * 8192 + count, 2 * count));
  const int64_t variance = std::max<int64_t>(count * squares - sum * sum + arguments.epsilon, 1);
  const InverseDeviation inverse = inverse_deviation(static_cast<uint64_t>(variance), channels);

  normalise_by<Row, kDeep>(arguments, row, mean, inverse,
                           Row::kSign < 0 ? -vmaxvq_s16(statistics.end) : vminvq_s16(statistics.end), output);
}

template <typename Row>
void normalise_rows(const LayerNormArguments& arguments, Row row, Range rows) {
  row.x += rows.begin * arguments.channels;
  int8_t* output = static_cast<int8_t*>(arguments.output) + rows.begin * arguments.channels;
  for (size_t i = rows.begin; i < rows.end; ++i, row.x += arguments.channels, output += arguments.channels) {
    arguments.output_shift >= 16 ? normalise_row<Row, true>(arguments, row, output)
                                 : normalise_row<Row, false>(arguments, row, output);
  }
}

}  // namespace

void layer_norm(const LayerNormArguments& arguments, Range rows) {
  if (arguments.wide_output || arguments.residual != nullptr) return reference::layer_norm(arguments, rows);
  if (arguments.wide) {
    normalise_rows(arguments, WideRow{static_cast<const int16_t*>(arguments.x)}, rows);
    return;
  }
  int8_t multiplier[kMaxChannels];
  for (size_t c = 0; c < arguments.channels; ++c) {
    multiplier[c] = static_cast<int8_t>(-(1 << (arguments.channel_shift != nullptr ? arguments.channel_shift[c] : 0)));
  }
  normalise_rows(arguments, NarrowRow{static_cast<const int8_t*>(arguments.x), multiplier}, rows);
}

}  // namespace packqvit::neon
