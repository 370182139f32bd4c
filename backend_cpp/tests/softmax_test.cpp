#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/support/random.h"
#include "tests/support/tiers.h"

namespace packqvit {
namespace {

struct Case {
  size_t heads;
  size_t rows;
  size_t columns;
  size_t bias_heads;  // 0: no bias
  int64_t magnitude;
  int32_t shift;
};

class SoftmaxTest : public TierTest {
 protected:
  // bias_shift: the bias is int16 with that shift; negative: int32.
  void check(Random& random, const Case& c, Probabilities format, int bias_shift = -1) {
    const size_t size = c.heads * c.rows * c.columns;
    const auto x = random.numbers<int32_t>(size, -c.magnitude, c.magnitude);
    auto bias = random.numbers<int32_t>(c.bias_heads * c.rows * c.columns, -c.magnitude / 2, c.magnitude / 2);
    std::vector<int16_t> narrow;
    if (bias_shift >= 0) {
      narrow = random.numbers<int16_t>(bias.size(), -32768, 32767);
      std::transform(narrow.begin(), narrow.end(), bias.begin(), [&](int16_t b) { return b * (1 << bias_shift); });
    }
    const int32_t multiplier = static_cast<int32_t>(random.number(1 << 14, (1 << 15) - 1));
    std::vector<uint8_t> output(size);
    ScoreBias added = c.bias_heads > 0 ? bias.data() : nullptr;
    if (bias_shift >= 0) added = {narrow.data(), static_cast<unsigned>(bias_shift)};
    const SoftmaxParameters parameters{added, c.bias_heads, multiplier, c.shift, format};
    const SoftmaxArguments arguments{x.data(), c.columns, c.rows, parameters, output.data()};
    Scratch scratch(tier().softmax_scratch(c.columns));
    const size_t cut = static_cast<size_t>(random.uniform(0, static_cast<int64_t>(c.heads * c.rows)));
    tier().softmax(arguments, {0, cut}, scratch.data());
    tier().softmax(arguments, {cut, c.heads * c.rows}, scratch.data());

    const naive::Softmax plain{multiplier, c.shift, format == Probabilities::kLog2};
    for (size_t row = 0; row < c.heads * c.rows; ++row) {
      std::vector<int64_t> biased;
      for (size_t j = 0; j < c.columns; ++j) {
        biased.push_back(x[row * c.columns + j]);
        if (c.bias_heads > 0) {
          biased.back() += bias[(row / c.rows % c.bias_heads * c.rows + row % c.rows) * c.columns + j];
        }
      }
      const auto expected = plain.row(biased);
      for (size_t j = 0; j < c.columns; ++j) ASSERT_EQ(output[row * c.columns + j], expected[j]) << row << "," << j;
    }
  }
};

TEST_P(SoftmaxTest, AgreesWithTheDefinition) {
  Random random(1);
  for (const Probabilities format : {Probabilities::kLog2, Probabilities::kLinear}) {
    for (const size_t columns : {1, 2, 7, 16, 49, 197}) {
      for (int32_t shift = -15; shift <= 30; ++shift) {
        // From scores within some octaves to scores that all but one underflow.
        const int64_t magnitude = shift >= 0 ? (int64_t{1} << std::min(shift + random.uniform(8, 15), int64_t{29}))
                                             : std::max<int64_t>(1, int64_t{32768} >> -shift);
        check(random, {2, 3, columns, 0, magnitude, shift}, format);
        check(random, {4, 2, columns, 2, magnitude, shift}, format);
      }
    }
  }
}

TEST_P(SoftmaxTest, ABiasOfInt16) {
  Random random(3);
  for (const Probabilities format : {Probabilities::kLog2, Probabilities::kLinear}) {
    for (const size_t columns : {1, 3, 4, 15, 16, 17, 33, 49, 64, 197}) {
      for (const int bias_shift : {0, 1, 7, 14}) {
        check(random, {4, 2, columns, 2, int64_t{1} << (bias_shift + 14), bias_shift}, format, bias_shift);
      }
    }
  }
}

TEST_P(SoftmaxTest, TheWidestScoresAndBiases) {
  Random random(2);
  for (const Probabilities format : {Probabilities::kLog2, Probabilities::kLinear}) {
    for (const int32_t shift : {-15, 0, 14, 30}) check(random, {3, 2, 33, 3, int64_t{1} << 29, shift}, format);
  }
}

TEST_P(SoftmaxTest, TheLongestRowOfEqualScores) {
  constexpr size_t kColumns = 65536;
  const std::vector<int32_t> x(kColumns, -5);
  std::vector<uint8_t> output(kColumns);
  Scratch scratch(tier().softmax_scratch(kColumns));
  SoftmaxArguments arguments{x.data(), kColumns, 1, {nullptr, 0, 1 << 14, 0, Probabilities::kLog2}, output.data()};
  tier().softmax(arguments, {0, 1}, scratch.data());
  for (const uint8_t code : output) ASSERT_EQ(code, 15);
  arguments.softmax.format = Probabilities::kLinear;
  tier().softmax(arguments, {0, 1}, scratch.data());
  for (const uint8_t code : output) ASSERT_EQ(code, 255);
}

TEST_P(SoftmaxTest, IsCloseToTheRealSoftmax) {
  Random random(3);
  constexpr size_t kColumns = 197;
  const int32_t multiplier = 21845;
  const int32_t shift = 2;
  const double step = std::ldexp(multiplier, -(15 + shift)) / 1024;  // octaves
  std::vector<int32_t> x(kColumns);
  std::vector<uint8_t> log2(kColumns);
  std::vector<uint8_t> linear(kColumns);
  Scratch scratch(tier().softmax_scratch(kColumns));
  for (int repeat = 0; repeat < 50; ++repeat) {
    for (int32_t& score : x) score = static_cast<int32_t>(random.uniform(-40000, 40000));
    SoftmaxArguments arguments{
        x.data(), kColumns, 1, {nullptr, 0, multiplier, shift, Probabilities::kLog2}, log2.data()};
    tier().softmax(arguments, {0, 1}, scratch.data());
    arguments.softmax.format = Probabilities::kLinear;
    arguments.output = linear.data();
    tier().softmax(arguments, {0, 1}, scratch.data());
    double sum = 0;
    for (const int32_t score : x) sum += std::exp2(score * step);
    const int32_t largest = *std::max_element(x.begin(), x.end());
    for (size_t j = 0; j < kColumns; ++j) {
      const double p = std::exp2(x[j] * step) / sum;
      EXPECT_NEAR(log2[j], std::min(-std::log2(p), 15.0), 0.51);
      EXPECT_NEAR(linear[j], 255 * std::exp2((x[j] - largest) * step), 0.75);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Tiers, SoftmaxTest, every_tier(), tier_name);

}  // namespace
}  // namespace packqvit
