#include <arm_neon.h>

#include <algorithm>
#include <type_traits>

#include "kernels/neon/neon.h"

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
  int16_t wide_residual[kBlock] = {};
  int8_t narrow_residual[kBlock] = {};
  int16_t residual_multiplier[kBlock] = {};

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

// normalised * weight + bias. What derives from it makes blocks of codes of that.
struct Affine {
  const int16_t* weight;
  const int32_t* bias;
  int16x8_t reciprocal;

  Affine(const LayerNormArguments& arguments, int32_t reciprocal)
      : weight(arguments.weight), bias(arguments.bias), reciprocal(vdupq_n_s16(static_cast<int16_t>(reciprocal))) {}

  void move_to(Tail& tail, size_t, size_t) {
    weight = tail.weight;
    bias = tail.bias;
  }
  int32x4x2_t sums(int16x8_t deviation, size_t c) const {
    const int16x8_t normalised = vqrdmulhq_s16(deviation, reciprocal);
    const int16x8_t factors = vld1q_s16(weight + c);
    return {{vmlal_s16(vld1q_s32(bias + c), vget_low_s16(normalised), vget_low_s16(factors)),
             vmlal_high_s16(vld1q_s32(bias + c + 4), normalised, factors)}};
  }
};

// Codes of 8 bits: (normalised * weight + bias) >> output_shift, saturated to int16. UZP2 takes the upper halves, which
// is >> 16; the rest is a shift behind it, or a saturating one to the left before it.
template <bool kDeep>
struct NarrowCodes : Affine {
  using Code = int8_t;
  static constexpr bool kIsFrequent = true;  // worth code for every form of the deviation
  int32x4_t shift_before;
  int16x8_t shift_behind;
  int8x16_t qmin;
  int8x16_t qmax;

  NarrowCodes(const LayerNormArguments& arguments, size_t, int32_t reciprocal)
      : Affine(arguments, reciprocal),
        shift_before(vdupq_n_s32(16 - static_cast<int32_t>(arguments.output_shift))),
        shift_behind(vdupq_n_s16(static_cast<int16_t>(16 - static_cast<int32_t>(arguments.output_shift)))),
        qmin(vdupq_n_s8(static_cast<int8_t>(arguments.qmin))),
        qmax(vdupq_n_s8(static_cast<int8_t>(arguments.qmax))) {}

  int16x8_t of(int16x8_t deviation, size_t c) const {
    int32x4x2_t sum = sums(deviation, c);
    if constexpr (!kDeep) {
      sum.val[0] = vqshlq_s32(sum.val[0], shift_before);
      sum.val[1] = vqshlq_s32(sum.val[1], shift_before);
    }
    const int16x8_t upper = vuzp2q_s16(vreinterpretq_s16_s32(sum.val[0]), vreinterpretq_s16_s32(sum.val[1]));
    return kDeep ? vshlq_s16(upper, shift_behind) : upper;
  }
  void store(int16x8_t low, int16x8_t high, size_t c, int8_t* output) const {
    const int8x16_t codes = vqmovn_high_s16(vqmovn_s16(of(low, c)), of(high, c + 8));
    vst1q_s8(output, vmaxq_s8(vminq_s8(codes, qmax), qmin));
  }
};

// Codes of 16 bits.
struct WideCodes : Affine {
  using Code = int16_t;
  static constexpr bool kIsFrequent = false;
  int32x4_t shift;
  int16x8_t qmin;
  int16x8_t qmax;

  WideCodes(const LayerNormArguments& arguments, size_t, int32_t reciprocal)
      : Affine(arguments, reciprocal),
        shift(vdupq_n_s32(-static_cast<int32_t>(arguments.output_shift))),
        qmin(vdupq_n_s16(static_cast<int16_t>(arguments.qmin))),
        qmax(vdupq_n_s16(static_cast<int16_t>(arguments.qmax))) {}

