// docs/numerics.md once more, in the plainest way: 64-bit integers, one number at a time, nothing shared with kernels/.
#pragma once

#include <cstdint>
#include <vector>

namespace packqvit::naive {

inline int64_t clamp(int64_t x, int64_t low, int64_t high) { return x < low ? low : (x > high ? high : x); }
inline int64_t sat8(int64_t x) { return clamp(x, -128, 127); }
inline int64_t sat16(int64_t x) { return clamp(x, -32768, 32767); }
inline int64_t rshr(int64_t x, int64_t s) { return s > 0 ? (x + (int64_t{1} << (s - 1))) >> s : x; }
inline int64_t mulhrs(int64_t a, int64_t b) { return (a * b + (1 << 14)) >> 15; }
inline int64_t bitlen(uint64_t x) {
  int64_t bits = 0;
  for (; x > 0; x /= 2) ++bits;
  return bits;
}

// Steps with fraction bits, added to a residual code.
inline int64_t onto_residual(int64_t v, int64_t code, int64_t multiplier, int64_t fraction_bits, bool wide) {
  const int64_t lifted = wide ? code : code * 256;
  const int64_t u = multiplier < 32767 ? mulhrs(lifted, multiplier) : lifted;
  const int64_t w = rshr(u + v, fraction_bits);
  return wide ? sat16(w) : sat8(w);
}

struct Requantizer {
  std::vector<int16_t> multiplier;
  std::vector<uint8_t> shift;
  int64_t fraction_bits = 0;
  int64_t zero_point = 0;
  int64_t qmin = -128;
  int64_t qmax = 127;
  int64_t left_shift = 0;

  int64_t v(int64_t acc, size_t c) const {
    return rshr(rshr(acc * (int64_t{1} << left_shift), shift[c]) * multiplier[c], 15);
  }
  int64_t requantize(int64_t acc, size_t c) const {
    return clamp(rshr(v(acc, c) + zero_point * (int64_t{1} << fraction_bits), fraction_bits), qmin, qmax);
  }
  int64_t add_residual(int64_t acc, size_t c, int64_t code, int64_t residual_multiplier, bool wide) const {
    return onto_residual(v(acc, c), code, residual_multiplier, fraction_bits, wide);
  }
  int64_t add_position(int64_t acc, size_t c, int64_t position, bool wide) const {
    const int64_t w = rshr(position + v(acc, c), fraction_bits);
    return wide ? sat16(w) : sat8(w);
  }
};

struct Softmax {
  int64_t multiplier;
  int64_t shift;
  bool log2;

  static int64_t polynomial(int64_t e) {
    const int64_t f = (e & 1023) << 5;
    int64_t p = -637;
    p = 3772 + mulhrs(f, p);
    p = -11327 + mulhrs(f, p);
    return 16384 + mulhrs(f, p);
  }

