#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/scalar.h"
#include "tests/support/random.h"
#include "tests/support/tiers.h"

namespace packqvit {
namespace {

// What is normalised is added to `residual`.
template <typename Output>
struct Sum {
  std::vector<Output> residual;
  std::vector<int16_t> multiplier;
  int64_t fraction_bits;
};

class LayerNormTest : public TierTest {
 protected:
  // `sum`: nullptr for the codes themselves.
  template <typename Output, typename Code>
  void check(Random& random, const std::vector<Code>& x, const naive::LayerNorm& plain,
             const Sum<Output>* sum = nullptr) {
    const size_t channels = plain.weight.size();
    const size_t rows = x.size() / channels;
    constexpr bool kWide = sizeof(Output) == 2;
    // Rows may be parts of wider ones.
    const size_t stride = sum == nullptr ? channels + static_cast<size_t>(random.uniform(0, 2)) * channels : channels;
    std::vector<Code> wider(rows * stride, Code{7});
    for (size_t row = 0; row < rows; ++row) {
      std::copy_n(x.data() + row * channels, channels, wider.data() + row * stride);
    }
    std::vector<Output> output(wider.size(), Output{7});
    LayerNormArguments arguments{wider.data(),
                                 sizeof(Code) == 2,
                                 channels,
                                 plain.channel_shift.empty() ? nullptr : plain.channel_shift.data(),
                                 plain.weight.data(),
                                 plain.bias.data(),
                                 plain.epsilon,
                                 static_cast<unsigned>(plain.output_shift),
                                 static_cast<int32_t>(plain.qmin),
                                 static_cast<int32_t>(plain.qmax),
                                 output.data(),
                                 kWide};
    arguments.centred = plain.centred;
    arguments.row_stride = stride;
    if (sum != nullptr) {
      arguments.residual = sum->residual.data();
      arguments.residual_multiplier = sum->multiplier.data();
      arguments.fraction_bits = static_cast<unsigned>(sum->fraction_bits);
    }
    const size_t cut = static_cast<size_t>(random.uniform(0, static_cast<int64_t>(rows)));
    tier().layer_norm(arguments, {cut, rows});
    tier().layer_norm(arguments, {0, cut});
    for (size_t row = 0; row < rows; ++row) {
      const auto first = x.begin() + static_cast<std::ptrdiff_t>(row * channels);
      const std::vector<int64_t> codes(first, first + static_cast<std::ptrdiff_t>(channels));
      auto expected = sum != nullptr ? plain.steps(codes) : plain.row(codes);
      for (size_t c = 0; c < channels; ++c) {
        const size_t i = row * channels + c;
        if (sum != nullptr) {
          expected[c] =
              naive::onto_residual(expected[c], sum->residual[i], sum->multiplier[c], sum->fraction_bits, kWide);
        }
        ASSERT_EQ(output[row * stride + c], expected[c]) << channels << " channels, " << row << "," << c;
      }
      for (size_t c = channels; c < stride; ++c) ASSERT_EQ(output[row * stride + c], Output{7}) << "beyond the row";
    }
    if constexpr (sizeof(Code) == sizeof(Output)) {
      std::vector<Output> over(wider.begin(), wider.end());
      LayerNormArguments in_place = arguments;
      in_place.x = over.data();
      in_place.output = over.data();
      tier().layer_norm(in_place, {0, rows});
      for (size_t row = 0; row < rows; ++row) {
        const auto first = static_cast<std::ptrdiff_t>(row * stride);
        ASSERT_TRUE(std::equal(over.begin() + first, over.begin() + first + static_cast<std::ptrdiff_t>(channels),
                               output.begin() + first))
            << "written over x, row " << row;
      }
    }
    if (sum == nullptr) return;
    std::vector<Output> over(sum->residual);
    arguments.residual = over.data();
    arguments.output = over.data();
    tier().layer_norm(arguments, {0, rows});
    ASSERT_EQ(over, output) << "written over the residual";
  }