  int16x8_t of(int16x8_t deviation, size_t c) const {
    const int32x4x2_t sum = sums(deviation, c);
    const int16x4_t low = vqmovn_s32(vshlq_s32(sum.val[0], shift));
    return vmaxq_s16(vminq_s16(vqmovn_high_s32(low, vshlq_s32(sum.val[1], shift)), qmax), qmin);
  }
  void store(int16x8_t low, int16x8_t high, size_t c, int16_t* output) const {
    vst1q_s16(output, of(low, c));
    vst1q_s16(output + 8, of(high, c + 8));
  }
};

// Sums with the residual.
template <typename Output>
struct Sum : Affine {
  using Code = Output;
  static constexpr bool kIsFrequent = false;
  const Output* residual;
  const int16_t* multiplier;
  int32x4_t shift;
  int32x4_t fraction;

  Sum(const LayerNormArguments& arguments, size_t row, int32_t reciprocal)
      : Affine(arguments, reciprocal),
        residual(static_cast<const Output*>(arguments.residual) + row * arguments.stride()),
        multiplier(arguments.residual_multiplier),
        shift(vdupq_n_s32(-static_cast<int32_t>(arguments.output_shift))),
        fraction(vdupq_n_s32(-static_cast<int32_t>(arguments.fraction_bits))) {}

  void move_to(Tail& tail, size_t begin, size_t end) {
    Affine::move_to(tail, begin, end);
    std::copy(multiplier + begin, multiplier + end, tail.residual_multiplier);
    multiplier = tail.residual_multiplier;
    if constexpr (sizeof(Output) == 2) {
      std::copy(residual + begin, residual + end, tail.wide_residual);
      residual = tail.wide_residual;
    } else {
      std::copy(residual + begin, residual + end, tail.narrow_residual);
      residual = tail.narrow_residual;
    }
  }

  // Sums of eight channels, saturated to int16.
  int16x8_t of(int16x8_t deviation, size_t c) const {
    int16x8_t lifted;
    if constexpr (sizeof(Output) == 2) {
      lifted = vld1q_s16(residual + c);
    } else {
      lifted = vshll_n_s8(vld1_s8(residual + c), 8);
    }
    const int16x8_t factors = vld1q_s16(multiplier + c);
    const uint16x8_t stays = vceqq_s16(factors, vdupq_n_s16(kUnitResidual));
    const int16x8_t u = vbslq_s16(stays, lifted, vqrdmulhq_s16(lifted, factors));
    const int32x4x2_t sum = sums(deviation, c);
    const int32x4_t low = vaddw_s16(vshlq_s32(sum.val[0], shift), vget_low_s16(u));
    const int32x4_t high = vaddw_high_s16(vshlq_s32(sum.val[1], shift), u);
    return vqmovn_high_s32(vqmovn_s32(vrshlq_s32(low, fraction)), vrshlq_s32(high, fraction));
  }
  void store(int16x8_t low, int16x8_t high, size_t c, Output* output) const {
    if constexpr (sizeof(Output) == 2) {
      vst1q_s16(output, of(low, c));
      vst1q_s16(output + 8, of(high, c + 8));
    } else {
      vst1q_s8(output, vqmovn_high_s16(vqmovn_s16(of(low, c)), of(high, c + 8)));
    }
  }
};

template <typename Row, typename Deviations, typename Codes>
inline void normalise_block(const Row& row, size_t c, const Deviations& deviations, const Codes& codes,
                            typename Codes::Code* output) {
  const int16x8x2_t x = row.load(c);
  codes.store(deviations.template of<Row::kSign>(x.val[0]), deviations.template of<Row::kSign>(x.val[1]), c,
              output + c);
}

// By value: stores of int8 may alias what a reference refers to, and constants would be loaded again for every block.
template <typename Row, typename Deviations, typename Codes>
__attribute__((always_inline)) inline void normalise_blocks(Row row, size_t channels, Deviations deviations,
                                                            Codes codes, typename Codes::Code* output) {
  size_t c = 0;
  for (; c + 2 * kBlock <= channels; c += 2 * kBlock) {
    normalise_block(row, c, deviations, codes, output);
    normalise_block(row, c + kBlock, deviations, codes, output);
  }
  if (c < channels) normalise_block(row, c, deviations, codes, output);
}