  std::vector<int64_t> row(const std::vector<int64_t>& x) const {
    int64_t maximum = x[0];
    for (const int64_t number : x) maximum = number > maximum ? number : maximum;
    std::vector<int64_t> e;
    int64_t sum = 0;
    for (const int64_t number : x) {
      const int64_t d = maximum - number;
      const int64_t t = clamp(shift >= 0 ? rshr(d, shift) : d * (int64_t{1} << -shift), 0, 32767);
      e.push_back(mulhrs(t, multiplier));
      if (!log2) continue;
      const int64_t n = e.back() >> 10;
      sum += n <= 15 ? rshr(polynomial(e.back()), n) : 0;
    }
    if (!log2) {
      std::vector<int64_t> codes;
      for (const int64_t octaves : e) {
        const int64_t exponent = clamp(octaves + 6, 0, 32767);
        const int64_t n = exponent >> 10;
        codes.push_back(n + 6 <= 15 ? rshr(polynomial(exponent), n + 6) : 0);
      }
      return codes;
    }
    const int64_t z = bitlen(static_cast<uint64_t>(sum)) - 1;
    const int64_t g = ((sum << (30 - z)) - (int64_t{1} << 30)) >> 15;
    int64_t l = -2762;
    l = 10605 + mulhrs(g, l);
    l = -22220 + mulhrs(g, l);
    l = 14370 + mulhrs(g, l);
    l = g + mulhrs(g, l);
    const int64_t normaliser = ((z - 14) << 10) + rshr(l, 5);
    std::vector<int64_t> codes;
    for (const int64_t octaves : e) codes.push_back(clamp((octaves + normaliser + 512) >> 10, -1000, 15));
    return codes;
  }
};

// sum_j p[j] v[j] as the requantiser takes it: of linear codes divided by sum_j p[j], with 8 fraction bits.
inline int64_t weighted_sum(const std::vector<int64_t>& p, const std::vector<int64_t>& v, bool log2) {
  int64_t acc = 0;
  int64_t sum = 0;
  for (size_t j = 0; j < p.size(); ++j) {
    acc += log2 ? (p[j] < 15 ? v[j] * (1 << (14 - p[j])) : 0) : p[j] * v[j];
    sum += p[j];
  }
  if (log2) return acc;
  if (sum == 0) sum = 1;
  const int64_t z = bitlen(static_cast<uint64_t>(sum));
  const int64_t reciprocal = clamp(((int64_t{1} << (z + 14)) + sum / 2) / sum, 0, 32767);
  return rshr(rshr(acc, z - 8) * reciprocal, 14);
}

struct LayerNorm {
  std::vector<uint8_t> channel_shift;  // empty: zero
  std::vector<int16_t> weight;
  std::vector<int32_t> bias;
  int64_t epsilon = 0;
  int64_t output_shift = 1;
  int64_t qmin = -128;
  int64_t qmax = 127;
  bool centred = true;

  static uint64_t isqrt(uint64_t x) {
    uint64_t low = 0;
    uint64_t high = uint64_t{1} << 32;
    while (high - low > 1) {
      const uint64_t middle = (low + high) / 2;
      (middle * middle <= x ? low : high) = middle;
    }
    return low;
  }

  static int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

  std::vector<int64_t> row(const std::vector<int64_t>& x) const {
    std::vector<int64_t> codes = steps(x);
    for (int64_t& code : codes) code = clamp(code, qmin, qmax);
    return codes;
  }

  // Before the clamp.
  std::vector<int64_t> steps(const std::vector<int64_t>& x) const {
    const int64_t channels = static_cast<int64_t>(x.size());
    std::vector<int64_t> shifted;
    int64_t s1 = 0;
    int64_t s2 = 0;
    for (size_t c = 0; c < x.size(); ++c) {
      shifted.push_back(x[c] * (int64_t{1} << (channel_shift.empty() ? 0 : channel_shift[c])));
      if (centred) s1 += shifted[c];
      s2 += shifted[c] * shifted[c];
    }
    const int64_t bits = channels > 1 ? bitlen(static_cast<uint64_t>(channels - 1)) : 0;
    const int64_t q_bits = 14 - (bits + 1) / 2;
    const int64_t mean = floor_div(s1 * 8192 + channels, 2 * channels);
    int64_t variance = channels * s2 - s1 * s1 + epsilon;
    if (variance < 1) variance = 1;
    int64_t a = 0;
    while ((static_cast<uint64_t>(variance) << (2 * a)) < (uint64_t{1} << 60)) ++a;
    const uint64_t h = isqrt(static_cast<uint64_t>(variance) << (2 * a));
    const int64_t q = static_cast<int64_t>((static_cast<uint64_t>(channels) << 48) / h);
    int64_t z = bitlen(static_cast<uint64_t>(q)) - 15;
    int64_t r = rshr(q, z);
    if (r == 1 << 15) {
      r = 1 << 14;
      z += 1;
    }
    const int64_t s = clamp(45 - z - a - q_bits, -64, 31);
    std::vector<int64_t> result;
    for (size_t c = 0; c < x.size(); ++c) {
      const int64_t difference = shifted[c] * 4096 - mean;
      const int64_t n = mulhrs(sat16(s >= 0 ? rshr(difference, s) : difference * (int64_t{1} << -s)), r);
      result.push_back((n * weight[c] + bias[c]) >> output_shift);
    }
    return result;
  }
};

}  // namespace packqvit::naive