  // Codes of both types, and sums with residuals of both.
  template <typename Code>
  void check_all(Random& random, const std::vector<Code>& x, size_t channels) {
    const bool shifts = sizeof(Code) == 1 && random.uniform(0, 3) > 0;
    naive::LayerNorm plain = random_parameters(random, channels, shifts);
    check<int8_t>(random, x, plain);
    plain.centred = false;
    check<int8_t>(random, x, plain);
    plain = random_parameters(random, channels, shifts);
    plain.qmin = random.number(-32768, 0);
    plain.qmax = random.number(plain.qmin, 32767);
    check<int16_t>(random, x, plain);
    check_sum<int8_t>(random, x, random_parameters(random, channels, shifts));
    check_sum<int16_t>(random, x, random_parameters(random, channels, shifts));
  }

  template <typename Output, typename Code>
  void check_sum(Random& random, const std::vector<Code>& x, naive::LayerNorm plain) {
    using Limits = std::numeric_limits<Output>;
    Sum<Output> sum{random.numbers<Output>(x.size(), Limits::min(), Limits::max()),
                    random.numbers<int16_t>(plain.weight.size(), 0, 32767), 0};  // one in eight is the unit
    if (sizeof(Output) == 1) sum.fraction_bits = random.number(0, 6);
    plain.qmin = plain.qmax = 0;  // unused
    check<Output>(random, x, plain, &sum);
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

const size_t kChannels[] = {1, 2, 3, 5, 16, 31, 33, 64, 96, 197, 257, 384, 768, 1536, 4096};

TEST_P(LayerNormTest, AgreesWithTheDefinition) {
  Random random(1);
  for (const size_t channels : kChannels) {
    for (int repeat = 0; repeat < 10; ++repeat) {
      const int64_t limit = int64_t{1} << random.uniform(0, 15);
      check_all(random, random.numbers<int16_t>(3 * channels, -limit, limit - 1), channels);
      check_all(random, random.numbers<int8_t>(3 * channels, -128, 127), channels);
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
    for (int repeat = 0; repeat < 10; ++repeat) {
      check_all(random, x, channels);
      std::vector<int8_t> narrow(x.size());
      for (size_t i = 0; i < x.size(); ++i) narrow[i] = static_cast<int8_t>(naive::sat8(x[i]));
      check_all(random, narrow, channels);
    }
  }
}

// Branches of any size, which come from the bias, beside residuals of the other sign.
TEST_P(LayerNormTest, OnlyTheSumSaturates) {
  Random random(5);
  const std::vector<int64_t> steps = {0, 1, 127, 128, 8191, 8192, 32767, 32768, 40000, 65535, 65536, 1 << 27};
  const std::vector<int16_t> multipliers = {32767, 32766, 32765, 16384, 1, 0};
  const size_t channels = 71;
  for (int repeat = 0; repeat < 40; ++repeat) {
    naive::LayerNorm plain;
    plain.weight = random.numbers<int16_t>(channels, -3, 3);
    plain.output_shift = random.number(1, 2);
    Sum<int8_t> narrow{{}, {}, random.number(0, 6)};
    Sum<int16_t> wide{{}, {}, 0};
    for (size_t c = 0; c < channels; ++c) {
      const int64_t v = steps[static_cast<size_t>(random.uniform(0, 11))] * (random.uniform(0, 1) == 0 ? 1 : -1);
      plain.bias.push_back(static_cast<int32_t>(v * (int64_t{1} << plain.output_shift)));
      narrow.residual.push_back(random.uniform(0, 1) == 0 ? random.number(-128, 127) : (v > 0 ? -128 : 127));
      wide.residual.push_back(random.uniform(0, 1) == 0 ? random.number(-32768, 32767) : (v > 0 ? -32768 : 32767));
      wide.multiplier.push_back(multipliers[static_cast<size_t>(random.uniform(0, 5))]);
    }
    narrow.multiplier = wide.multiplier;
    check(random, random.numbers<int16_t>(channels, -32768, 32767), plain, &narrow);
    check(random, random.numbers<int16_t>(channels, -32768, 32767), plain, &wide);
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