template <typename Row, typename Deviations, typename Codes>
void normalise(const LayerNormArguments& arguments, const Row& row, const Deviations& deviations, Codes codes,
               typename Codes::Code* output) {
  const size_t channels = arguments.channels;
  const size_t whole = channels / kBlock * kBlock;
  normalise_blocks(row, whole, deviations, codes, output);
  if (whole < channels) {
    Tail tail(arguments, whole);
    codes.move_to(tail, whole, channels);
    typename Codes::Code last[kBlock];
    normalise_blocks(tail.row(row, whole, channels), kBlock, deviations, codes, last);
    std::copy(last, last + channels - whole, output + whole);
  }
}

// Chooses the cheapest deviation that is exact for the row. `smallest`: not above any of its elements.
template <typename Row, typename Codes>
void normalise_by(const LayerNormArguments& arguments, const Row& row, int32_t mean, const InverseDeviation& inverse,
                  int32_t smallest, const Codes& codes, typename Codes::Code* output) {
  const auto by = [&](const auto& deviations) {
    normalise<Row, std::decay_t<decltype(deviations)>, Codes>(arguments, row, deviations, codes, output);
  };
  const int32_t shift = inverse.shift;
  if constexpr (Codes::kIsFrequent) {
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

template <typename Codes, typename Row>
void normalise_row(const LayerNormArguments& arguments, const Row& row, size_t index) {
  const size_t channels = arguments.channels;
  const size_t whole = channels / kBlock * kBlock;
  Statistics statistics = statistics_of(row, channels);
  if (whole < channels) {
    Tail tail(arguments, whole);
    statistics.add(tail.row(row, whole, channels), 0);
  }
  const int64_t count = static_cast<int64_t>(channels);
  const int64_t sum = arguments.centred ? Row::kSign * int64_t{vaddvq_s32(statistics.sums)} : 0;
  const int64_t squares = static_cast<int64_t>(vaddvq_u64(statistics.squares));
  const int32_t mean = static_cast<int32_t>(floor_divide(sum * 8192 + count, 2 * count));
  const int64_t variance = std::max<int64_t>(count * squares - sum * sum + arguments.epsilon, 1);
  const InverseDeviation inverse = inverse_deviation(static_cast<uint64_t>(variance), channels);

  const int32_t smallest = Row::kSign < 0 ? -vmaxvq_s16(statistics.end) : vminvq_s16(statistics.end);
  normalise_by(arguments, row, mean, inverse, smallest, Codes(arguments, index, inverse.reciprocal),
               static_cast<typename Codes::Code*>(arguments.output) + index * arguments.stride());
}

template <typename Codes, typename Row>
void normalise_rows_to(const LayerNormArguments& arguments, Row row, Range rows) {
  const size_t stride = arguments.stride();
  row.x += rows.begin * stride;
  for (size_t i = rows.begin; i < rows.end; ++i, row.x += stride) {
    normalise_row<Codes>(arguments, row, i);
  }
}

template <typename Row>
void normalise_rows(const LayerNormArguments& arguments, Row row, Range rows) {
  if (arguments.residual != nullptr) {
    arguments.wide_output ? normalise_rows_to<Sum<int16_t>>(arguments, row, rows)
                          : normalise_rows_to<Sum<int8_t>>(arguments, row, rows);
  } else if (arguments.wide_output) {
    normalise_rows_to<WideCodes>(arguments, row, rows);
  } else {
    arguments.output_shift >= 16 ? normalise_rows_to<NarrowCodes<true>>(arguments, row, rows)
                                 : normalise_rows_to<NarrowCodes<false>>(arguments, row, rows);
  }
}

}  // namespace

void layer_norm(const LayerNormArguments& arguments, Range rows) {
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
