// Weights in segments of their own: each is loaded, checked, packed and given back before the next.

#include <gtest/gtest.h>

#include <cstring>

#include "src/steps/weight_packer.h"
#include "tests/support/delegate.h"
#include "tests/support/interpreter.h"
#include "tests/support/log.h"

namespace packqvit {
namespace {

using executorch::runtime::Error;

class SegmentsTest : public testing::Test {
 protected:
  SegmentsTest() { builder_.give_weights_segments(); }

  // The second of the weights' segments.
  plan::SegmentT& second() { return *builder_.plan.segments[2]; }

  void expect_refused(Error error, const char* reason) {
    const FakeDataMap data = builder_.data_map();
    TestDelegate delegate;
    EXPECT_EQ(delegate.load(builder_.blob(), data), error);
    EXPECT_NE(last_log().find(reason), std::string::npos) << last_log();
    EXPECT_EQ(data.in_use(), 0u) << "a segment was kept";
    EXPECT_EQ(data.most_in_use(), 2u) << "the weight in front was not loaded first";
  }

  Random random_{11};
  PlanBuilder builder_ = tiny_transformer(random_, false);
};

TEST_F(SegmentsTest, AreInMemoryOneAfterTheOtherAndGiveTheSameBits) {
  const FakeDataMap data = builder_.data_map();
  ASSERT_GT(builder_.plan.segments.size(), 6u);
  TestDelegate delegate;
  ASSERT_EQ(delegate.load(builder_.blob(), data), Error::Ok) << last_log();
  EXPECT_EQ(data.most_in_use(), 2u) << "the small constants and one weight";
  EXPECT_EQ(data.in_use(), 0u) << "a segment was kept";

  std::vector<Argument> arguments = arguments_of(builder_.plan);
  for (size_t i = 0; i < arguments[0].data.size(); i += sizeof(float)) {
    const float number = static_cast<float>(random_.uniform(-6000, 6000)) / 1000.0f;
    std::memcpy(arguments[0].data.data() + i, &number, sizeof(number));
  }
  std::vector<Argument> expected = arguments;
  interpret(builder_, expected);
  ASSERT_EQ(delegate.run(arguments), Error::Ok) << last_log();
  for (size_t i = 1; i < arguments.size(); ++i) EXPECT_EQ(arguments[i].data, expected[i].data) << "output " << i - 1;
}

TEST_F(SegmentsTest, WhatSeveralNodesReadIsLoadedAgain) {
  // Query and value have weights of one shape.
  builder_.plan.nodes[5]->op.AsLinear()->weight = builder_.plan.nodes[3]->op.AsLinear()->weight;
  const FakeDataMap data = builder_.data_map();
  TestDelegate delegate;
  ASSERT_EQ(delegate.load(builder_.blob(), data), Error::Ok) << last_log();
  std::vector<Argument> arguments = arguments_of(builder_.plan);
  std::vector<Argument> expected = arguments;
  interpret(builder_, expected);
  ASSERT_EQ(delegate.run(arguments), Error::Ok) << last_log();
  for (size_t i = 1; i < arguments.size(); ++i) EXPECT_EQ(arguments[i].data, expected[i].data) << "output " << i - 1;
}

TEST_F(SegmentsTest, ABadChecksumOfTheSecondWeight) {
  builder_.packed_plan();
  builder_.keep_segments = true;
  second().crc32 ^= 1;
  const FakeDataMap data = builder_.data_map();
  TestDelegate delegate;
  EXPECT_EQ(delegate.load(builder_.blob(), data), Error::InvalidProgram);
  EXPECT_NE(last_log().find("checksum of segment 2"), std::string::npos) << last_log();
  EXPECT_EQ(data.in_use(), 0u) << "a segment was kept";
}

TEST_F(SegmentsTest, AMissingSecondWeight) {
  second().key = "other";
  expect_refused(Error::NotFound, "segment 2 'other' is not in the program");
}

TEST_F(SegmentsTest, ASecondWeightOfAnotherSize) {
  builder_.packed_plan();
  builder_.keep_segments = true;
  second().size += 64;
  const FakeDataMap data = builder_.data_map();
  TestDelegate delegate;
  EXPECT_EQ(delegate.load(builder_.blob(), data), Error::InvalidProgram);
  EXPECT_NE(last_log().find("segment 2"), std::string::npos) << last_log();
  EXPECT_EQ(data.in_use(), 0u) << "a segment was kept";
}

TEST_F(SegmentsTest, ACodeOutsideOfTheGridInTheSecondWeight) {
  const auto& weights = builder_.plan.nodes[3]->op.AsLinear()->weight;
  *builder_.data(weights) = 0x80;
  expect_refused(Error::InvalidProgram, "weight[0, 0] = -128");
}

TEST_F(SegmentsTest, ALateNodeThatDoesNotHoldUndoesAll) {
  builder_.plan.nodes.back()->op.AsMeanTokens()->bias = -1;
  expect_refused(Error::InvalidProgram, "there is no constant -1");
}

TEST(WeightPacker, PacksOnceForEachTile) {
  const std::vector<uint8_t> codes(64 * 64, 1);
  const WeightView view{codes.data(), 64, 64, 8};
  WeightMemory memory;
  WeightPacker packer(memory);
  PackedWeights first;
  PackedWeights again;
  PackedWeights other_tile;
  PackedWeights other_weight;
  ASSERT_TRUE(packer.pack(0, view, {8, 16, 4}, first));
  ASSERT_TRUE(packer.pack(0, view, {8, 16, 4}, again));
  ASSERT_TRUE(packer.pack(0, view, {8, 32, 4}, other_tile));
  ASSERT_TRUE(packer.pack(1, view, {8, 16, 4}, other_weight));
  EXPECT_EQ(first.data, again.data);
  EXPECT_NE(first.data, other_tile.data);
  EXPECT_NE(first.data, other_weight.data);
  EXPECT_EQ(again.n, 64u);
}

}  // namespace
}  // namespace packqvit
