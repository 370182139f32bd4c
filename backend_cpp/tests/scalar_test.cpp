#include "kernels/scalar.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/support/random.h"

namespace packqvit {
namespace {

const std::vector<int64_t> kInt32Ends = {INT32_MIN, INT32_MIN + 1, -(1 << 30), -32769, -32768, -3, -2, -1, 0, 1, 2,
                                         3,         32767,         32768,      1 << 30};

TEST(Scalar, RoundingShiftIsExactAtTheEnds) {
  for (const int64_t x : kInt32Ends) {
    for (unsigned s = 0; s <= 31; ++s) {
      EXPECT_EQ(rshr(static_cast<int32_t>(x), s), naive::rshr(x, s)) << x << " >> " << s;
    }
  }
  for (unsigned s = 0; s <= 31; ++s) EXPECT_EQ(rshr(INT32_MAX, s), naive::rshr(INT32_MAX, s));
  for (unsigned s = 0; s <= 31; ++s) EXPECT_EQ(rshr(UINT32_MAX, s), naive::rshr(UINT32_MAX, s));
}

TEST(Scalar, RoundingShiftSendsTiesUp) {
  EXPECT_EQ(rshr(3, 1), 2);
  EXPECT_EQ(rshr(-3, 1), -1);
  EXPECT_EQ(rshr(-2, 2), 0);
  EXPECT_EQ(rshr(-6, 2), -1);
}

TEST(Scalar, HighMultiplicationCoversInt16) {
  for (int64_t a = -32768; a <= 32767; a += 97) {
    for (const int64_t b : {-32767, -16384, -1, 0, 1, 16384, 32767}) {
      EXPECT_EQ(mulhrs(static_cast<int32_t>(a), static_cast<int32_t>(b)), naive::mulhrs(a, b));
    }
  }
  EXPECT_EQ(mulhrs(-32768, 32767), -32767);
  EXPECT_EQ(mulhrs(32767, 32767), 32766);
}

TEST(Scalar, Saturation) {
  EXPECT_EQ(sat8(-129), -128);
  EXPECT_EQ(sat8(128), 127);
  EXPECT_EQ(sat16(-32769), -32768);
  EXPECT_EQ(sat16(32768), 32767);
  EXPECT_EQ(sat16(-32768), -32768);
}

TEST(Scalar, BitLength) {
  EXPECT_EQ(bitlen(0), 0u);
  for (unsigned bits = 1; bits <= 64; ++bits) {
    EXPECT_EQ(bitlen(uint64_t{1} << (bits - 1)), bits);
    EXPECT_EQ(bitlen(~uint64_t{0} >> (64 - bits)), bits);
  }
}

TEST(Scalar, SquareRootIsExact) {
  for (uint64_t x = 0; x < 70000; ++x) EXPECT_EQ(isqrt(x), naive::LayerNorm::isqrt(x));
  Random random(1);
  for (int i = 0; i < 100000; ++i) {
    const uint64_t root = static_cast<uint64_t>(random.uniform(1 << 15, (int64_t{1} << 31) - 1));
    EXPECT_EQ(isqrt(root * root), root);
    EXPECT_EQ(isqrt(root * root - 1), root - 1);
    EXPECT_EQ(isqrt(root * root + 2 * root), root);
  }
  EXPECT_EQ(isqrt((uint64_t{1} << 62) - 1), (uint64_t{1} << 31) - 1);
}

TEST(Scalar, Exp2IsAccurateAndMonotone) {
  int32_t previous = INT32_MAX;
  for (int32_t e = 0; e <= 32767; ++e) {
    const Exp2 x = split_exp2(e);
    const double exact = 16384 * std::exp2(-(e & 1023) / 1024.0);
    EXPECT_NEAR(x.mantissa, exact, exact * 1.9e-4);
    const int32_t weight = exp2_weight(e);
    EXPECT_LE(weight, previous);
    previous = weight;
  }
  EXPECT_EQ(exp2_weight(0), 16384);
  EXPECT_EQ(exp2_weight(16 << 10), 0);
}

TEST(Scalar, Log2IsAccurate) {
  for (uint64_t sum = 1 << 14; sum < uint64_t{1} << 31; sum += 1 + sum / 977) {
    EXPECT_NEAR(log2_of_sum(static_cast<uint32_t>(sum)) / 1024.0, std::log2(static_cast<double>(sum)) - 14,
                2.4e-4 + 0.5 / 1024 + 1e-9);
  }
  EXPECT_EQ(log2_of_sum(1 << 14), 0);
  EXPECT_EQ(log2_of_sum(1 << 30), 16 << 10);
}

TEST(Scalar, RequantizerAgreesWithTheFormula) {
  Random random(2);
  for (int64_t fraction_bits = 0; fraction_bits <= 6; ++fraction_bits) {
    for (int i = 0; i < 2000; ++i) {
      const naive::Requantizer plain = random.requantizer(1, random.uniform(8, 31), fraction_bits);
      const PaddedRequantizer padded(plain);
      for (const int64_t acc : kInt32Ends) {
        EXPECT_EQ(padded.view(static_cast<int32_t>(acc), 0), plain.requantize(acc, 0)) << acc;
      }
      const int64_t acc = random.uniform(-(1 << 30), 1 << 30);
      EXPECT_EQ(padded.view(static_cast<int32_t>(acc), 0), plain.requantize(acc, 0)) << acc;
    }
    for (int64_t left_shift = 0; left_shift <= 15; ++left_shift) {
      naive::Requantizer plain = random.requantizer(1, 30, fraction_bits);
      plain.left_shift = left_shift;
      const PaddedRequantizer padded(plain);
      for (const int64_t sign : {-1, 1}) {
        const int64_t acc = sign * (int64_t{1} << (30 - left_shift));
        EXPECT_EQ(padded.view(static_cast<int32_t>(acc), 0), plain.requantize(acc, 0)) << acc;
      }
    }
  }
}

TEST(Scalar, RequantizerStaysWithinItsErrorBound) {
  Random random(3);
  for (int i = 0; i < 20000; ++i) {
    naive::Requantizer plain = random.requantizer(1, random.uniform(15, 31), 6);
    if (plain.multiplier[0] == 0) continue;
    plain.qmin = -128;
    plain.qmax = 127;
    const PaddedRequantizer padded(plain);
    const int64_t acc = random.uniform(-(1 << 30), 1 << 30);
    const double real = std::ldexp(static_cast<double>(acc) * plain.multiplier[0], -(15 + plain.shift[0] + 6)) +
                        static_cast<double>(plain.zero_point);
    const double bounded = std::min(std::max(real, -128.0), 127.0);
    if (std::abs(real) > 127) continue;  // saturated on the way
    EXPECT_NEAR(padded.view(static_cast<int32_t>(acc), 0), bounded, 0.5 + 1.0 / 64 + std::abs(real) / (1 << 15));
  }
}

TEST(Scalar, FloorDivision) {
  for (int64_t a = -20; a <= 20; ++a) {
    for (int64_t b = 1; b <= 7; ++b) EXPECT_EQ(floor_divide(a, b), naive::LayerNorm::floor_div(a, b));
  }
}

TEST(Scalar, LayerNormFractionBits) {
  EXPECT_EQ(layer_norm_fraction_bits(1), 14u);
  EXPECT_EQ(layer_norm_fraction_bits(2), 13u);
  EXPECT_EQ(layer_norm_fraction_bits(192), 10u);
  EXPECT_EQ(layer_norm_fraction_bits(256), 10u);
  EXPECT_EQ(layer_norm_fraction_bits(257), 9u);
  EXPECT_EQ(layer_norm_fraction_bits(4096), 8u);
}

}  // namespace
}  // namespace packqvit
