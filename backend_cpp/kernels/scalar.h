// The integer arithmetic of docs/numerics.md on single numbers. Every tier's tails and tests agree with these.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace packqvit {
// Functions are static: each file compiles them for its own ISA. With external linkage, and not inlined, as in a debug
// build, the linker would keep one of the copies for all, AVX-512 or not.

// x / 2^shift rounded, ties towards plus infinity: (x + 2^(shift-1)) >> shift without the sum that could overflow.
template <typename T>
static constexpr T rshr(T x, unsigned shift) {
  return shift > 0 ? (x >> shift) + ((x >> (shift - 1)) & 1) : x;
}

// The 16-bit rounding high multiplication, for a and b within int16 and not both -32768.
static constexpr int32_t mulhrs(int32_t a, int32_t b) { return (a * b + (1 << 14)) >> 15; }

static constexpr int32_t sat8(int32_t x) { return std::clamp<int32_t>(x, INT8_MIN, INT8_MAX); }
static constexpr int32_t sat16(int32_t x) { return std::clamp<int32_t>(x, INT16_MIN, INT16_MAX); }

// Number of bits of x: floor(log2 x) + 1, and 0 for 0.
static constexpr unsigned bitlen(uint64_t x) { return x == 0 ? 0 : 64 - static_cast<unsigned>(__builtin_clzll(x)); }

// floor(sqrt(x)) for x < 2^62, exact: the root of the nearest double is off by less than one.
static inline uint64_t isqrt(uint64_t x) {
  uint64_t root = static_cast<uint64_t>(std::sqrt(static_cast<double>(x)));
  root -= root * root > x ? 1 : 0;
  root += (root + 1) * (root + 1) <= x ? 1 : 0;
  return root;
}

// 2^14 * 2^(-f / 2^15) for f in [0, 2^15).
static constexpr int32_t exp2_mantissa(int32_t f) {
  int32_t p = -637;
  p = 3772 + mulhrs(f, p);
  p = -11327 + mulhrs(f, p);
  return 16384 + mulhrs(f, p);
}

// An exponent in octaves with 10 fraction bits, split into the integer part n and the mantissa 2^14 * 2^-fraction.
struct Exp2 {
  int32_t mantissa;
  unsigned n;
};
static constexpr Exp2 split_exp2(int32_t e) { return {exp2_mantissa((e & 1023) << 5), static_cast<unsigned>(e >> 10)}; }

// 2^14 * 2^(-e / 2^10) for e in [0, 32767].
static constexpr int32_t exp2_weight(int32_t e) {
  const Exp2 x = split_exp2(e);
  return x.n <= 15 ? rshr(x.mantissa, x.n) : 0;
}

// log2(sum / 2^14) with 10 fraction bits, for a sum in [2^14, 2^31).
static constexpr int32_t log2_of_sum(uint32_t sum) {
  const int32_t z = static_cast<int32_t>(bitlen(sum)) - 1;
  const int32_t g = static_cast<int32_t>(((sum << (30 - z)) - (uint32_t{1} << 30)) >> 15);
  int32_t l = -2762;
  l = 10605 + mulhrs(g, l);
  l = -22220 + mulhrs(g, l);
  l = 14370 + mulhrs(g, l);
  l = g + mulhrs(g, l);
  return (z - 14) * 1024 + rshr(l, 5);
}

// Requantisation of int32 accumulators, one multiplier and shift per channel. docs/numerics.md, "Requantise".
struct Requantizer {
  const int16_t* multiplier = nullptr;
  const uint8_t* shift = nullptr;
  unsigned fraction_bits = 0;
  int32_t zero_point = 0;
  int32_t qmin = 0;
  int32_t qmax = 0;
  unsigned left_shift = 0;  // |acc| << left_shift fits into int32

