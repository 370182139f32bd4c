#include <executorch/extension/tensor/tensor.h>
#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "src/plan/check.h"
#include "src/thread_choice.h"
#include "tests/support/delegate.h"
#include "tests/support/interpreter.h"
#include "tests/support/log.h"
#include "tests/support/tiers.h"

namespace packqvit {
namespace {

using executorch::aten::ScalarType;
using executorch::runtime::Error;

void set_floats(Random& random, std::vector<uint8_t>& data) {
  for (size_t i = 0; i < data.size(); i += sizeof(float)) {
    const float number = static_cast<float>(random.uniform(-6000, 6000)) / 1000.0f;
    std::memcpy(data.data() + i, &number, sizeof(number));
  }
}

class ExecutorTest : public TierTest {
 protected:
  void load(TestDelegate& delegate, PlanBuilder& plan) {
    ASSERT_EQ(delegate.load(plan.blob(), plan.data_map(), tier().name), Error::Ok) << last_log();
  }

  void expect_the_definition(Random& random, PlanBuilder& plan) {
    TestDelegate delegate;
    load(delegate, plan);
    for (int repeat = 0; repeat < 3; ++repeat) {
      std::vector<Argument> arguments = arguments_of(plan.plan);
      set_floats(random, arguments[0].data);
      std::vector<Argument> expected = arguments;
      interpret(plan, expected);
      ASSERT_EQ(delegate.run(arguments), Error::Ok) << last_log();
      for (size_t i = 1; i < arguments.size(); ++i)
        ASSERT_EQ(arguments[i].data, expected[i].data) << "output " << i - 1;
      const std::set<uint8_t> distinct(expected[1].data.begin(), expected[1].data.end());
      EXPECT_GT(distinct.size(), 10u) << "the test's numbers are all alike";
    }
  }
};

TEST_P(ExecutorTest, AWholeModelAgreesWithTheDefinition) {
  for (const bool wide : {false, true}) {
    for (uint64_t seed = 0; seed < 20; ++seed) {
      Random random(seed);
      PlanBuilder plan = tiny_transformer(random, wide);
      expect_the_definition(random, plan);
    }
  }
}

TEST_P(ExecutorTest, APostNormAgreesWithTheDefinition) {
  for (const bool wide : {false, true}) {
    for (uint64_t seed = 0; seed < 20; ++seed) {
      Random random(seed);
      PlanBuilder plan = tiny_post_norm(random, wide);
      expect_the_definition(random, plan);
    }
  }
}

// Each sum in the place of its residual, where nothing else reads that.
size_t write_over_residuals(PlanBuilder& builder) {
  size_t count = 0;
  for (const auto& node : builder.plan.nodes) {
    const auto* linear = node->op.AsLinear();
    const auto* norm = node->op.AsLayerNorm();
    const int64_t residual = linear != nullptr ? linear->residual : (norm != nullptr ? norm->residual : -1);
    if (residual < 0) continue;
    const uint32_t sum = linear != nullptr ? linear->output : norm->output;
    if (builder.plan.values[sum]->storage != plan::Storage::Arena) continue;
    builder.plan.values[sum]->location = builder.plan.values[static_cast<size_t>(residual)]->location;
    ++count;
  }
  return count;
}

TEST_P(ExecutorTest, SumsMayTakeThePlaceOfTheirResiduals) {
  for (const bool wide : {false, true}) {
    for (uint64_t seed = 0; seed < 10; ++seed) {
      Random random(seed);
      PlanBuilder plan = tiny_transformer(random, wide);
      EXPECT_EQ(write_over_residuals(plan), 2u);
      expect_the_definition(random, plan);
      PlanBuilder post_norm = tiny_post_norm(random, wide);
      EXPECT_GT(write_over_residuals(post_norm), 0u);
      expect_the_definition(random, post_norm);
    }
  }
}

TEST_P(ExecutorTest, FusedOperatorsGiveTheSameBits) {
  for (const bool wide : {false, true}) {
    for (uint64_t seed = 0; seed < 20; ++seed) {
      Random random(seed);
      PlanBuilder plan = tiny_transformer(random, wide);
      std::vector<Argument> arguments = arguments_of(plan.plan);
      set_floats(random, arguments[0].data);
      std::vector<Argument> expected = arguments;
      interpret(plan, expected);
      fuse(plan);
      TestDelegate delegate;
      load(delegate, plan);
      ASSERT_EQ(delegate.run(arguments), Error::Ok) << last_log();
      for (size_t i = 1; i < arguments.size(); ++i) ASSERT_EQ(arguments[i].data, expected[i].data) << "seed " << seed;
    }
  }
}

// Attention of `queries` constant queries that all images share; k and v are the inputs.
PlanBuilder pooling(Random& random, size_t batch, size_t queries, size_t keys, bool log2) {
  constexpr size_t kHeads = 2;
  constexpr size_t kChannels = 12;
  PlanBuilder builder;
  plan::AttentionScoresT scores;
  scores.k = builder.input(plan::DataType::Int8, {batch, keys, kChannels});
  scores.q = kNoValue;
  scores.query = builder.constant(Shape{1, queries, kChannels}, random.numbers<int8_t>(queries * kChannels, -127, 127));
  scores.heads = kHeads;
  scores.output = builder.arena(plan::DataType::Int32, {batch, kHeads, queries, keys});
  plan::SoftmaxT softmax;
  softmax.x = scores.output;
  softmax.multiplier = 20000;
  softmax.shift = 4;
  softmax.format = log2 ? plan::ProbabilityFormat::Log2 : plan::ProbabilityFormat::Linear;
  softmax.output = builder.arena(plan::DataType::UInt8, {batch, kHeads, queries, keys});
  plan::AttentionValuesT values;
  values.v = builder.input(plan::DataType::Int8, {batch, keys, kChannels});
  values.probabilities = softmax.output;
  values.format = softmax.format;
  values.requantizer = builder.requantizer(random.requantizer(kChannels, log2 ? 21 : 15, 6, 2));
  values.output = builder.output(plan::DataType::Int8, {batch, queries, kChannels});
  builder.node(std::move(scores));
  builder.node(std::move(softmax));
  builder.node(std::move(values));
  return builder;
}

TEST_P(ExecutorTest, ConstantQueriesServeAllImages) {
  for (uint64_t seed = 0; seed < 24; ++seed) {
    Random random(seed);
    const size_t queries = seed % 3 == 0 ? 1 : 7;
    PlanBuilder plan = pooling(random, 1 + seed % 4, queries, 5 + 13 * (seed % 5), seed % 2 == 0);
    std::vector<Argument> arguments = arguments_of(plan.plan);
    for (size_t i = 0; i < 2; ++i) {
      for (uint8_t& byte : arguments[i].data) byte = static_cast<uint8_t>(random.uniform(-127, 127));
    }
    std::vector<Argument> expected = arguments;
    interpret(plan, expected);
    for (const bool fused : {false, true}) {
      if (fused) fuse(plan);
      TestDelegate delegate;
      load(delegate, plan);
      ASSERT_EQ(delegate.run(arguments), Error::Ok) << last_log();
      ASSERT_EQ(arguments[2].data, expected[2].data) << "seed " << seed << ", fused " << fused;
    }
  }
}

TEST_P(ExecutorTest, ConstantQueriesAreChecked) {
  const auto refused = [&](const char* reason, auto change) {
    for (const bool fused : {false, true}) {
      Random random(1);
      PlanBuilder plan = pooling(random, 2, 3, 9, true);
      if (fused) fuse(plan);
      plan::OperatorUnion& op = plan.plan.nodes[0]->op;
      fused ? change(plan, *op.AsAttention()) : change(plan, *op.AsAttentionScores());
      TestDelegate delegate;
      EXPECT_EQ(delegate.load(plan.blob(), plan.data_map(), tier().name), Error::InvalidProgram) << reason;
      EXPECT_NE(last_log().find(reason), std::string::npos) << last_log();
    }
  };
  refused("and a constant", [](PlanBuilder&, auto& op) { op.q = op.k; });
  refused("there is no value", [](PlanBuilder&, auto& op) { op.query = -1; });
  refused("there is no constant", [](PlanBuilder&, auto& op) { op.query = 99; });
  refused("query is", [](PlanBuilder& plan, auto& op) {
    op.query = plan.constant(Shape{2, 3, 12}, std::vector<int8_t>(72, 1));  // one set an image
  });
  refused("query is",
          [](PlanBuilder& plan, auto& op) { op.query = plan.constant(Shape{1, 3, 6}, std::vector<int8_t>(18, 1)); });
  refused("query is",
          [](PlanBuilder& plan, auto& op) { op.query = plan.constant(Shape{3, 12}, std::vector<int8_t>(36, 1)); });
  refused("output",
          [](PlanBuilder& plan, auto& op) { op.query = plan.constant(Shape{1, 4, 12}, std::vector<int8_t>(48, 1)); });
}

TEST_P(ExecutorTest, OneThreadGivesTheSameBitsAsAll) {
  Random random(7);
  PlanBuilder plan = tiny_transformer(random, true);
  fuse(plan);
  std::vector<Argument> all = arguments_of(plan.plan);
  set_floats(random, all[0].data);
  std::vector<Argument> one = all;
  for (const int threads : {1, 0}) {
    ASSERT_EQ(set_threads_option(threads), Error::Ok);
    TestDelegate delegate;
    load(delegate, plan);
    ASSERT_EQ(delegate.run(threads == 1 ? one : all), Error::Ok) << last_log();
  }
  for (size_t i = 1; i < all.size(); ++i) EXPECT_EQ(one[i].data, all[i].data);
}

TEST_P(ExecutorTest, TheFreedSegmentIsNotNeeded) {
  Random random(1);
  PlanBuilder plan = tiny_transformer(random, false);
  TestDelegate delegate;
  std::vector<Argument> arguments = arguments_of(plan.plan);
  {
    const FakeDataMap data = plan.data_map();
    std::vector<uint8_t> blob = plan.blob();
    ASSERT_EQ(delegate.load(blob, data, tier().name), Error::Ok);
  }
  set_floats(random, arguments[0].data);
  std::vector<Argument> expected = arguments;
  interpret(plan, expected);
  ASSERT_EQ(delegate.run(arguments), Error::Ok);
  EXPECT_EQ(arguments[1].data, expected[1].data);
}

TEST_P(ExecutorTest, RefusesOtherArguments) {
  Random random(1);
  PlanBuilder plan = tiny_transformer(random, false);
  TestDelegate delegate;
  load(delegate, plan);
  const std::vector<Argument> good = arguments_of(plan.plan);
  const auto expect_refused = [&](std::vector<Argument> arguments, const std::string& reason) {
    clear_log();
    EXPECT_EQ(delegate.run(arguments), Error::InvalidArgument);
    EXPECT_NE(last_log().find(reason), std::string::npos) << last_log();
  };
  auto arguments = good;
  arguments.pop_back();
  expect_refused(arguments, "2 arguments, the plan has 1 inputs and 2 outputs");
  arguments = good;
  arguments[0].type = ScalarType::Int;
  expect_refused(arguments, "input 0 is Int [2, 3, 8, 12], the model needs Float32 [2, 3, 8, 12]");
  arguments = good;
  arguments[0].shape = {2, 3, 12, 8};
  expect_refused(arguments, "input 0 is Float [2, 3, 12, 8]");
  arguments = good;
  arguments[0].shape = {1, 3, 8, 12};
  expect_refused(arguments, "input 0 is Float [1, 3, 8, 12]");
  arguments = good;
  arguments[0].shape = {2, 3, 96};
  expect_refused(arguments, "input 0");
  arguments = good;
  arguments[2].type = ScalarType::Byte;
  expect_refused(arguments, "output 1 is Byte");
}

TEST_P(ExecutorTest, RefusesAnotherDimOrder) {
  Random random(1);
  PlanBuilder plan = tiny_transformer(random, false);
  PackQViTBackend backend;
  std::vector<uint8_t> memory(4096);
  executorch::runtime::MemoryAllocator allocator(4096, memory.data());
  const FakeDataMap data = plan.data_map();
  const std::vector<uint8_t> blob = plan.blob();
  executorch::runtime::BackendInitContext context(&allocator, nullptr, "forward", &data);
  executorch::runtime::FreeableBuffer processed(blob.data(), blob.size(), nullptr);
  const auto handle = backend.init(context, &processed, {});
  ASSERT_TRUE(handle.ok());

  std::vector<Argument> arguments = arguments_of(plan.plan);
  std::vector<executorch::extension::TensorPtr> tensors;
  tensors.push_back(executorch::extension::make_tensor_ptr(arguments[0].shape, arguments[0].data.data(), {0, 2, 3, 1},
                                                           {}, arguments[0].type));
  for (size_t i = 1; i < arguments.size(); ++i) {
    tensors.push_back(
        executorch::extension::from_blob(arguments[i].data.data(), arguments[i].shape, arguments[i].type));
  }
  std::vector<executorch::runtime::EValue> values(tensors.begin(), tensors.end());
  std::vector<executorch::runtime::EValue*> pointers;
  for (auto& value : values) pointers.push_back(&value);
  executorch::runtime::BackendExecutionContext execution;
  clear_log();
  EXPECT_EQ(backend.execute(execution, *handle, {pointers.data(), pointers.size()}), Error::InvalidArgument);
  EXPECT_NE(last_log().find("not contiguous"), std::string::npos) << last_log();
  backend.destroy(*handle);
}

INSTANTIATE_TEST_SUITE_P(Tiers, ExecutorTest, every_tier(), tier_name);

}  // namespace
}  // namespace packqvit
