#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/random.h"
#include "tests/support/tiers.h"

namespace packqvit {
namespace {

class ElementwiseTest : public TierTest {};

TEST_P(ElementwiseTest, LookupTableCoversEveryCode) {
  Random random(1);
  const auto table = random.numbers<int8_t>(256, -128, 127);
  std::vector<int8_t> x(256 + 37);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<int8_t>(i);
  for (size_t size = 0; size <= x.size(); size += size < 40 ? 1 : 11) {
    std::vector<int8_t> output(size);
    tier().lookup_table(x.data(), table.data(), output.data(), size);
    for (size_t i = 0; i < size; ++i) ASSERT_EQ(output[i], table[static_cast<size_t>(int{x[i]} + 128)]);
  }
}

// What the definition says, with the library's rint.
int64_t quantized(float x, float offset, float inverse_scale, int64_t qmin, int64_t qmax) {
  const float difference = x - offset;
  const float scaled = difference * inverse_scale;
  if (std::isnan(scaled)) return naive::clamp(0, qmin, qmax);
  const double rounded = std::rint(static_cast<double>(scaled));
  return rounded < static_cast<double>(qmin)   ? qmin
         : rounded > static_cast<double>(qmax) ? qmax
                                               : static_cast<int64_t>(rounded);
}

TEST_P(ElementwiseTest, QuantizeAgreesWithTheDefinition) {
  Random random(2);
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> special = {0.0f,          -0.0f,    0.5f,        1.5f,       -0.5f,  -2.5f,    127.5f,
                                      -128.5f,       32767.5f, -32768.5f,   1e30f,      -1e30f, infinity, -infinity,
                                      std::nanf(""), 126.5f,   0.49999997f, 8388609.0f, 1e-40f};
  for (const bool wide : {false, true}) {
    const int64_t low = wide ? -32768 : -128;
    for (const size_t inner : {1, 3, 19, 64}) {
      for (int vectors = 0; vectors < 4; ++vectors) {
        const size_t channels = 3;
        const size_t rows = 2 * channels;
        std::vector<float> x(rows * inner);
        for (size_t i = 0; i < x.size(); ++i) {
          x[i] = i % 3 == 0 ? special[i / 3 % special.size()]
                            : static_cast<float>(random.uniform(-1000000, 1000000)) / 3000.0f;
        }
        const std::vector<float> scale = {1.0f, 0.37f, -113.0f};
        const std::vector<float> offset = {0.0f, 0.25f, -3.3f};
        const int64_t qmin = random.number(low, 5);
        const int64_t qmax = random.number(std::max<int64_t>(qmin, wide ? 128 : -128), -low - 1);
        std::vector<int8_t> narrow(x.size());
        std::vector<int16_t> shorts(x.size());
        const QuantizeArguments arguments{x.data(),
                                          channels,
                                          inner,
                                          scale.data(),
                                          (vectors & 1) != 0,
                                          offset.data(),
                                          (vectors & 2) != 0,
                                          static_cast<int32_t>(qmin),
                                          static_cast<int32_t>(qmax),
                                          wide ? static_cast<void*>(shorts.data()) : narrow.data(),
                                          wide};
        tier().quantize(arguments, {0, 4});
        tier().quantize(arguments, {4, rows});
        for (size_t i = 0; i < x.size(); ++i) {
          const size_t c = i / inner % channels;
          const int64_t expected = quantized(x[i], offset[vectors & 2 ? c : 0], scale[vectors & 1 ? c : 0], qmin, qmax);
          ASSERT_EQ(wide ? int64_t{shorts[i]} : int64_t{narrow[i]}, expected) << x[i];
        }
      }
    }
  }
}

TEST_P(ElementwiseTest, PixelsBecomeTheirByteMinus128) {
  const double means[] = {0.485, 0.456, 0.406};
  const double deviations[] = {0.229, 0.224, 0.225};
  for (int c = 0; c < 3; ++c) {
    const float inverse_scale = static_cast<float>(255 * deviations[c]);
    const float offset = static_cast<float>((128.0 / 255 - means[c]) / deviations[c]);
    std::vector<float> x;
    for (int byte = 0; byte < 256; ++byte) {
      x.push_back((static_cast<float>(byte) / 255.0f - static_cast<float>(means[c])) /
                  static_cast<float>(deviations[c]));
    }
    std::vector<int8_t> output(256);
    tier().quantize({x.data(), 1, 256, &inverse_scale, false, &offset, false, -128, 127, output.data(), false}, {0, 1});
    for (int byte = 0; byte < 256; ++byte) EXPECT_EQ(output[static_cast<size_t>(byte)], byte - 128);
  }
}

template <typename Code>
void check_dequantize(const KernelTier& tier, Random& random, CodeType type) {
  const int64_t low = std::numeric_limits<Code>::min();
  const int64_t high = std::numeric_limits<Code>::max();
  const std::vector<float> scale = {0.017f, 1.0f, 3e-9f};
  for (const bool per_channel : {false, true}) {
    const auto x = random.numbers<Code>(2 * 3 * 13, low, high);
    const int32_t zero_point = static_cast<int32_t>(random.number(low, high));
    std::vector<float> output(x.size());
    const DequantizeArguments arguments{x.data(), type, 3, 13, scale.data(), per_channel, zero_point, output.data()};
    tier.dequantize(arguments, {0, 1});
    tier.dequantize(arguments, {1, 6});
    for (size_t i = 0; i < x.size(); ++i) {
      const float number = static_cast<float>(int64_t{x[i]} - zero_point);
      ASSERT_EQ(output[i], number * scale[per_channel ? i / 13 % 3 : 0]);
    }
  }
}

// Rows of one value each, as linear layers with a scale for each channel give them out; cut anywhere.
template <typename Code>
void check_dequantize_single_values(const KernelTier& tier, Random& random, CodeType type) {
  constexpr size_t kChannels = 37;
  constexpr size_t kRows = 3 * kChannels;
  const auto x = random.numbers<Code>(kRows, std::numeric_limits<Code>::min(), std::numeric_limits<Code>::max());
  std::vector<float> scale;
  for (size_t c = 0; c < kChannels; ++c) scale.push_back(1e-3f * static_cast<float>(c + 1));
  const int32_t lowest = std::numeric_limits<int32_t>::min();
  const int32_t highest = std::numeric_limits<int32_t>::max();
  for (const int32_t zero_point : {0, -7, lowest, highest}) {
    std::vector<float> output(kRows);
    const DequantizeArguments arguments{x.data(), type, kChannels, 1, scale.data(), true, zero_point, output.data()};
    const size_t cut = static_cast<size_t>(random.number(1, kRows - 1));
    tier.dequantize(arguments, {0, cut});
    tier.dequantize(arguments, {cut, kRows});
    for (size_t i = 0; i < kRows; ++i) {
      ASSERT_EQ(output[i], static_cast<float>(int64_t{x[i]} - zero_point) * scale[i % kChannels]);
    }
  }
}

TEST_P(ElementwiseTest, DequantizeAgreesWithTheDefinition) {
  Random random(3);
  for (int repeat = 0; repeat < 20; ++repeat) {
    check_dequantize<int8_t>(tier(), random, CodeType::kInt8);
    check_dequantize<int16_t>(tier(), random, CodeType::kInt16);
    check_dequantize<int32_t>(tier(), random, CodeType::kInt32);
    check_dequantize_single_values<int8_t>(tier(), random, CodeType::kInt8);
    check_dequantize_single_values<int16_t>(tier(), random, CodeType::kInt16);
    check_dequantize_single_values<int32_t>(tier(), random, CodeType::kInt32);
  }
}

template <typename In, typename Out>
void check_pooling(const KernelTier& tier, Random& random, Pooling pooling, size_t tokens, size_t channels,
                   bool extreme) {
  const int64_t low = std::numeric_limits<In>::min();
  const int64_t high = std::numeric_limits<In>::max();
  const auto x = random.numbers<In>(tokens * channels, low, extreme ? low : high);
  const auto bias =
      random.numbers<int32_t>(channels, extreme ? -(1 << 29) : -(1 << 16), extreme ? -(1 << 29) : 1 << 16);
  const bool largest = pooling == Pooling::kMaximum;
  // From means within an 8-bit grid to ones that only the zero point brings back into a 16-bit one.
  const int64_t reach = random.number(0, 14);
  naive::Requantizer plain =
      random.requantizer(channels, 8 * static_cast<int64_t>(sizeof(In)) + (largest ? 0 : naive::bitlen(tokens)) - reach,
                         sizeof(Out) == 2 ? 0 : random.uniform(0, 6), extreme ? 0 : 5);
  if (sizeof(Out) == 2) {
    plain.zero_point = random.number(-32768, 32767);
    plain.qmin = -32768;
    plain.qmax = 32767;
  }
  const PaddedRequantizer requantizer(plain);
  std::vector<Out> output(channels);
  const PoolTokensArguments arguments{pooling,     x.data(),         sizeof(In) == 2, tokens,          channels,
                                      bias.data(), requantizer.view, output.data(),   sizeof(Out) == 2};
  tier.pool_tokens(arguments, {0, channels / 2});
  tier.pool_tokens(arguments, {channels / 2, channels});
  for (size_t c = 0; c < channels; ++c) {
    int64_t acc = x[c];
    for (size_t n = 1; n < tokens; ++n) {
      const int64_t code = x[n * channels + c];
      acc = largest ? std::max(acc, code) : acc + code;
    }
    ASSERT_EQ(output[c], plain.requantize(bias[c] + acc, c));
  }
}

TEST_P(ElementwiseTest, PoolTokensAgreesWithTheDefinition) {
  Random random(4);
  for (const Pooling pooling : {Pooling::kMean, Pooling::kMaximum}) {
    for (int repeat = 0; repeat < 4; ++repeat) {
      for (const size_t tokens : {1, 7, 196}) {
        for (const size_t channels : {1, 5, 64, 67, 193}) {
          check_pooling<int8_t, int8_t>(tier(), random, pooling, tokens, channels, false);
          check_pooling<int8_t, int16_t>(tier(), random, pooling, tokens, channels, false);
          check_pooling<int16_t, int8_t>(tier(), random, pooling, tokens, channels, false);
          check_pooling<int16_t, int16_t>(tier(), random, pooling, tokens, channels, false);
        }
      }
    }
    check_pooling<int16_t, int16_t>(tier(), random, pooling, 8192, 3, true);
    check_pooling<int16_t, int8_t>(tier(), random, pooling, 8192, 3, true);
  }
}

template <typename In, typename Out>
void check_requantize(const KernelTier& tier, Random& random, size_t rows, size_t channels) {
  const auto x = random.numbers<In>(rows * channels, std::numeric_limits<In>::min(), std::numeric_limits<In>::max());
  naive::Requantizer plain = random.requantizer(channels, 8 * static_cast<int64_t>(sizeof(In)) - random.number(0, 8),
                                                sizeof(Out) == 2 ? 0 : random.uniform(0, 6), 14);
  if (sizeof(Out) == 2) {
    plain.zero_point = random.number(-32768, 32767);
    plain.qmin = -32768;
    plain.qmax = 32767;
  }
  const PaddedRequantizer requantizer(plain);
  std::vector<Out> output(x.size());
  const RequantizeArguments arguments{x.data(),         sizeof(In) == 2, channels,
                                      requantizer.view, output.data(),   sizeof(Out) == 2};
  tier.requantize(arguments, {0, rows / 2});
  tier.requantize(arguments, {rows / 2, rows});
  for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(output[i], plain.requantize(x[i], i % channels)) << i;
}

TEST_P(ElementwiseTest, RequantizeAgreesWithTheDefinition) {
  Random random(5);
  for (int repeat = 0; repeat < 20; ++repeat) {
    for (const size_t channels : {1, 5, 64, 67, 384}) {
      check_requantize<int8_t, int8_t>(tier(), random, 5, channels);
      check_requantize<int8_t, int16_t>(tier(), random, 5, channels);
      check_requantize<int16_t, int8_t>(tier(), random, 5, channels);
      check_requantize<int16_t, int16_t>(tier(), random, 5, channels);
    }
  }
}

template <typename In, typename Out>
void check_requantize_add(const KernelTier& tier, Random& random, size_t rows, size_t channels, int64_t left_shift) {
  const auto x = random.numbers<In>(rows * channels, std::numeric_limits<In>::min(), std::numeric_limits<In>::max());
  const auto residual = random.numbers<Out>(x.size(), std::numeric_limits<Out>::min(), std::numeric_limits<Out>::max());
  auto multiplier = random.numbers<int16_t>(channels, 0, 32767);
  multiplier[0] = 32767;
  naive::Requantizer plain = random.requantizer(channels, 8 * static_cast<int64_t>(sizeof(In)) - random.number(0, 8),
                                                sizeof(Out) == 2 ? 0 : random.uniform(0, 6), left_shift);
  const PaddedRequantizer requantizer(plain);
  std::vector<Out> output(x.size());
  RequantizeArguments arguments{x.data(), sizeof(In) == 2, channels, requantizer.view, output.data(), sizeof(Out) == 2};
  arguments.residual = residual.data();
  arguments.residual_multiplier = multiplier.data();
  tier.requantize(arguments, {0, rows / 2});
  tier.requantize(arguments, {rows / 2, rows});
  for (size_t i = 0; i < x.size(); ++i) {
    const size_t c = i % channels;
    ASSERT_EQ(output[i], plain.add_residual(x[i], c, residual[i], multiplier[c], sizeof(Out) == 2)) << i;
  }
}

TEST_P(ElementwiseTest, RequantizeAddAgreesWithTheDefinition) {
  Random random(6);
  for (int repeat = 0; repeat < 20; ++repeat) {
    for (const size_t channels : {1, 5, 64, 67, 384}) {
      for (const int64_t left_shift : {0, 14}) {
        check_requantize_add<int8_t, int8_t>(tier(), random, 5, channels, left_shift);
        check_requantize_add<int8_t, int16_t>(tier(), random, 5, channels, left_shift);
        check_requantize_add<int16_t, int8_t>(tier(), random, 5, channels, left_shift);
        check_requantize_add<int16_t, int16_t>(tier(), random, 5, channels, left_shift);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Tiers, ElementwiseTest, every_tier(), tier_name);

}  // namespace
}  // namespace packqvit