  // Output steps with `fraction_bits` fraction bits, before the zero point. An int16 number may be added in int32.
  int32_t scale(int32_t acc, size_t channel) const {
    const int32_t t = rshr(acc * (1 << left_shift), shift[channel]);
    return static_cast<int32_t>(rshr(int64_t{t} * multiplier[channel], 15));
  }
  // Steps with fraction bits to codes: the only place that saturates.
  int32_t round(int32_t steps, int32_t low, int32_t high) const {
    return std::clamp(rshr(steps, fraction_bits), low, high);
  }
  int32_t half() const { return fraction_bits > 0 ? 1 << (fraction_bits - 1) : 0; }
  int32_t operator()(int32_t acc, size_t channel) const {
    return round(scale(acc, channel) + zero_point * (1 << fraction_bits), qmin, qmax);
  }
};

// The residual multiplier that stands for 2^15, which int16 does not have.
constexpr int32_t kUnitResidual = INT16_MAX;

// Lifted residual codes to the steps that the requantiser's scale() gives.
static constexpr int32_t scale_residual(int32_t lifted, int32_t multiplier) {
  return multiplier == kUnitResidual ? lifted : mulhrs(lifted, multiplier);
}

// The exponent, in octaves with 10 fraction bits, of a row's largest linear probability code: 256 * 2^(-6 / 1024)
// rounds to 255.
constexpr int32_t kLargestCodeExponent = 6;

// Divides the sums of values that a row of linear probability codes weighs by the sum of the codes, below 2^23. Results
// have 8 fraction bits and fit into int16 and one bit more. docs/numerics.md, "attention_values".
struct RowDivision {
  int32_t reciprocal = 1 << 14;  // in [2^14, 2^15)
  unsigned shift = 0;

  constexpr RowDivision() = default;
  explicit constexpr RowDivision(uint32_t codes) {
    const uint64_t sum = std::max<uint32_t>(codes, 1);
    const unsigned z = bitlen(sum);
    reciprocal = static_cast<int32_t>(std::min<uint64_t>(((uint64_t{1} << (z + 14)) + sum / 2) / sum, 32767));
    shift = z > 8 ? z - 8 : 0;
  }
  constexpr int32_t operator()(int32_t acc) const { return rshr(rshr(acc, shift) * reciprocal, 14); }
};

// Largest Q with 2 sqrt(channels) on Q fraction bits within int16: |x - mean| / sigma is below sqrt(channels), and what
// the reciprocal, between a half and one, multiplies is up to twice as large.
static constexpr unsigned layer_norm_fraction_bits(size_t channels) { return 14 - (bitlen(channels - 1) + 1) / 2; }

// 1 / sqrt(V) of a LayerNorm row: normalised = mulhrs(deviation((X << 12) - M), reciprocal).
struct InverseDeviation {
  int32_t reciprocal;  // in [2^14, 2^15)
  int32_t shift;       // in [-9, 31], to the right: below 0 only where sigma is about one step of X, or less

  int32_t deviation(int32_t difference) const {
    return sat16(shift >= 0 ? rshr(difference, static_cast<unsigned>(shift)) : difference * (1 << -shift));
  }
};
static inline InverseDeviation inverse_deviation(uint64_t variance, size_t channels) {
  const unsigned a = (62 - bitlen(variance)) / 2;
  const uint64_t h = isqrt(variance << (2 * a));
  const uint64_t q = (uint64_t{channels} << 48) / h;
  int32_t z = static_cast<int32_t>(bitlen(q)) - 15;
  uint64_t r = rshr(q, static_cast<unsigned>(z));
  if (r == uint64_t{1} << 15) {
    r >>= 1;
    z += 1;
  }
  const int32_t fraction_bits = static_cast<int32_t>(layer_norm_fraction_bits(channels));
  return {static_cast<int32_t>(r), std::min(45 - z - static_cast<int32_t>(a) - fraction_bits, 31)};
}

// floor(a / b) for b > 0.
static constexpr int64_t floor_divide(int64_t a, int64_t b) {
  const int64_t quotient = a / b;
  return a % b < 0 ? quotient - 1 : quotient;
}

}  // namespace packqvit
