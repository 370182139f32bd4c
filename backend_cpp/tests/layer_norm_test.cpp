#include <gtest/gtest.h>

#include <cmath>

#include "kernels/scalar.h"
#include "tests/support/random.h"
#include "tests/support/tiers.h"

namespace packqvit {
namespace {

class LayerNormTest : public TierTest {
 protected:
  template <typename Code>
  void check(Random& random, const std::vector<Code>& x, const naive::LayerNorm& plain) {
    const size_t channels = plain.weight.size();
    const size_t rows = x.size() / channels;
    std::vector<int8_t> output(x.size());
    const LayerNormArguments arguments{x.data(),
                                       sizeof(Code) == 2,
                                       channels,
                                       plain.channel_shift.empty() ? nullptr : plain.channel_shift.data(),
                                       plain.weight.data(),
                                       plain.bias.data(),
                                       plain.epsilon,
                                       static_cast<unsigned>(plain.output_shift),
                                       static_cast<int32_t>(plain.qmin),
                                       static_cast<int32_t>(plain.qmax),
                                       output.data()};
    const size_t cut = static_cast<size_t>(random.uniform(0, static_cast<int64_t>(rows)));
    tier().layer_norm(arguments, {cut, rows});
    tier().layer_norm(arguments, {0, cut});
    for (size_t row = 0; row < rows; ++row) {
      const auto first = x.begin() + static_cast<std::ptrdiff_t>(row * channels);
      const auto expected = plain.row({first, first + static_cast<std::ptrdiff_t>(channels)});
      for (size_t c = 0; c < channels; ++c) {
        ASSERT_EQ(output[row * channels + c], expected[c]) << channels << " channels, " << row << "," << c;
      }
    }
  }

  // Runs one row whose output step is 1 / `steps` of sigma, and compares it with floating point.
  void expect_close_to_the_real_norm(const std::vector<int16_t>& x, int steps) {
    constexpr int kOutputShift = 16;
    const size_t channels = x.size();
    const std::vector<int16_t> weight(
        channels, static_cast<int16_t>(steps << (kOutputShift - static_cast<int>(layer_norm_fraction_bits(channels)))));
    const std::vector<int32_t> bias(channels, 1 << (kOutputShift - 1));
    std::vector<int8_t> output(channels);
    const LayerNormArguments arguments{x.data(), true,         channels, nullptr, weight.data(), bias.data(),
                                       0,        kOutputShift, -128,     127,     output.data()};
    tier().layer_norm(arguments, {0, 1});
    double mean = 0;
    double variance = 0;
    for (const int16_t code : x) mean += code / static_cast<double>(channels);
    for (const int16_t code : x) variance += (code - mean) * (code - mean) / static_cast<double>(channels);
    for (size_t c = 0; c < channels; ++c)
      EXPECT_NEAR(output[c], steps * (x[c] - mean) / std::sqrt(variance), 0.56) << c;
  }

  naive::LayerNorm random_parameters(Random& random, size_t channels, bool shifts) {
    naive::LayerNorm plain;
    if (shifts) plain.channel_shift = random.numbers<uint8_t>(channels, 0, 7);
    plain.weight = random.numbers<int16_t>(channels, -32768, 32767);
    plain.bias = random.numbers<int32_t>(channels, -(1 << 30) + 1, (1 << 30) - 1);
    plain.epsilon = int64_t{1} << random.uniform(0, 57);
    if (random.uniform(0, 3) == 0) plain.epsilon = 0;
    plain.output_shift = random.number(1, 30);
    plain.qmin = random.number(-128, 0);
    plain.qmax = random.number(plain.qmin, 127);
    return plain;
  }
};

const size_t kChannels[] = {1, 2, 3, 5, 16, 31, 64, 192, 197, 257, 768, 4096};

TEST_P(LayerNormTest, AgreesWithTheDefinition) {
  Random random(1);
  for (const size_t channels : kChannels) {
    for (int repeat = 0; repeat < 20; ++repeat) {
      const int64_t limit = int64_t{1} << random.uniform(0, 15);
      check(random, random.numbers<int16_t>(3 * channels, -limit, limit - 1),
            random_parameters(random, channels, false));
      check(random, random.numbers<int8_t>(3 * channels, -128, 127), random_parameters(random, channels, true));
    }
  }
}

TEST_P(LayerNormTest, RowsAtTheEnds) {
  Random random(2);
  for (const size_t channels : kChannels) {
    std::vector<int16_t> x(6 * channels);
    for (size_t c = 0; c < channels; ++c) {
      x[c] = -32768;                                    // constant: no variance
      x[channels + c] = c % 2 ? 32767 : -32768;         // the largest variance
      x[2 * channels + c] = c == 0 ? 32767 : -32768;    // one outlier: the largest normalised value
      x[3 * channels + c] = c == channels - 1 ? 1 : 0;  // the smallest variance
      x[4 * channels + c] = 0;
      x[5 * channels + c] = static_cast<int16_t>(c % 2 ? 1 : -1);
    }
    for (int repeat = 0; repeat < 20; ++repeat) {
      check(random, x, random_parameters(random, channels, false));
      std::vector<int8_t> narrow(x.size());
      for (size_t i = 0; i < x.size(); ++i) narrow[i] = static_cast<int8_t>(naive::sat8(x[i]));
      check(random, narrow, random_parameters(random, channels, true));
    }
  }
}

TEST_P(LayerNormTest, IsCloseToTheRealNorm) {
  Random random(3);
  for (int repeat = 0; repeat < 50; ++repeat) {
    const int64_t limit = int64_t{1} << random.uniform(4, 15);
    expect_close_to_the_real_norm(random.numbers<int16_t>(192, -limit, limit - 1), 32);
  }
}

// A step of X is far more than sigma: one channel, two, or half of them are one step above the others.
TEST_P(LayerNormTest, IsCloseWhereARowHardlyVaries) {
  for (const size_t channels : {size_t{2}, size_t{16}, size_t{63}, size_t{64}, size_t{192}, size_t{768}}) {
    const int steps = static_cast<int>(std::min(32.0, 100 / std::sqrt(static_cast<double>(channels))));
    for (const size_t ones : {size_t{1}, size_t{2}, channels / 2}) {
      if (ones == channels) continue;
      for (const int16_t base : {-32768, -7, 0, 32766}) {
        std::vector<int16_t> x(channels, base);
        for (size_t c = 0; c < ones; ++c) x[channels - 1 - c] = static_cast<int16_t>(base + 1);
        expect_close_to_the_real_norm(x, steps);
      }
    }
  }
}

// Massive tokens: |x - mean| / sigma is close to its bound sqrt(192), over all sizes of the reciprocal.
TEST_P(LayerNormTest, IsCloseWhereOneChannelDominates) {
  Random random(4);
  for (int16_t size = 2000; size < 32000; size = static_cast<int16_t>(size + 499)) {
    auto x = random.numbers<int16_t>(192, -20, 20);
    x[7] = size;
    expect_close_to_the_real_norm(x, 8);
    x[7] = static_cast<int16_t>(-size);
    expect_close_to_the_real_norm(x, 8);
  }
}

INSTANTIATE_TEST_SUITE_P(Tiers, LayerNormTest, every_tier(), tier_name);

}  // namespace
}  // namespace packqvit
