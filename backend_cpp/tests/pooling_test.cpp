// MaxTokens, RequantizeAdd, RepeatTokens and JoinTokens: their definition and their checks.

#include <gtest/gtest.h>

#include <cstring>
#include <functional>

#include "src/thread_choice.h"
#include "tests/support/delegate.h"
#include "tests/support/interpreter.h"
#include "tests/support/log.h"
#include "tests/support/plan_rules.h"
#include "tests/support/tiers.h"

namespace packqvit {
namespace {

using executorch::runtime::Error;
using plan::DataType;

class PoolingTest : public TierTest {
 protected:
  void TearDown() override { EXPECT_EQ(set_threads_option(0), Error::Ok); }
};

TEST_P(PoolingTest, PlansAgreeWithTheDefinition) {
  for (const bool wide : {false, true}) {
    for (uint64_t seed = 0; seed < 8; ++seed) {
      Random random(seed);
      PlanBuilder plan = tiny_pooling(random, wide);
      std::vector<Argument> arguments = arguments_of(plan.plan);
      auto* image = reinterpret_cast<float*>(arguments[0].data.data());
      for (size_t i = 0; i < arguments[0].data.size() / sizeof(float); ++i) {
        image[i] = static_cast<float>(random.uniform(-300, 300)) / 100.0f;
      }
      std::vector<Argument> expected = arguments;
      interpret(plan, expected);
      for (const int threads : {1, 2}) {
        ASSERT_EQ(set_threads_option(threads), Error::Ok);
        TestDelegate delegate;
        ASSERT_EQ(delegate.load(plan.blob(), plan.data_map(), tier().name), Error::Ok) << last_log();
        ASSERT_EQ(delegate.run(arguments), Error::Ok) << last_log();
        ASSERT_EQ(arguments[1].data, expected[1].data) << seed;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Tiers, PoolingTest, every_tier(), tier_name);

const std::vector<Rule>& rules() {
  static const auto sum = [](PlanBuilder& b) -> plan::RequantizeAddT& {
    return *b.plan.nodes.back()->op.AsRequantizeAdd();
  };
  static const auto largest = [](PlanBuilder& b) -> plan::MaxTokensT& {
    for (const auto& node : b.plan.nodes) {
      if (auto* found = node->op.AsMaxTokens()) return *found;
    }
    std::abort();
  };
  static const auto repeat = [](PlanBuilder& b) -> plan::RepeatTokensT& {
    for (const auto& node : b.plan.nodes) {
      if (auto* found = node->op.AsRepeatTokens()) return *found;
    }
    std::abort();
  };
  static const auto join = [](PlanBuilder& b) -> plan::JoinTokensT& {
    for (const auto& node : b.plan.nodes) {
      if (auto* found = node->op.AsJoinTokens()) return *found;
    }
    std::abort();
  };
  static const auto value = [](PlanBuilder& b, uint32_t index) -> plan::ValueT& { return *b.plan.values[index]; };
  static const std::vector<Rule> rules = {
      {"MaxRange", [](auto& b) { largest(b).requantizer->qmax = 32768; }, "no range of Int16 codes"},
      {"MaxZeroPoint", [](auto& b) { largest(b).requantizer->zero_point = 32768; }, "zero_point 32768"},
      {"MaxBias", [](auto& b) { largest(b).bias = -1; }, "there is no constant -1"},
      {"MaxBiasType", [](auto& b) { largest(b).bias = largest(b).requantizer->multiplier; }, "bias is Int16"},
      {"MaxBiasLarge",
       [](auto& b) {
         const int32_t bias = INT32_MAX;
         std::memcpy(b.data(largest(b).bias), &bias, sizeof(bias));
       },
       "bias[0] = 2147483647"},
      {"MaxShape", [](auto& b) { value(b, largest(b).output).shape = {2, 2, 4}; }, "needs 2 rows of 8"},
      {"MaxOutput", [](auto& b) { value(b, largest(b).output).type = DataType::UInt8; }, "has the type UInt8"},
      {"MaxLeftShift", [](auto& b) { largest(b).requantizer->left_shift = 16; }, "left_shift is 16"},
      {"MaxFractionBits", [](auto& b) { largest(b).requantizer->fraction_bits = 1; }, "no fraction bits, found 1"},
      {"RepeatAbsent", [](auto& b) { repeat(b).tokens = -1; }, "there is no constant -1"},
      {"RepeatType", [](auto& b) { repeat(b).tokens = largest(b).bias; }, "no dense constant of the output's type"},
      {"RepeatSize", [](auto& b) { repeat(b).tokens = sum(b).residual_multiplier; }, "needs 16 elements"},
      {"JoinOperand", [](auto& b) { join(b).y = 999; }, "there is no value 999"},
      {"JoinOutput", [](auto& b) { join(b).y = largest(b).output; }, "needs 16 rows of 8"},
      {"JoinSize", [](auto& b) { join(b).y = join(b).x; }, "needs 28 rows of 8"},
      {"JoinShape", [](auto& b) { value(b, join(b).x).shape = {1, 14, 8}; }, "needs [1, 3, 8]"},
      {"SumRequantizer", [](auto& b) { sum(b).requantizer.reset(); }, "requantizer is missing"},
      {"SumFractionBits", [](auto& b) { sum(b).requantizer->fraction_bits = 1; }, "no fraction bits, found 1"},
      {"SumResidual", [](auto& b) { sum(b).residual = 999; }, "there is no value 999"},
      {"SumResidualOfTokens",
       [](auto& b) {
         for (const auto& node : b.plan.nodes) {
           if (const auto* first = node->op.AsRequantizeAdd(); first != nullptr && first != &sum(b)) {
             sum(b).residual = first->output;
           }
         }
       },
       "needs 2 rows of 8"},
      {"SumMultiplier", [](auto& b) { sum(b).residual_multiplier = -1; }, "there is no constant -1"},
      {"SumMultiplierNegative",
       [](auto& b) {
         const int16_t multiplier = -1;
         std::memcpy(b.data(sum(b).residual_multiplier) + 2, &multiplier, sizeof(multiplier));
       },
       "residual_multiplier[1] is negative"},
      {"SumShape", [](auto& b) { value(b, sum(b).output).shape = {2, 2, 4}; }, "needs 2 rows of 8"},
      {"SumType", [](auto& b) { value(b, sum(b).output).type = DataType::Int8; }, "has the type Int16"},
  };
  return rules;
}

class PoolingRuleTest : public testing::TestWithParam<Rule> {};

TEST_P(PoolingRuleTest, IsCheckedAndExplained) {
  Random random(3);
  PlanBuilder builder = tiny_pooling(random, true);
  expect_checked(std::move(builder), GetParam());
}

INSTANTIATE_TEST_SUITE_P(PlanCheck, PoolingRuleTest, testing::ValuesIn(rules()), rule_name);

}  // namespace
}  // namespace packqvit
