// Relative positions that depend on the query: their definition, alone and inside attention, and their checks.

#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "src/thread_choice.h"
#include "tests/support/delegate.h"
#include "tests/support/interpreter.h"
#include "tests/support/log.h"
#include "tests/support/plan_rules.h"
#include "tests/support/relative_plan.h"
#include "tests/support/tiers.h"

namespace packqvit {
namespace {

using executorch::runtime::Error;
using plan::DataType;

const RelativeCase kCases[] = {
    {1, 1, 1, 1, 1, false, false, false, false},
    {2, 3, 5, 2, 3, true, false, false, true},
    {2, 2, 16, 4, 4, false, true, true, false},
    {1, 2, 8, 1, 37, true, true, false, false},
    {3, 1, 32, 7, 7, false, false, true, true},
    // Enough images for two threads to take the attention into a chain.
    {40, 2, 4, 2, 2, true, true, true, false},
    // More queries than are looked at at a time.
    {1, 1, 4, 25, 44, false, false, true, false},
    {1, 2, 3, 11, 48, true, true, false, true},
};

class RelativeTest : public TierTest {
 protected:
  void TearDown() override { EXPECT_EQ(set_threads_option(0), Error::Ok); }

  void expect_output(PlanBuilder& plan, std::vector<Argument> arguments, const std::vector<Argument>& expected) {
    for (const int threads : {1, 2}) {
      ASSERT_EQ(set_threads_option(threads), Error::Ok);
      TestDelegate delegate;
      ASSERT_EQ(delegate.load(plan.blob(), plan.data_map(), tier().name), Error::Ok) << last_log();
      ASSERT_EQ(delegate.run(arguments), Error::Ok) << last_log();
      ASSERT_EQ(arguments.back().data, expected.back().data) << threads << " threads";
    }
  }
};

TEST_P(RelativeTest, AttentionAgreesWithTheDefinitionOfItsOperators) {
  for (const RelativeCase& c : kCases) {
    for (uint64_t seed = 0; seed < 2; ++seed) {
      Random random(seed);
      Random again(seed);
      PlanBuilder parts = relative_plan(random, c, false);
      PlanBuilder fused = relative_plan(again, c, true);
      std::vector<Argument> arguments = arguments_of(parts.plan);
      for (size_t i = 0; i < 3; ++i) {
        const auto codes = random.numbers<int8_t>(arguments[i].data.size(), i == 2 ? -127 : -128, 127);
        std::memcpy(arguments[i].data.data(), codes.data(), codes.size());
      }
      std::vector<Argument> expected = arguments;
      interpret(parts, expected);
      expect_output(parts, arguments, expected);
      expect_output(fused, arguments, expected);
      if (HasFatalFailure()) FAIL() << c.rows << " x " << c.columns << ", seed " << seed;
      if (c.rows > 1 && c.head_size > 4) {
        const std::set<uint8_t> distinct(expected[3].data.begin(), expected[3].data.end());
        EXPECT_GT(distinct.size(), 10u) << "the test's numbers are all alike";
      }
    }
  }
}

// Any program may add to what it is handed. It must not trap then.
TEST_P(RelativeTest, ScoresBeyondTheContractDoNotTrap) {
  Random random(1);
  PlanBuilder plan;
  plan::AddRelativeBiasT op;
  op.x = plan.input(DataType::Int32, {1, 1, 6, 6});
  op.q = plan.input(DataType::Int8, {1, 6, 4});
  op.relative = std::make_unique<plan::RelativeBiasT>();
  op.relative->numbers = plan.constant(Shape{1, 8, 4}, random.numbers<int8_t>(32, 127, 127));
  op.relative->rows = 2;
  op.relative->columns = 3;
  op.relative->multiplier = 32767;
  op.relative->shift = 5;
  op.output = plan.output(DataType::Int32, {1, 1, 6, 6});
  plan.node(std::move(op));
  std::vector<Argument> arguments = arguments_of(plan.plan);
  const std::vector<int32_t> scores(36, INT32_MAX);
  std::memcpy(arguments[0].data.data(), scores.data(), arguments[0].data.size());
  std::fill(arguments[1].data.begin(), arguments[1].data.end(), uint8_t{127});
  TestDelegate delegate;
  ASSERT_EQ(delegate.load(plan.blob(), plan.data_map(), tier().name), Error::Ok) << last_log();
  EXPECT_EQ(delegate.run(arguments), Error::Ok) << last_log();
}

INSTANTIATE_TEST_SUITE_P(Tiers, RelativeTest, every_tier(), tier_name);

plan::RelativeBiasT& relative(PlanBuilder& b) { return *b.plan.nodes[1]->op.AsAddRelativeBias()->relative; }

void set_shape(PlanBuilder& b, uint32_t value, std::vector<uint32_t> shape) {
  b.plan.values[value]->shape = std::move(shape);
}

const std::vector<Rule>& rules() {
  static const auto add = [](PlanBuilder& b) -> plan::AddRelativeBiasT& {
    return *b.plan.nodes[1]->op.AsAddRelativeBias();
  };
  static const std::vector<Rule> rules = {
      {"Missing", [](auto& b) { add(b).relative.reset(); }, "relative is missing"},
      {"Rows", [](auto& b) { relative(b).rows = 3; }, "a map of 3 x 3 does not hold 6 queries and 6 keys"},
      {"NoRows", [](auto& b) { relative(b).rows = 0; }, "a map of 0 x 3 does not hold"},
      {"Large", [](auto& b) { relative(b).rows = relative(b).columns = UINT32_MAX; },
       "a map of 4294967295 x 4294967295 does not hold"},
      {"Distances",
       [](auto& b) {
         relative(b).rows = 1;
         relative(b).columns = 6;
       },
       "numbers"},
      {"Multiplier", [](auto& b) { relative(b).multiplier = -1; }, "multiplier -1 of relative is negative"},
      {"Shift", [](auto& b) { relative(b).shift = 31; }, "shift of relative is 31, at most 30"},
      {"Reach",
       [](auto& b) {
         relative(b).multiplier = 32767;
         relative(b).shift = 0;
       },
       "are beyond 134217728"},
      {"NoNumbers", [](auto& b) { relative(b).numbers = -1; }, "numbers"},
      {"Numbers", [](auto& b) { b.plan.constants[static_cast<size_t>(relative(b).numbers)]->shape = {4, 4, 5}; },
       "numbers"},
      {"Queries", [](auto& b) { add(b).q = add(b).x; }, "has the type Int32"},
      {"Scores", [](auto& b) { add(b).x = add(b).q; }, "has the type Int8"},
      {"Output", [](auto& b) { set_shape(b, add(b).output, {2, 2, 6, 3, 2}); }, "output"},
      {"Heads", [](auto& b) { add(b).q = b.input(DataType::Int8, {2, 6, 9}); }, "2 heads do not divide 9 channels"},
  };
  return rules;
}

class RelativeRuleTest : public testing::TestWithParam<Rule> {};

TEST_P(RelativeRuleTest, IsCheckedAndExplained) {
  Random random(3);
  expect_checked(relative_plan(random, {2, 2, 5, 2, 3, false, false, false, false}, false), GetParam());
}

INSTANTIATE_TEST_SUITE_P(PlanCheck, RelativeRuleTest, testing::ValuesIn(rules()), rule_name);

// Of an attention, beside what else it may have.
const std::vector<Rule>& attention_rules() {
  static const auto attention = [](PlanBuilder& b) -> plan::AttentionT& { return *b.plan.nodes[0]->op.AsAttention(); };
  static const std::vector<Rule> rules = {
      {"Columns", [](auto& b) { attention(b).relative->columns = 2; }, "a map of 2 x 2 does not hold"},
      {"Groups", [](auto& b) { attention(b).groups = b.constant(Shape{1, 6}, std::vector<uint8_t>(6)); },
       "groups or relative positions, not both"},
      {"Query",
       [](auto& b) {
         attention(b).q = UINT32_MAX;
         attention(b).query = b.constant(Shape{1, 6, 10}, std::vector<int8_t>(60));
       },
       "relative positions are of queries that are a value"},
  };
  return rules;
}

class RelativeAttentionRuleTest : public testing::TestWithParam<Rule> {};

TEST_P(RelativeAttentionRuleTest, IsCheckedAndExplained) {
  Random random(3);
  expect_checked(relative_plan(random, {2, 2, 5, 2, 3, false, true, false, false}, true), GetParam());
}

INSTANTIATE_TEST_SUITE_P(PlanCheck, RelativeAttentionRuleTest, testing::ValuesIn(attention_rules()), rule_name);

}  // namespace
}  // namespace packqvit
