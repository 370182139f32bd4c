// Rotary positions and products of two activations: Rotate and Multiply, their definition and their checks.

#include <gtest/gtest.h>

#include <cstring>

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
constexpr size_t kTokens = 13;
const Shape kShape = {2, kTokens, kWidth};

struct Order {
  const char* name;
  std::vector<uint32_t> partner;
};
const std::vector<Order> kOrders = {
    {"Halves", {4, 5, 6, 7, 0, 1, 2, 3}},
    {"Neighbours", {1, 0, 3, 2, 5, 4, 7, 6}},
    {"SomeAlone", {2, 3, 0, 1, 4, 5, 6, 7}},
    {"Odd", {2, 1, 0}},
};

naive::Requantizer requantizer(Random& random, int64_t qmin, int64_t qmax) {
  naive::Requantizer plain = random.requantizer(kWidth, 16, 6);
  plain.qmin = static_cast<int32_t>(qmin);
  plain.qmax = static_cast<int32_t>(qmax);
  plain.zero_point = 0;
  plain.fraction_bits = qmax > 127 ? 0 : 5;
  for (uint8_t& shift : plain.shift) shift = static_cast<uint8_t>(random.uniform(0, 6));
  return plain;
}

// x -> Rotate; x, y -> Multiply -> int8, and y, y -> Multiply -> int16.
PlanBuilder products_plan(Random& random, const std::vector<uint32_t>& partner, bool by_head) {
  PlanBuilder plan;
  const uint32_t x = plan.input(DataType::Int8, kShape);
  const uint32_t y = plan.input(DataType::Int16, kShape);
  const uint32_t d = static_cast<uint32_t>(partner.size());
  const Shape factors = {kTokens, by_head ? kWidth / d : 1, d};
  const auto factor = [&] {
    return plan.constant(factors, random.numbers<int16_t>(element_count(factors), -32767, 32767));
  };
  plan::RotateT rotate;
  rotate.x = y;
  rotate.cosine = factor();
  rotate.sine = factor();
  rotate.partner = partner;
  rotate.requantizer = plan.requantizer(requantizer(random, -127, 127));
  rotate.output = plan.output(DataType::Int8, kShape);
  plan.node(std::move(rotate));
  for (const bool wide : {false, true}) {
    plan::MultiplyT multiply;
    multiply.x = wide ? y : x;
    multiply.y = y;
    multiply.x_zero_point = wide ? 0 : -128;
    multiply.product_shift = wide ? 15 : 8;
    multiply.requantizer = plan.requantizer(requantizer(random, wide ? -32768 : -128, wide ? 32767 : 127));
    multiply.output = plan.output(wide ? DataType::Int16 : DataType::Int8, kShape);
    plan.node(std::move(multiply));
  }
  return plan;
}

class ProductsTest : public TierTest {
 protected:
  void TearDown() override { EXPECT_EQ(set_threads_option(0), Error::Ok); }
};

TEST_P(ProductsTest, PlansAgreeWithTheDefinition) {
  for (const Order& order : kOrders) {
    for (uint64_t seed = 0; seed < 4; ++seed) {
      Random random(seed);
      PlanBuilder plan = products_plan(random, order.partner, seed % 2 == 1);
      std::vector<Argument> arguments = arguments_of(plan.plan);
      for (Argument& argument : arguments) {
        for (uint8_t& byte : argument.data) byte = static_cast<uint8_t>(random.uniform(0, 255));
      }
      const int16_t ends[] = {INT16_MIN, INT16_MIN, INT16_MAX, INT16_MAX};
      std::memcpy(arguments[1].data.data(), ends, sizeof(ends));
      std::vector<Argument> expected = arguments;
      interpret(plan, expected);
      for (const int threads : {1, 2}) {
        ASSERT_EQ(set_threads_option(threads), Error::Ok);
        TestDelegate delegate;
        ASSERT_EQ(delegate.load(plan.blob(), plan.data_map(), tier().name), Error::Ok) << last_log();
        ASSERT_EQ(delegate.run(arguments), Error::Ok) << last_log();
        for (size_t i = 2; i < arguments.size(); ++i) {
          ASSERT_EQ(arguments[i].data, expected[i].data) << order.name << ", output " << i << ", seed " << seed;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Tiers, ProductsTest, every_tier(), tier_name);

const std::vector<Rule>& rules() {
  static const auto rotate = [](PlanBuilder& b) -> plan::RotateT& { return *b.plan.nodes[0]->op.AsRotate(); };
  static const auto multiply = [](PlanBuilder& b) -> plan::MultiplyT& { return *b.plan.nodes[1]->op.AsMultiply(); };
  static const auto value = [](PlanBuilder& b, uint32_t index) -> plan::ValueT& { return *b.plan.values[index]; };
  static const std::vector<Rule> rules = {
      {"NoPartners", [](auto& b) { rotate(b).partner.clear(); }, "0 channels of a head do not divide 24"},
      {"Partners", [](auto& b) { rotate(b).partner.resize(7); }, "7 channels of a head do not divide 24"},
      {"Partner", [](auto& b) { rotate(b).partner[3] = 8; }, "there is no channel 8 of 8"},
      {"Input", [](auto& b) { rotate(b).x = multiply(b).x; }, "has the type Int8"},
      {"Output", [](auto& b) { value(b, rotate(b).output).type = DataType::Int16; }, "has the type Int16"},
      {"Cosine", [](auto& b) { rotate(b).cosine = rotate(b).requantizer->multiplier; }, "cosine"},
      {"Sine", [](auto& b) { rotate(b).sine = 999; }, "there is no constant 999"},
      {"Factor",
       [](auto& b) {
         const int16_t least = INT16_MIN;
         std::memcpy(b.data(rotate(b).sine) + 4, &least, 2);
       },
       "sine[2] is -32768"},
      {"NoRequantizer", [](auto& b) { rotate(b).requantizer.reset(); }, "requantizer is missing"},
      {"Shape", [](auto& b) { value(b, multiply(b).output).shape = {2, kTokens, 12}; }, "rows of 24"},
      {"ZeroPoint", [](auto& b) { multiply(b).x_zero_point = 128; }, "zero_point 128 is no Int8 code"},
      {"WideZeroPoint", [](auto& b) { multiply(b).y_zero_point = 1; }, "around 0, not 1"},
      {"ProductShift", [](auto& b) { multiply(b).product_shift = 16; }, "product_shift is 16, at most 15"},
      {"Range", [](auto& b) { multiply(b).requantizer->qmax = 128; }, "no range of Int8 codes"},
  };
  return rules;
}

class ProductsRuleTest : public testing::TestWithParam<Rule> {};

TEST_P(ProductsRuleTest, IsCheckedAndExplained) {
  Random random(3);
  expect_checked(products_plan(random, kOrders[0].partner, false), GetParam());
}

INSTANTIATE_TEST_SUITE_P(PlanCheck, ProductsRuleTest, testing::ValuesIn(rules()), rule_name);

}  // namespace
}  // namespace packqvit
