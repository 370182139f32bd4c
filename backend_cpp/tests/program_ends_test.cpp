// The operators at a program's ends: bytes in, best classes out. What their plans may not hold is refused.

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <limits>

#include "tests/support/delegate.h"
#include "tests/support/log.h"
#include "tests/support/plan_rules.h"

namespace packqvit {
namespace {

using executorch::runtime::Error;
using plan::DataType;

// Bytes [2, 3, 5, 3] to codes, and scores [2, 7] to their three best. The values: bytes, codes, scores, index, best.
PlanBuilder make_plan() {
  PlanBuilder builder;
  plan::PixelCodesT codes;
  codes.x = builder.input(DataType::UInt8, {2, 3, 5, 3});
  codes.channels_last = true;
  codes.output = builder.output(DataType::Int8, {2, 3, 3, 5});
  plan::TopKT top;
  top.x = builder.input(DataType::Float32, {2, 7});
  top.output = builder.output(DataType::Int32, {2, 3});
  plan::TakeScoresT take;
  take.x = top.x;
  take.index = top.output;
  take.output = builder.output(DataType::Float32, {2, 3});
  builder.node(std::move(codes));
  builder.node(std::move(top));
  builder.node(std::move(take));
  return builder;
}

template <typename T>
std::vector<T> elements(const Argument& argument) {
  std::vector<T> numbers(argument.data.size() / sizeof(T));
  std::memcpy(numbers.data(), argument.data.data(), argument.data.size());
  return numbers;
}

TEST(ProgramEnds, ComputeWhatTheySay) {
  PlanBuilder builder = make_plan();
  TestDelegate delegate;
  ASSERT_EQ(delegate.load(builder), Error::Ok) << last_log();
  std::vector<Argument> arguments = arguments_of(builder.plan);
  for (size_t i = 0; i < arguments[0].data.size(); ++i) arguments[0].data[i] = static_cast<uint8_t>(37 * i);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> scores = {1, 5, -2, 5, 0, 5, 4, -3, -1, nan, -1, -0.0f, 0.0f, -9};
  std::memcpy(arguments[1].data.data(), scores.data(), arguments[1].data.size());
  ASSERT_EQ(delegate.run(arguments), Error::Ok) << last_log();

  const auto codes = elements<int8_t>(arguments[2]);
  for (size_t n = 0; n < 2; ++n) {
    for (size_t pixel = 0; pixel < 15; ++pixel) {
      for (size_t c = 0; c < 3; ++c) {
        const int byte = arguments[0].data[(n * 15 + pixel) * 3 + c];
        ASSERT_EQ(codes[(n * 3 + c) * 15 + pixel], byte - 128) << n << ", " << pixel << ", " << c;
      }
    }
  }
  EXPECT_EQ(elements<int32_t>(arguments[3]), (std::vector<int32_t>{1, 3, 5, 2, 5, 4}));
  const auto best = elements<float>(arguments[4]);
  EXPECT_EQ(std::vector<float>(best.begin(), best.begin() + 3), (std::vector<float>{5, 5, 5}));
  EXPECT_TRUE(best[3] != best[3] && best[4] == 0 && best[5] == 0);
}

TEST(ProgramEnds, AnIndexBeyondTheClassesIsNoticed) {
  for (const int32_t index : {-1, 7}) {
    PlanBuilder builder;
    plan::TakeScoresT take;
    take.x = builder.input(DataType::Float32, {1, 7});
    take.index = builder.input(DataType::Int32, {1, 1});
    take.output = builder.output(DataType::Float32, {1, 1});
    builder.node(std::move(take));
    TestDelegate delegate;
    ASSERT_EQ(delegate.load(builder), Error::Ok) << last_log();
    std::vector<Argument> arguments = arguments_of(builder.plan);
    std::memcpy(arguments[1].data.data(), &index, sizeof(index));
    EXPECT_EQ(delegate.run(arguments), Error::InvalidArgument);
    EXPECT_NE(last_log().find("there is no class"), std::string::npos) << last_log();
  }
}

// The values in the order of make_plan().
enum Value : size_t { kBytes, kCodes, kScores, kIndex, kBest };

plan::ValueT& value(PlanBuilder& builder, Value index) { return *builder.plan.values[index]; }
plan::OperatorUnion& op(PlanBuilder& builder, size_t node) { return builder.plan.nodes[node]->op; }

class ProgramEndsRules : public testing::TestWithParam<Rule> {};

TEST_P(ProgramEndsRules, IsRefused) { expect_checked(make_plan(), GetParam()); }

INSTANTIATE_TEST_SUITE_P(
    All, ProgramEndsRules,
    testing::Values(
        Rule{"BytesType", [](auto& b) { value(b, kBytes).type = DataType::Int8; }, "has the type Int8"},
        Rule{"BytesRank", [](auto& b) { value(b, kBytes).shape = {2, 15, 3}; }, "needs 4 axes"},
        Rule{"BytesLayout", [](auto& b) { op(b, 0).AsPixelCodes()->channels_last = false; }, "needs [2, 3, 5, 3]"},
        Rule{"BytesInput", [](auto& b) { op(b, 0).AsPixelCodes()->x = 99; }, "there is no value 99"},
        Rule{"CodesType", [](auto& b) { value(b, kCodes).type = DataType::UInt8; }, "has the type UInt8"},
        Rule{"CodesShape", [](auto& b) { value(b, kCodes).shape = {2, 3, 5, 3}; }, "needs [2, 3, 3, 5]"},
        Rule{"ScoresType", [](auto& b) { value(b, kScores).type = DataType::Int32; }, "has the type Int32"},
        Rule{"IndexType", [](auto& b) { value(b, kIndex).type = DataType::Int16; }, "has the type Int16"},
        Rule{"MoreThanAll", [](auto& b) { value(b, kIndex).shape = {2, 8}; }, "k is 8, at most 7 is supported"},
        Rule{"IndexRows", [](auto& b) { value(b, kIndex).shape = {3, 3}; }, "needs 2 rows of 3"},
        Rule{"BestType", [](auto& b) { value(b, kBest).type = DataType::Int32; }, "has the type Int32"},
        Rule{"BestShape", [](auto& b) { value(b, kBest).shape = {2, 4}; }, "needs 2 rows of 3"},
        Rule{"NoIndex", [](auto& b) { op(b, 2).AsTakeScores()->index = 99; }, "index: there is no value 99"}),
    rule_name);

}  // namespace
}  // namespace packqvit
