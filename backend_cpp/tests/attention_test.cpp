#include <gtest/gtest.h>

#include "tests/support/random.h"
#include "tests/support/tiers.h"

namespace packqvit {
namespace {

struct Case {
  size_t batch;
  AttentionShape shape;
};

const Case kCases[] = {
    {1, {1, 1, 1, 1}},   {2, {3, 5, 7, 4}},     {1, {2, 33, 17, 3}}, {3, {1, 2, 49, 32}},
    {1, {3, 67, 66, 5}}, {1, {1, 40, 197, 64}}, {2, {2, 31, 1, 16}},
};

class AttentionTest : public TierTest {
 protected:
  // Calls work(head, queries, scratch) over all heads, each cut at a random query.
  template <typename Work>
  void for_each_part(Random& random, const Case& c, const Work& work) {
    Scratch scratch(tier().attention_part_scratch(c.shape));
    for (size_t head = 0; head < c.batch * c.shape.heads; ++head) {
      const size_t cut = static_cast<size_t>(random.uniform(0, static_cast<int64_t>(c.shape.queries)));
      work(head, Range{cut, c.shape.queries}, scratch.data());
      work(head, Range{0, cut}, scratch.data());
    }
  }

  void check_values(Random& random, const Case& c, Probabilities format, const std::vector<uint8_t>& p,
                    const std::vector<int8_t>& v, const naive::Requantizer& plain) {
    const auto [heads, queries, keys, head_size] = c.shape;
    const size_t channels = heads * head_size;
    const PaddedRequantizer requantizer(plain);
    std::vector<int8_t> output(c.batch * queries * channels);
    const AttentionValuesArguments arguments{c.shape, format, p.data(), v.data(), requantizer.view, output.data()};
    for_each_part(random, c, [&](size_t head, Range range, void* scratch) {
      tier().attention_values(arguments, head, range, scratch);
    });
    for (size_t i = 0; i < output.size(); ++i) {
      const size_t b = i / channels / queries;
      const size_t query = i / channels % queries;
      const size_t channel = i % channels;
      const auto row =
          p.begin() + static_cast<std::ptrdiff_t>(((b * heads + channel / head_size) * queries + query) * keys);
      const std::vector<int64_t> codes(row, row + static_cast<std::ptrdiff_t>(keys));
      std::vector<int64_t> values(keys);
      for (size_t j = 0; j < keys; ++j) values[j] = v[(b * keys + j) * channels + channel];
      const int64_t sum = naive::weighted_sum(codes, values, format == Probabilities::kLog2);
      ASSERT_EQ(output[i], plain.requantize(sum, channel)) << i;
    }
  }
};

TEST_P(AttentionTest, ScoresAgreeWithTheDefinition) {
  Random random(1);
  for (const Case& c : kCases) {
    const auto [heads, queries, keys, head_size] = c.shape;
    const size_t channels = heads * head_size;
    const auto q = random.numbers<int8_t>(c.batch * queries * channels, -128, 127);
    const auto k = random.numbers<int8_t>(c.batch * keys * channels, -128, 127);
    std::vector<int32_t> output(c.batch * heads * queries * keys);
    const AttentionScoresArguments arguments{c.shape, q.data(), k.data(), output.data()};
    for_each_part(random, c, [&](size_t head, Range range, void* scratch) {
      tier().attention_scores(arguments, head, range, scratch);
    });
    for (size_t i = 0; i < output.size(); ++i) {
      const size_t key = i % keys;
      const size_t query = i / keys % queries;
      const size_t head = i / keys / queries % heads;
      const size_t b = i / keys / queries / heads;
      int64_t acc = 0;
      for (size_t d = head * head_size; d < (head + 1) * head_size; ++d) {
        acc += int64_t{q[(b * queries + query) * channels + d]} * k[(b * keys + key) * channels + d];
      }
      ASSERT_EQ(output[i], acc) << i;
    }
  }
}

TEST_P(AttentionTest, ValuesAgreeWithTheDefinition) {
  Random random(2);
  for (const Case& c : kCases) {
    const auto [heads, queries, keys, head_size] = c.shape;
    const size_t channels = heads * head_size;
    for (const Probabilities format : {Probabilities::kLog2, Probabilities::kLinear}) {
      const int64_t highest = format == Probabilities::kLog2 ? 16 : 255;
      const auto p = random.numbers<uint8_t>(c.batch * heads * queries * keys, 0, highest);
      const auto v = random.numbers<int8_t>(c.batch * keys * channels, -127, 127);
      const auto plain =
          random.requantizer(channels, naive::bitlen(keys) + 15, random.uniform(0, 6), 9 - naive::bitlen(keys));
      check_values(random, c, format, p, v, plain);
    }
  }
}

TEST_P(AttentionTest, TheLongestSumsOfExtremeCodesAreExact) {
  Random random(3);
  const Case longest{1, {1, 2, 1031, 3}};
  const std::vector<uint8_t> ones(2 * 1031, 0);
  check_values(random, longest, Probabilities::kLog2, ones, std::vector<int8_t>(1031 * 3, 127),
               random.requantizer(3, 31, 6));
  check_values(random, longest, Probabilities::kLog2, ones, std::vector<int8_t>(1031 * 3, -127),
               random.requantizer(3, 31, 0));
  const Case wide{1, {1, 1, 32768, 1}};
  const std::vector<uint8_t> full(32768, 255);
  check_values(random, wide, Probabilities::kLinear, full, std::vector<int8_t>(32768, -128),
               random.requantizer(1, 31, 3));
}

// v is symmetric by contract. A delegate that takes v as its input may be handed -128 all the same.
TEST_P(AttentionTest, ValuesBeyondTheContractDoNotTrap) {
  const AttentionShape shape{1, 1, 1031, 1};
  const std::vector<uint8_t> ones(1031, 0);
  const std::vector<int8_t> v(1031, -128);
  const PaddedRequantizer requantizer({{1 << 14}, {1}});
  int8_t output = 0;
  Scratch scratch(tier().attention_part_scratch(shape));
  tier().attention_values({shape, Probabilities::kLog2, ones.data(), v.data(), requantizer.view, &output}, 0, {0, 1},
                          scratch.data());
}

// What the rows of scores of an attention look like.
enum class Rows { kAny, kEqual, kOneAbove, kAtTheLimits };

// Fused attention is its three parts, one behind the other.
class FusedAttentionTest : public AttentionTest {
 protected:
  void check(Random& random, const Case& c, Probabilities format, size_t bias_heads, int32_t shift,
             Rows rows = Rows::kAny) {
    const auto [heads, queries, keys, head_size] = c.shape;
    const size_t channels = heads * head_size;
    // Within the contract v is symmetric; q and k may hold any int8.
    auto q = random.numbers<int8_t>(c.batch * queries * channels, -128, 127);
    auto k = random.numbers<int8_t>(c.batch * keys * channels, -128, 127);
    auto v = random.numbers<int8_t>(c.batch * keys * channels, -127, 127);
    if (rows != Rows::kAny) {
      std::fill(q.begin(), q.end(), int8_t{-128});
      std::fill(k.begin(), k.end(), rows == Rows::kAtTheLimits ? int8_t{127} : int8_t{1});
      std::fill(v.begin(), v.end(), random.uniform(0, 1) == 0 ? int8_t{-127} : int8_t{127});
      // The last key of the first image has the largest score of all, or all of them have it but the first.
      if (rows == Rows::kOneAbove)
        std::fill_n(k.begin() + static_cast<std::ptrdiff_t>((keys - 1) * channels), channels, -128);
      if (rows == Rows::kAtTheLimits)
        std::fill(k.begin() + static_cast<std::ptrdiff_t>(channels), k.end(), int8_t{-128});
    }
    auto bias = random.numbers<int32_t>(bias_heads * queries * keys, -(1 << 12), 1 << 12);
    // Half of them as int16.
    constexpr unsigned kBiasShift = 3;
    const bool is_narrow = bias_heads > 0 && random.uniform(0, 1) == 0;
    const auto narrow = random.numbers<int16_t>(bias.size(), -(1 << 9), 1 << 9);
    for (size_t i = 0; is_narrow && i < bias.size(); ++i) bias[i] = narrow[i] * (1 << kBiasShift);
    ScoreBias added = bias_heads > 0 ? bias.data() : nullptr;
    if (is_narrow) added = {narrow.data(), kBiasShift};
    const naive::Softmax softmax{random.number(1 << 14, (1 << 15) - 1), shift, format == Probabilities::kLog2};
    const auto plain = random.requantizer(channels, naive::bitlen(keys) + 15, random.uniform(0, 6), 2);
    const PaddedRequantizer requantizer(plain);
    std::vector<int8_t> output(c.batch * queries * channels);
    const SoftmaxParameters parameters{added, bias_heads, static_cast<int32_t>(softmax.multiplier), shift, format};
    const AttentionArguments arguments{c.shape,    q.data(),         k.data(),     v.data(),
                                       parameters, requantizer.view, output.data()};
    AttentionClock clock{[] { return uint64_t{1}; }, 0, 0, 0};
    Scratch scratch(tier().attention_scratch(c.shape, format));
    for (size_t head = 0; head < c.batch * heads; ++head) {
      const size_t cut = static_cast<size_t>(random.uniform(0, static_cast<int64_t>(queries)));
      tier().attention(arguments, head, {cut, queries}, scratch.data(), &clock);
      tier().attention(arguments, head, {0, cut}, scratch.data(), nullptr);
    }
    for (size_t b = 0; b < c.batch; ++b) {
      for (size_t h = 0; h < heads; ++h) {
        for (size_t i = 0; i < queries; ++i) {
          std::vector<int64_t> scores(keys);
          for (size_t j = 0; j < keys; ++j) {
            for (size_t d = h * head_size; d < (h + 1) * head_size; ++d) {
              scores[j] += int64_t{q[(b * queries + i) * channels + d]} * k[(b * keys + j) * channels + d];
            }
            if (bias_heads > 0) scores[j] += bias[((b * heads + h) % bias_heads * queries + i) * keys + j];
          }
          const std::vector<int64_t> p = softmax.row(scores);
          for (size_t d = h * head_size; d < (h + 1) * head_size; ++d) {
            std::vector<int64_t> values(keys);
            for (size_t j = 0; j < keys; ++j) values[j] = v[(b * keys + j) * channels + d];
            const int64_t sum = naive::weighted_sum(p, values, format == Probabilities::kLog2);
            ASSERT_EQ(output[(b * queries + i) * channels + d], plain.requantize(sum, d))
                << "head " << h << " query " << i << " channel " << d << " of " << keys << " keys";
          }
        }
      }
    }
  }
};

TEST_P(FusedAttentionTest, AgreesWithItsParts) {
  Random random(5);
  for (const Case& c : kCases) {
    for (const Probabilities format : {Probabilities::kLog2, Probabilities::kLinear}) {
      for (const int32_t shift : {-1, 0, 3, 8}) {
        check(random, c, format, 0, shift);
        check(random, c, format, c.shape.heads, shift);
        check(random, c, format, 1, shift);
      }
    }
  }
}

TEST_P(FusedAttentionTest, EveryNumberOfQueriesAndKeys) {
  Random random(6);
  for (size_t size = 1; size <= 70; ++size) {
    check(random, {1, {1, size, 71 - size, 8}}, size % 2 ? Probabilities::kLog2 : Probabilities::kLinear, 0, 4);
  }
  for (const size_t head_size : {1, 2, 3, 5, 15, 17, 33, 63, 65, 80, 128}) {
    for (const Probabilities format : {Probabilities::kLog2, Probabilities::kLinear}) {
      check(random, {1, {2, 7, 9, head_size}}, format, 0, 5);
    }
  }
}

TEST_P(FusedAttentionTest, ManyKeys) {
  Random random(7);
  for (const Probabilities format : {Probabilities::kLog2, Probabilities::kLinear}) {
    check(random, {1, {1, 3, 1031, 4}}, format, 0, 2);
    check(random, {1, {2, 11, 1370, 20}}, format, 0, 8);
    check(random, {2, {1, 3, 4097, 5}}, format, 1, 2);
    check(random, {1, {1, 1, 32768, 1}}, format, 0, 0);
  }
}

// However many keys a row has, its weights add up to about 1: docs/numerics.md, "attention values, log2".
TEST_P(FusedAttentionTest, ManyKeysAtTheExtremes) {
  Random random(8);
  for (const Rows rows : {Rows::kEqual, Rows::kOneAbove, Rows::kAtTheLimits}) {
    for (const size_t keys : {1370, 4097, 5793, 32768}) {  // 5793 keys alike: 2^12.5, where codes are rounded the most
      for (const Probabilities format : {Probabilities::kLog2, Probabilities::kLinear}) {
        for (const int32_t shift : {-15, 0, 4, 30}) check(random, {1, {1, 2, keys, 3}}, format, 0, shift, rows);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Tiers, FusedAttentionTest, every_tier(), tier_name);
INSTANTIATE_TEST_SUITE_P(Tiers, AttentionTest, every_tier(), tier_name);

}  // namespace
}  // namespace packqvit
