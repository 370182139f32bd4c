// Groups of a softmax, and rows that layer norms and attention read and write where they are.

#include <gtest/gtest.h>

#include <set>

#include "src/thread_choice.h"
#include "tests/support/delegate.h"
#include "tests/support/interpreter.h"
#include "tests/support/log.h"
#include "tests/support/tiers.h"
#include "tests/support/windows_plan.h"

namespace packqvit {
namespace {

using executorch::runtime::Error;
using plan::DataType;

const WindowsCase kCases[] = {
    {1, 4, 9, 2, 8, true, true, false},
    {2, 4, 9, 2, 8, false, true, false},
    {2, 2, 49, 3, 32, true, true, false},
    {3, 3, 5, 1, 17, false, false, true},
    {1, 1, 64, 2, 5, true, false, false},
    {2, 6, 16, 2, 16, true, true, true},
    {2, 1, 2, 1, 1, false, true, false},
    // A bias of more than 32 KiB, which is written out a head at a time.
    {2, 2, 100, 2, 8, true, true, false},
    {1, 3, 100, 2, 3, true, true, true},
    // Enough for two threads to take the attention into a chain.
    {4, 40, 4, 2, 8, true, true, false},
    {4, 40, 4, 2, 8, false, true, true},
};

class WindowsTest : public TierTest {
 protected:
  void TearDown() override { EXPECT_EQ(set_threads_option(0), Error::Ok); }

  // Runs a plan with one and with two threads.
  void expect_outputs(PlanBuilder& plan, std::vector<Argument> arguments, const std::vector<Argument>& expected) {
    for (const int threads : {1, 2}) {
      ASSERT_EQ(set_threads_option(threads), Error::Ok);
      TestDelegate delegate;
      ASSERT_EQ(delegate.load(plan.blob(), plan.data_map(), tier().name), Error::Ok) << last_log();
      for (int repeat = 0; repeat < 3; ++repeat) {
        std::fill(arguments.back().data.begin(), arguments.back().data.end(), uint8_t{0});
        ASSERT_EQ(delegate.run(arguments), Error::Ok) << last_log();
        ASSERT_EQ(arguments.back().data, expected.back().data) << threads << " threads";
      }
    }
  }
};

TEST_P(WindowsTest, MovesOfRowsAndMasksAgreeWithTheDefinition) {
  for (const WindowsCase& c : kCases) {
    for (uint64_t seed = 0; seed < 4; ++seed) {
      Random random(seed);
      Random again(seed);
      PlanBuilder plain = windows_plan(random, c, false);
      PlanBuilder plan = windows_plan(again, c, true);
      std::vector<Argument> arguments = arguments_of(plan.plan);
      for (uint8_t& byte : arguments[0].data) byte = static_cast<uint8_t>(random.uniform(0, 255));
      std::vector<Argument> expected = arguments;
      interpret(plain, expected);
      expect_outputs(plan, arguments, expected);
      if (HasFatalFailure()) FAIL() << c.windows << " windows of " << c.tokens << ", seed " << seed;
      if (c.tokens > 4 && c.head_size > 1) {
        const std::set<uint8_t> distinct(expected[1].data.begin(), expected[1].data.end());
        EXPECT_GT(distinct.size(), 10u) << "the test's numbers are all alike";
      }
    }
  }
}

TEST_P(WindowsTest, ASoftmaxOfItsOwnMasksTheGroups) {
  for (const bool with_bias : {false, true}) {
    for (const size_t tokens : {size_t{1}, size_t{9}, size_t{49}}) {
      Random random(tokens);
      PlanBuilder plan;
      plan::SoftmaxT softmax;
      softmax.x = plan.input(DataType::Int32, {6, 2, tokens, tokens});
      if (with_bias) {
        softmax.bias =
            plan.constant(Shape{2, tokens, tokens}, random.numbers<int32_t>(2 * tokens * tokens, -(1 << 29), 1 << 13));
      }
      auto groups = random.numbers<uint8_t>(3 * tokens, 0, 2);
      std::fill_n(groups.begin(), tokens, uint8_t{1});
      softmax.groups = plan.constant(Shape{3, tokens}, groups);
      softmax.multiplier = 20000;
      softmax.shift = 1;
      softmax.format = with_bias ? plan::ProbabilityFormat::Linear : plan::ProbabilityFormat::Log2;
      softmax.output = plan.output(DataType::UInt8, {6, 2, tokens, tokens});
      plan.node(std::move(softmax));
      std::vector<Argument> arguments = arguments_of(plan.plan);
      const auto scores = random.numbers<int32_t>(arguments[0].data.size() / 4, -(1 << 13), 1 << 13);
      std::memcpy(arguments[0].data.data(), scores.data(), arguments[0].data.size());
      std::vector<Argument> expected = arguments;
      interpret(plan, expected);
      expect_outputs(plan, arguments, expected);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Tiers, WindowsTest, every_tier(), tier_name);

}  // namespace
}  // namespace packqvit
