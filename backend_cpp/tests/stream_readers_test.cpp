// What reads codes of 16 bits for attention and linears: HeadNorm and Requantize, their definition and their checks.

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

constexpr size_t kWidth = 24;
const Shape kShape = {2, 6, kWidth};
const std::vector<int32_t> kRows = {3, 4, 5, 0, 2, 1};

// x -> Requantize -> HeadNorm, and x -> HeadNorm. `rows`: the first reads tokens in another order.
PlanBuilder readers_plan(Random& random, DataType type, bool rows) {
  PlanBuilder plan;
  const uint32_t x = plan.input(type, kShape);
  naive::Requantizer plain = random.requantizer(kWidth, type == DataType::Int16 ? 16 : 8, 6);
  plain.qmin = -32768;
  plain.qmax = 32767;
  plain.fraction_bits = 0;
  for (uint8_t& shift : plain.shift) shift = static_cast<uint8_t>(random.uniform(0, 3));
  plan::RequantizeT requantize;
  requantize.x = x;
  requantize.requantizer = plan.requantizer(plain);
  if (rows) requantize.rows = plan.constant(Shape{6, 1}, kRows);
  const uint32_t codes = requantize.output = plan.arena(DataType::Int16, kShape);
  plan.node(std::move(requantize));
  for (const uint32_t source : {codes, x}) {
    plan::HeadNormT norm;
    norm.x = source;
    norm.weight = plan.constant(Shape{kWidth}, random.numbers<int16_t>(kWidth, -32767, 32767));
    norm.bias = plan.constant(Shape{kWidth}, random.numbers<int32_t>(kWidth, -(1 << 24), 1 << 24));
    norm.heads = source == x ? 3 : 2;
    norm.centred = source == x;
    norm.epsilon = source == x ? 7 : 0;
    norm.output_shift = 19;
    norm.qmin = source == x ? -127 : -32767;
    norm.qmax = source == x ? 127 : 32767;
    norm.output = plan.output(source == x ? DataType::Int8 : DataType::Int16, kShape);
    plan.node(std::move(norm));
  }
  return plan;
}

// What the interpreter makes of x in the order of `kRows`, token by token.
std::vector<uint8_t> reordered(const std::vector<uint8_t>& x) {
  const size_t row = x.size() / 12;
  std::vector<uint8_t> result(x.size());
  for (size_t i = 0; i < 12; ++i) {
    std::memcpy(result.data() + i * row, x.data() + (i / 6 * 6 + static_cast<size_t>(kRows[i % 6])) * row, row);
  }
  return result;
}

class StreamReadersTest : public TierTest {
 protected:
  void TearDown() override { EXPECT_EQ(set_threads_option(0), Error::Ok); }
};

TEST_P(StreamReadersTest, PlansAgreeWithTheDefinition) {
  for (const DataType type : {DataType::Int8, DataType::Int16}) {
    for (uint64_t seed = 0; seed < 8; ++seed) {
      Random random(seed);
      Random again(seed);
      PlanBuilder plain = readers_plan(random, type, false);
      PlanBuilder plan = readers_plan(again, type, seed % 2 == 1);
      std::vector<Argument> arguments = arguments_of(plan.plan);
      for (uint8_t& byte : arguments[0].data) byte = static_cast<uint8_t>(random.uniform(0, 255));
      std::vector<Argument> expected = arguments;
      interpret(plain, expected);
      for (const int threads : {1, 2}) {
        ASSERT_EQ(set_threads_option(threads), Error::Ok);
        TestDelegate delegate;
        ASSERT_EQ(delegate.load(plan.blob(), plan.data_map(), tier().name), Error::Ok) << last_log();
        ASSERT_EQ(delegate.run(arguments), Error::Ok) << last_log();
        ASSERT_EQ(arguments[1].data, seed % 2 == 1 ? reordered(expected[1].data) : expected[1].data) << seed;
        ASSERT_EQ(arguments[2].data, expected[2].data) << seed;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Tiers, StreamReadersTest, every_tier(), tier_name);

const std::vector<Rule>& rules() {
  static const auto requantize = [](PlanBuilder& b) -> plan::RequantizeT& {
    return *b.plan.nodes[0]->op.AsRequantize();
  };
  static const auto norm = [](PlanBuilder& b) -> plan::HeadNormT& { return *b.plan.nodes[2]->op.AsHeadNorm(); };
  static const auto value = [](PlanBuilder& b, uint32_t index) -> plan::ValueT& { return *b.plan.values[index]; };
  static const std::vector<Rule> rules = {
      {"NoHeads", [](auto& b) { norm(b).heads = 0; }, "0 heads do not divide 24"},
      {"Heads", [](auto& b) { norm(b).heads = 5; }, "5 heads do not divide 24"},
      {"Epsilon", [](auto& b) { norm(b).epsilon = -1; }, "epsilon -1"},
      {"OutputShift", [](auto& b) { norm(b).output_shift = 31; }, "output_shift 31"},
      {"NormRange", [](auto& b) { norm(b).qmax = 128; }, "no range of Int8 codes"},
      {"NormOutput", [](auto& b) { value(b, norm(b).output).type = DataType::UInt8; }, "has the type UInt8"},
      {"NormShape", [](auto& b) { value(b, norm(b).output).shape = {2, 12, 12}; }, "needs 12 rows of 24"},
      {"NormWeight", [](auto& b) { norm(b).weight = norm(b).bias; }, "weight is Int32"},
      {"NormBias",
       [](auto& b) {
         const int32_t bias = 1 << 30;
         std::memcpy(b.data(norm(b).bias) + 8, &bias, 4);
       },
       "bias[2] = 1073741824"},
      {"Rows", [](auto& b) { requantize(b).rows = 999; }, "there is no constant 999"},
      {"RowsBeyond",
       [](auto& b) {
         const int32_t row = 6;
         std::memcpy(b.data(requantize(b).rows), &row, 4);
       },
       "x has 6 rows in a group"},
      {"Requantizer", [](auto& b) { requantize(b).requantizer.reset(); }, "requantizer is missing"},
      {"FractionBits", [](auto& b) { requantize(b).requantizer->fraction_bits = 1; }, "no fraction bits, found 1"},
      {"LeftShift", [](auto& b) { requantize(b).requantizer->left_shift = 16; }, "left_shift is 16, at most 15"},
      {"Range", [](auto& b) { requantize(b).requantizer->qmax = 32768; }, "no range of Int16 codes"},
      {"Type",
       [](auto& b) {
         requantize(b).requantizer->qmin = -128;
         requantize(b).requantizer->qmax = 127;
         requantize(b).requantizer->zero_point = 0;
       },
       "has the type Int16"},
  };
  return rules;
}

class StreamReadersRuleTest : public testing::TestWithParam<Rule> {};

TEST_P(StreamReadersRuleTest, IsCheckedAndExplained) {
  Random random(3);
  PlanBuilder builder = readers_plan(random, DataType::Int16, true);
  expect_checked(std::move(builder), GetParam());
}

INSTANTIATE_TEST_SUITE_P(PlanCheck, StreamReadersRuleTest, testing::ValuesIn(rules()), rule_name);

}  // namespace
}  // namespace packqvit
