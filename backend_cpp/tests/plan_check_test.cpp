// One rule of the plan checks at a time: break it in a plan that is otherwise good, and expect the reason in the log.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>

#include "tests/support/delegate.h"
#include "tests/support/log.h"
#include "tests/support/plan_rules.h"
#include "tests/support/windows_plan.h"

namespace packqvit {
namespace {

using executorch::runtime::Error;
using plan::DataType;

// Indices of the nodes of tiny_transformer().
enum Node : size_t {
  kQuantize,
  kPatchEmbedding,
  kLayerNorm,
  kQuery,
  kKey,
  kValue,
  kScores,
  kSoftmax,
  kValues,
  kProjection,
  kLayerNorm2,
  kHidden,
  kLookupTable,
  kOutput,
  kLayerNorm3,
  kSelect,
  kHead,
  kDequantize,
  kMean,
};

// After fuse() the attention takes the place of the scores.
constexpr Node kFusedProjection = kSoftmax;
constexpr Node kFusedHidden = kProjection;

plan::OperatorUnion& op(PlanBuilder& builder, Node node) { return builder.plan.nodes[node]->op; }
plan::ValueT& value(PlanBuilder& builder, size_t index) { return *builder.plan.values[index]; }

template <typename T>
void set_constant(PlanBuilder& builder, int32_t constant, size_t index, T number) {
  std::memcpy(builder.data(constant) + index * sizeof(T), &number, sizeof(T));
}

plan::ConstantT& constant(PlanBuilder& builder, int32_t index) {
  return *builder.plan.constants[static_cast<size_t>(index)];
}

// Gives the softmax a bias of so many columns, and an index that begins with these.
void set_bias_index(PlanBuilder& builder, size_t columns, const std::vector<int16_t>& begin) {
  plan::SoftmaxT& softmax = *op(builder, kSoftmax).AsSoftmax();
  const auto shape = constant(builder, softmax.bias).shape;
  std::vector<int16_t> index(shape[1] * shape[2]);
  std::copy(begin.begin(), begin.end(), index.begin());
  softmax.bias = builder.constant(Shape{shape[0], columns}, std::vector<int32_t>(shape[0] * columns));
  softmax.bias_index = builder.constant(Shape{shape[1], shape[2]}, index);
}

const std::vector<Rule>& rules() {
  static const std::vector<Rule> rules = {
      // Tables.
      {"ArenaTooLarge", [](auto& b) { b.plan.arena_size = (uint64_t{1} << 31) + 1; }, "beyond the limit"},
      {"ValueType", [](auto& b) { value(b, 1).type = static_cast<DataType>(5); }, "unknown type 5"},
      {"ValueWithoutShape", [](auto& b) { value(b, 1).shape.clear(); }, "shape"},
      {"ValueEmpty", [](auto& b) { value(b, 1).shape[0] = 0; }, "shape"},
      {"ValueOverflow", [](auto& b) { value(b, 1).shape.assign(4, 0x10000); }, "shape"},
      {"ValueBytesOverflow", [](auto& b) { value(b, 1).shape = {0x7FFFFFFF, 4}; }, "shape"},
      {"ValueRank", [](auto& b) { value(b, 1).shape.assign(9, 1); }, "shape"},
      {"ValueStorage", [](auto& b) { value(b, 1).storage = static_cast<plan::Storage>(3); }, "unknown storage 3"},
      {"ValueUnaligned", [](auto& b) { value(b, 1).location += 32; }, "not a multiple of 64"},
      {"ValueBeyondArena", [](auto& b) { b.plan.arena_size -= 64; }, "not inside of the arena"},
      {"ValueFarBeyondArena", [](auto& b) { value(b, 1).location = ~uint64_t{63}; }, "not inside of the arena"},
      {"NoOutput", [](auto& b) { b.plan.outputs.clear(); }, "no output"},
      {"InputIndex", [](auto& b) { b.plan.inputs[0] = 999; }, "input 0: value 999"},
      {"InputStorage", [](auto& b) { b.plan.inputs[0] = 1; }, "input 0: value 1"},
      {"OutputLocation", [](auto& b) { std::swap(b.plan.outputs[0], b.plan.outputs[1]); }, "output 0"},
      {"InputUnlisted", [](auto& b) { b.plan.inputs.clear(); }, "1 values have the storage input, the plan lists 0"},
      // Segments and constants.
      {"SegmentKey", [](auto& b) { b.plan.segments[0]->key = "other"; }, "not in the program", Error::NotFound},
      {"SegmentSize",
       [](auto& b) {
         b.packed_plan();
         b.keep_segments = true;
         b.plan.segments[0]->size += 1;
       },
       "the plan says"},
      {"SegmentChecksum",
       [](auto& b) {
         b.packed_plan();
         b.keep_segments = true;
         b.plan.segments[0]->crc32 ^= 1;
       },
       "checksum of segment 0"},
      {"ConstantSegment", [](auto& b) { constant(b, 0).segment = 1; }, "there is no segment 1"},
      {"ConstantOffset", [](auto& b) { constant(b, 0).offset = 8; }, "not a multiple of 64"},
      {"ConstantBeyond", [](auto& b) { constant(b, 0).offset = 1 << 20; }, "not inside of the segment"},
      {"ConstantFarBeyond", [](auto& b) { constant(b, 0).offset = ~uint64_t{63}; }, "not inside of the segment"},
      {"ConstantShape", [](auto& b) { constant(b, 0).shape = {1 << 20}; }, "not inside of the segment"},
      {"ConstantEncoding", [](auto& b) { constant(b, 0).encoding = static_cast<plan::Encoding>(2); }, "encoding 2"},
      {"ConstantNibblesOfFloat", [](auto& b) { constant(b, 0).encoding = plan::Encoding::Nibbles; }, "encoding 1"},
      {"ConstantType", [](auto& b) { constant(b, 0).type = static_cast<DataType>(-1); }, "unknown type -1"},
      // Memory.
      {"ReadBeforeWrite", [](auto& b) { std::swap(b.plan.nodes[kQuantize], b.plan.nodes[kPatchEmbedding]); },
       "before anything is written"},
      {"WrittenTwice", [](auto& b) { op(b, kQuery).AsLinear()->output = op(b, kKey).AsLinear()->output; },
       "was written before"},
      {"InputWritten",
       [](auto& b) {
         value(b, 0).type = DataType::Int8;
         op(b, kQuantize).AsQuantize()->output = 0;
       },
       ""},
      {"OutputNotWritten", [](auto& b) { b.plan.nodes.pop_back(); }, "no node writes the output"},
      {"Overlap",
       [](auto& b) {
         value(b, op(b, kValue).AsLinear()->output).location = value(b, op(b, kQuery).AsLinear()->output).location;
       },
       "still needed"},
      {"PartialOverlap",
       [](auto& b) {
         value(b, op(b, kScores).AsAttentionScores()->output).location =
             value(b, op(b, kValue).AsLinear()->output).location;
       },
       "still needed"},
      {"ResidualReadAgain",
       [](auto& b) {
         auto& projection = *op(b, kProjection).AsLinear();
         value(b, projection.output).location = value(b, static_cast<size_t>(projection.residual)).location;
         op(b, kOutput).AsLinear()->residual = projection.residual;
       },
       "still needed"},
      {"ResidualInPart",
       [](auto& b) {
         auto& projection = *op(b, kProjection).AsLinear();
         value(b, projection.output).location = value(b, static_cast<size_t>(projection.residual)).location + 64;
       },
       "still needed"},
      {"InPlace",
       [](auto& b) {
         value(b, op(b, kLookupTable).AsLookupTable()->output).location =
             value(b, op(b, kHidden).AsLinear()->output).location;
       },
       "still needed"},
      // Operators.
      {"NoOperator", [](auto& b) { op(b, kMean).Reset(); }, ""},
      {"ValueIndex", [](auto& b) { op(b, kQuery).AsLinear()->x = 999; }, "there is no value 999"},
      {"OutputIndex", [](auto& b) { op(b, kQuery).AsLinear()->output = 999; }, "there is no value 999"},
      {"ConstantIndex", [](auto& b) { op(b, kQuery).AsLinear()->weight = 999; }, "there is no constant 999"},
      {"ConstantAbsent", [](auto& b) { op(b, kQuery).AsLinear()->bias = -1; }, "there is no constant -1"},
      {"QuantizeOutputType", [](auto& b) { op(b, kQuantize).AsQuantize()->qmax = 128; }, "has the type Int8"},
      {"QuantizeRange", [](auto& b) { op(b, kQuantize).AsQuantize()->qmin = 128; }, ""},
      {"QuantizeEmptyRange",
       [](auto& b) {
         op(b, kQuantize).AsQuantize()->qmin = 5;
         op(b, kQuantize).AsQuantize()->qmax = 4;
       },
       "no range"},
      {"QuantizeAxis", [](auto& b) { op(b, kQuantize).AsQuantize()->axis = 4; }, "offset"},
      {"QuantizeOffset", [](auto& b) { op(b, kQuantize).AsQuantize()->axis = 0; }, "needs dense Float32 [2]"},
      {"QuantizeAxes", [](auto& b) { constant(b, op(b, kQuantize).AsQuantize()->offset).shape = {3, 1}; },
       "needs dense Float32 [3, 8]"},
      {"QuantizeShape", [](auto& b) { value(b, 1).shape = {2, 3, 8, 11}; }, "needs 576 elements"},
      {"PatchSize", [](auto& b) { op(b, kPatchEmbedding).AsPatchEmbedding()->patch_height = 9; }, "no patch of 9 x"},
      {"PatchZero", [](auto& b) { op(b, kPatchEmbedding).AsPatchEmbedding()->patch_width = 0; }, "no patch of"},
      {"PatchWeight", [](auto& b) { op(b, kPatchEmbedding).AsPatchEmbedding()->patch_height = 2; }, ""},
      {"PatchPrefixAbsent", [](auto& b) { op(b, kPatchEmbedding).AsPatchEmbedding()->prefix = -1; }, "prefix"},
      {"PatchPositionAbsent", [](auto& b) { op(b, kPatchEmbedding).AsPatchEmbedding()->position = -1; }, "position"},
      {"PatchFractionBits", [](auto& b) { op(b, kPatchEmbedding).AsPatchEmbedding()->requantizer->fraction_bits = 7; },
       "fraction_bits is 7, at most 6"},
      {"RequantizerAbsent", [](auto& b) { op(b, kQuery).AsLinear()->requantizer.reset(); }, "requantizer is missing"},
      {"Multiplier",
       [](auto& b) { set_constant<int16_t>(b, op(b, kQuery).AsLinear()->requantizer->multiplier, 7, (1 << 14) - 1); },
       "multiplier[7] = 16383"},
      {"MultiplierNegative",
       [](auto& b) { set_constant<int16_t>(b, op(b, kQuery).AsLinear()->requantizer->multiplier, 0, -1); },
       "multiplier[0] = -1"},
      {"Shift", [](auto& b) { set_constant<uint8_t>(b, op(b, kQuery).AsLinear()->requantizer->shift, 7, 31); },
       "shift[7] = 31"},
      {"MultiplierShape",
       [](auto& b) {
         op(b, kQuery).AsLinear()->requantizer->multiplier = op(b, kHidden).AsLinear()->requantizer->multiplier;
       },
       "needs dense Int16 [8]"},
      {"LeftShift", [](auto& b) { op(b, kQuery).AsLinear()->requantizer->left_shift = 16; }, "left_shift is 16"},
      {"LeftShiftWithoutRoom",
       [](auto& b) {
         set_constant<int32_t>(b, op(b, kQuery).AsLinear()->bias, 3, (1 << 29) - 1);
         op(b, kQuery).AsLinear()->requantizer->left_shift = 1;
       },
       "no room for a left_shift of 1"},
      {"ValuesLeftShiftWithoutRoom", [](auto& b) { op(b, kValues).AsAttentionValues()->requantizer->left_shift = 7; },
       "no room for a left_shift of 7"},
      {"MeanLeftShiftWithoutRoom",
       [](auto& b) {
         set_constant<int32_t>(b, op(b, kMean).AsMeanTokens()->bias, 3, -(1 << 29));
         op(b, kMean).AsMeanTokens()->requantizer->left_shift = 1;
       },
       "no room for a left_shift of 1"},
      {"ZeroPoint", [](auto& b) { op(b, kQuery).AsLinear()->requantizer->zero_point = 128; }, "zero_point 128"},
      {"RequantizeRange", [](auto& b) { op(b, kQuery).AsLinear()->requantizer->qmax = 128; }, "no range"},
      {"RequantizeEmptyRange", [](auto& b) { op(b, kQuery).AsLinear()->requantizer->qmin = 128; }, "no range"},
      {"Weight", [](auto& b) { set_constant<int8_t>(b, op(b, kQuery).AsLinear()->weight, 63, -128); },
       "weight[7, 7] = -128"},
      {"NibbleWeight", [](auto& b) { set_constant<uint8_t>(b, op(b, kKey).AsLinear()->weight, 31, 0x80); },
       "weight[7, 7] = -8"},
      {"WeightShape", [](auto& b) { constant(b, op(b, kQuery).AsLinear()->weight).shape = {4, 16}; },
       "needs Int8 [8, 8]"},
      {"Bias", [](auto& b) { set_constant<int32_t>(b, op(b, kQuery).AsLinear()->bias, 3, (1 << 29) + 1); },
       "bias[3] = 536870913"},
      {"BiasNegative", [](auto& b) { set_constant<int32_t>(b, op(b, kQuery).AsLinear()->bias, 3, INT32_MIN); },
       "bias[3] = -2147483648"},
      {"BiasType", [](auto& b) { op(b, kQuery).AsLinear()->bias = op(b, kLayerNorm).AsLayerNorm()->weight; },
       "bias is Int16"},
      {"Epilogue", [](auto& b) { op(b, kQuery).AsLinear()->epilogue = static_cast<plan::Epilogue>(3); },
       "unknown epilogue 3"},
      {"EpilogueOutput", [](auto& b) { op(b, kQuery).AsLinear()->epilogue = plan::Epilogue::Accumulate; },
       "has the type Int8"},
      {"StrayResidual", [](auto& b) { op(b, kQuery).AsLinear()->residual = 2; }, "residual belongs to AddResidual"},
      {"ResidualAbsent", [](auto& b) { op(b, kProjection).AsLinear()->residual = -1; }, "there is no value -1"},
      {"ResidualMultiplier",
       [](auto& b) { set_constant<int16_t>(b, op(b, kProjection).AsLinear()->residual_multiplier, 1, -1); },
       "residual_multiplier[1] is negative"},
      {"LinearShape", [](auto& b) { op(b, kQuery).AsLinear()->x = op(b, kHidden).AsLinear()->output; }, "weight"},
      {"Heads", [](auto& b) { op(b, kScores).AsAttentionScores()->heads = 3; }, "3 heads do not divide"},
      {"NoHeads", [](auto& b) { op(b, kScores).AsAttentionScores()->heads = 0; }, "0 heads do not divide"},
      {"ScoresShape", [](auto& b) { op(b, kScores).AsAttentionScores()->heads = 4; }, "needs [2, 4, 7, 7]"},
      {"SoftmaxMultiplier", [](auto& b) { op(b, kSoftmax).AsSoftmax()->multiplier = 16383; }, "multiplier 16383"},
      {"SoftmaxShift", [](auto& b) { op(b, kSoftmax).AsSoftmax()->shift = 31; }, "shift 31"},
      {"SoftmaxShiftNegative", [](auto& b) { op(b, kSoftmax).AsSoftmax()->shift = -16; }, "shift -16"},
      {"SoftmaxFormat", [](auto& b) { op(b, kSoftmax).AsSoftmax()->format = static_cast<plan::ProbabilityFormat>(2); },
       "unknown format 2"},
      {"SoftmaxBias", [](auto& b) { set_constant<int32_t>(b, op(b, kSoftmax).AsSoftmax()->bias, 97, 1 << 30); },
       "bias[97]"},
      {"SoftmaxBiasShift", [](auto& b) { op(b, kSoftmax).AsSoftmax()->bias_shift = 1; }, "bias_shift is of int16"},
      {"SoftmaxBiasShiftLarge",
       [](auto& b) {
         plan::SoftmaxT& softmax = *op(b, kSoftmax).AsSoftmax();
         const Shape shape(constant(b, softmax.bias).shape.begin(), constant(b, softmax.bias).shape.end());
         softmax.bias = b.constant(shape, std::vector<int16_t>(element_count(shape)));
         softmax.bias_shift = 15;
       },
       "bias_shift is 15, at most 14"},
      {"SoftmaxBiasIndexRank", [](auto& b) { op(b, kSoftmax).AsSoftmax()->bias_index = 0; }, "has 2 axes"},
      {"SoftmaxBiasIndex", [](auto& b) { set_bias_index(b, 2, {0, 1, 2}); }, "bias_index[2] = 2 is no column of 2"},
      {"SoftmaxBiasIndexNegative", [](auto& b) { set_bias_index(b, 2, {0, -1}); }, "bias_index[1] = -1"},
      {"SoftmaxBiasIndexShape",
       [](auto& b) {
         set_bias_index(b, 2, {0});
         constant(b, op(b, kSoftmax).AsSoftmax()->bias_index).shape[0] -= 1;
       },
       "bias_index is Int16"},
      {"SoftmaxBiasHeads", [](auto& b) { constant(b, op(b, kSoftmax).AsSoftmax()->bias).shape = {7, 2, 7}; },
       "bias has 7 heads"},
      {"ValuesFormat",
       [](auto& b) { op(b, kValues).AsAttentionValues()->format = static_cast<plan::ProbabilityFormat>(-1); },
       "unknown format -1"},
      {"ValuesProbabilities",
       [](auto& b) { op(b, kValues).AsAttentionValues()->probabilities = op(b, kScores).AsAttentionScores()->output; },
       "probabilities"},
      {"ChannelShift", [](auto& b) { set_constant<uint8_t>(b, op(b, kLayerNorm).AsLayerNorm()->channel_shift, 7, 8); },
       "channel_shift[7] is above 7"},
      {"Epsilon", [](auto& b) { op(b, kLayerNorm).AsLayerNorm()->epsilon = -1; }, "epsilon -1"},
      {"EpsilonLarge", [](auto& b) { op(b, kLayerNorm).AsLayerNorm()->epsilon = (int64_t{1} << 57) + 1; }, "epsilon"},
      {"OutputShift", [](auto& b) { op(b, kLayerNorm).AsLayerNorm()->output_shift = 0; }, "output_shift 0"},
      {"OutputShiftLarge", [](auto& b) { op(b, kLayerNorm).AsLayerNorm()->output_shift = 31; }, "output_shift 31"},
      {"LayerNormBias", [](auto& b) { set_constant<int32_t>(b, op(b, kLayerNorm).AsLayerNorm()->bias, 0, 1 << 30); },
       "bias[0] = 1073741824"},
      {"LayerNormRange", [](auto& b) { op(b, kLayerNorm).AsLayerNorm()->qmin = -129; }, "no range"},
      {"Table", [](auto& b) { constant(b, op(b, kLookupTable).AsLookupTable()->table).shape = {255}; },
       "needs dense Int8 [256]"},
      {"SelectIndex", [](auto& b) { op(b, kSelect).AsSelectTokens()->index = {7}; }, "there is no token 7"},
      {"SelectFill", [](auto& b) { op(b, kSelect).AsSelectTokens()->fill = 128; }, "fill: [128, 128] is no range"},
      {"SelectNothing", [](auto& b) { op(b, kSelect).AsSelectTokens()->index.clear(); }, "no token is selected"},
      {"SelectShape", [](auto& b) { op(b, kSelect).AsSelectTokens()->index = {1, 2}; }, "needs 4 rows of 8"},
      {"DequantizeScale", [](auto& b) { op(b, kDequantize).AsDequantize()->axis = 0; }, "needs dense Float32 [2]"},
      {"DequantizeChannelsFirst",
       [](auto& b) {
         op(b, kDequantize).AsDequantize()->axis = 1;
         op(b, kDequantize).AsDequantize()->channels_first = true;
       },
       "channels come first where x has 3 axes, the last one of channels, not axis 1"},
      {"MeanRange", [](auto& b) { op(b, kMean).AsMeanTokens()->requantizer->qmin = -129; }, "no range"},
      {"MeanBias", [](auto& b) { set_constant<int32_t>(b, op(b, kMean).AsMeanTokens()->bias, 0, INT32_MAX); },
       "bias[0]"},
  };
  return rules;
}

class PlanRuleTest : public testing::TestWithParam<Rule> {};

TEST_P(PlanRuleTest, IsCheckedAndExplained) {
  Random random(3);
  PlanBuilder builder = tiny_transformer(random, false);
  GetParam().damage(builder);
  clear_log();
  TestDelegate delegate;
  const Error error = delegate.load(builder);
  EXPECT_NE(error, Error::Ok);
  if (GetParam().reason[0] != '\0') {
    EXPECT_EQ(error, GetParam().error);
    EXPECT_NE(last_log().find(GetParam().reason), std::string::npos) << last_log();
  }
  EXPECT_EQ(last_log().compare(0, 10, "packqvit: "), 0) << last_log();
}

INSTANTIATE_TEST_SUITE_P(PlanCheck, PlanRuleTest, testing::ValuesIn(rules()), rule_name);

// The same of a plan with fused operators.
const std::vector<Rule>& fused_rules() {
  static const auto attention = [](PlanBuilder& b) -> plan::AttentionT& { return *op(b, kScores).AsAttention(); };
  static const auto hidden = [](PlanBuilder& b) -> plan::LinearT& { return *op(b, kFusedHidden).AsLinear(); };
  static const std::vector<Rule> rules = {
      {"Heads", [](auto& b) { attention(b).heads = 3; }, "3 heads do not divide"},
      {"Keys", [](auto& b) { value(b, attention(b).k).shape = {2, 6, 8}; }, "node"},
      {"Values", [](auto& b) { attention(b).v = hidden(b).output; }, "v"},
      {"Multiplier", [](auto& b) { attention(b).multiplier = 16383; }, "multiplier 16383"},
      {"Shift", [](auto& b) { attention(b).shift = -16; }, "shift -16"},
      {"Format", [](auto& b) { attention(b).format = static_cast<plan::ProbabilityFormat>(2); }, "unknown format 2"},
      {"Bias", [](auto& b) { set_constant<int32_t>(b, attention(b).bias, 97, 1 << 30); }, "bias[97]"},
      {"LeftShift", [](auto& b) { attention(b).requantizer->left_shift = 7; }, "left_shift"},
      {"NoRequantizer", [](auto& b) { attention(b).requantizer.reset(); }, "requantizer"},
      {"OnePart", [](auto& b) { b.plan.nodes[kScores]->parts.pop_back(); }, "1 parts"},
      {"PartsOfALinear", [](auto& b) { b.plan.nodes[kQuery]->parts = std::move(b.plan.nodes[kScores]->parts); },
       "2 parts"},
      {"PartName", [](auto& b) { b.plan.nodes[kScores]->parts[0]->name = "\xff"; }, "printable"},
      {"Table", [](auto& b) { constant(b, hidden(b).table).shape = {255}; }, "needs dense Int8 [256]"},
      {"TableOfAnAddition", [](auto& b) { op(b, kFusedProjection).AsLinear()->table = hidden(b).table; },
       "a table belongs to Requantize"},
  };
  return rules;
}

class FusedPlanRuleTest : public testing::TestWithParam<Rule> {};

TEST_P(FusedPlanRuleTest, IsCheckedAndExplained) {
  Random random(3);
  PlanBuilder builder = tiny_transformer(random, false);
  fuse(builder);
  expect_checked(std::move(builder), GetParam());
}

INSTANTIATE_TEST_SUITE_P(PlanCheck, FusedPlanRuleTest, testing::ValuesIn(fused_rules()), rule_name);

// The same of a plan with a post-norm; nodes: quantize, patch embedding, the four below, LayerNorm.
const std::vector<Rule>& post_norm_rules() {
  static const auto norm = [](PlanBuilder& b, size_t i) -> plan::LayerNormT& {
    return *b.plan.nodes[i]->op.AsLayerNorm();
  };
  static const auto begin = [](PlanBuilder& b) -> plan::LayerNormT& { return norm(b, 2); };
  static const auto linear = [](PlanBuilder& b) -> plan::LinearT& { return *b.plan.nodes[4]->op.AsLinear(); };
  static const auto sum = [](PlanBuilder& b) -> plan::LayerNormT& { return norm(b, 5); };
  static const std::vector<Rule> rules = {
      {"LinearRangeLow", [](auto& b) { linear(b).requantizer->qmin = -32767; }, "found [-32767, 32767] around 0"},
      {"LinearRangeHigh", [](auto& b) { linear(b).requantizer->qmax = 127; }, "found [-32768, 127] around 0"},
      {"LinearRangeBeyond", [](auto& b) { linear(b).requantizer->qmax = 32768; }, "no range of Int16 codes"},
      {"LinearZeroPoint", [](auto& b) { linear(b).requantizer->zero_point = 1; }, "around 1"},
      {"LinearFractionBits", [](auto& b) { linear(b).requantizer->fraction_bits = 1; }, "no fraction bits, found 1"},
      {"LinearTable", [](auto& b) { linear(b).table = b.constant(Shape{256}, std::vector<int8_t>(256)); },
       "a table has int8 codes"},
      {"LinearType", [](auto& b) { value(b, linear(b).output).type = DataType::Int32; }, "has the type Int32"},
      {"NormRange", [](auto& b) { begin(b).qmax = 32768; }, "no range of Int16 codes"},
      {"NormType", [](auto& b) { value(b, begin(b).output).type = DataType::Float32; }, "has the type Float32"},
      {"StrayMultiplier", [](auto& b) { begin(b).residual_multiplier = sum(b).residual_multiplier; }, "there is none"},
      {"StrayFractionBits", [](auto& b) { begin(b).fraction_bits = 1; }, "there is none"},
      {"ResidualIndex", [](auto& b) { sum(b).residual = 999; }, "there is no value 999"},
      {"ResidualNegative", [](auto& b) { sum(b).residual = -2; }, "there is no value -2"},
      {"ResidualType", [](auto& b) { sum(b).residual = static_cast<int32_t>(norm(b, 3).output); }, "has the type Int8"},
      {"ResidualShape", [](auto& b) { value(b, static_cast<size_t>(sum(b).residual)).shape = {2, 8, 7}; },
       "needs 14 rows of 8"},
      {"MultiplierAbsent", [](auto& b) { sum(b).residual_multiplier = -1; }, "there is no constant -1"},
      {"MultiplierType", [](auto& b) { sum(b).residual_multiplier = sum(b).bias; }, "needs dense Int16 [8]"},
      {"MultiplierNegative", [](auto& b) { set_constant<int16_t>(b, sum(b).residual_multiplier, 7, -1); },
       "residual_multiplier[7] is negative"},
      {"FractionBits", [](auto& b) { sum(b).fraction_bits = 1; }, "no fraction bits, found 1"},
      {"FractionBitsLarge", [](auto& b) { sum(b).fraction_bits = 7; }, "fraction_bits is 7, at most 6"},
      {"OutputType", [](auto& b) { value(b, sum(b).output).type = DataType::Int32; }, "has the type Int32"},
  };
  return rules;
}

class PostNormPlanRuleTest : public testing::TestWithParam<Rule> {};

TEST_P(PostNormPlanRuleTest, IsCheckedAndExplained) {
  Random random(3);
  PlanBuilder builder = tiny_post_norm(random, true);
  expect_checked(std::move(builder), GetParam());
}

INSTANTIATE_TEST_SUITE_P(PlanCheck, PostNormPlanRuleTest, testing::ValuesIn(post_norm_rules()), rule_name);

// The same of a plan with windows.
constexpr WindowsCase kWindowsCase{2, 4, 9, 2, 4, true, true, false};

const std::vector<Rule>& windows_rules() {
  static const auto attention = [](PlanBuilder& b) -> plan::AttentionT& {
    return *b.plan.nodes[kWindowsAttention]->op.AsAttention();
  };
  static const auto norm = [](PlanBuilder& b, size_t node = kWindows) -> plan::LayerNormT& {
    return *b.plan.nodes[node]->op.AsLayerNorm();
  };
  static const std::vector<Rule> rules = {
      {"Groups", [](auto& b) { attention(b).groups = 999; }, "there is no constant 999"},
      {"GroupsType", [](auto& b) { constant(b, attention(b).groups).type = DataType::Int8; }, "groups is Int8"},
      {"GroupsWindows", [](auto& b) { constant(b, attention(b).groups).shape = {3, 9}; }, "do not divide 8"},
      {"GroupsTokens", [](auto& b) { constant(b, attention(b).groups).shape = {4, 8}; }, "needs dense UInt8 [4, 9]"},
      {"GroupsRank", [](auto& b) { constant(b, attention(b).groups).shape = {4, 3, 3}; }, "needs dense UInt8 [4, 9]"},
      {"Rows", [](auto& b) { attention(b).rows = -2; }, "there is no constant -2"},
      {"RowsType", [](auto& b) { constant(b, attention(b).rows).type = DataType::UInt8; }, "rows is UInt8"},
      {"RowsRank", [](auto& b) { constant(b, attention(b).rows).shape = {4, 9}; }, "needs dense Int32 [4]"},
      {"RowsGroups", [](auto& b) { constant(b, attention(b).rows).shape = {35}; }, "35 rows do not divide 72"},
      {"RowsBeyond", [](auto& b) { set_constant<int32_t>(b, attention(b).rows, 5, 36); }, "rows[5] = 36 is no row"},
      {"RowsNegative", [](auto& b) { set_constant<int32_t>(b, attention(b).rows, 5, -1); }, "rows[5] = -1 is no row"},
      {"RowsTwice",
       [](auto& b) {
         set_constant<int32_t>(b, attention(b).rows, 0, 3);
         set_constant<int32_t>(b, attention(b).rows, 1, 3);
       },
       "rows[1] = 3 is no row of 36, or taken"},
      {"RowsShape", [](auto& b) { value(b, attention(b).output).shape = {2, 36, 4}; }, "needs 72 rows of 8"},
      {"NormRows", [](auto& b) { norm(b).rows = 999; }, "there is no constant 999"},
      {"NormRowsType", [](auto& b) { constant(b, norm(b).rows).type = DataType::UInt8; }, "rows is UInt8"},
      {"NormRowsRank", [](auto& b) { constant(b, norm(b).rows).shape = {36}; }, "needs dense Int32 [36, 1]"},
      {"NormRowsParts", [](auto& b) { constant(b, norm(b).rows).shape = {18, 2}; }, "needs dense Int32 [18, 1]"},
      {"NormRowsGroups", [](auto& b) { constant(b, norm(b).rows).shape = {35, 1}; }, "do not divide 72 rows"},
      {"NormRowsOfX", [](auto& b) { constant(b, norm(b, kWindowsMerged).rows).shape = {8, 2}; }, "do not divide 40"},
      {"NormRowsBeyond", [](auto& b) { set_constant<int32_t>(b, norm(b).rows, 5, 36); }, "x has 36 rows in a group"},
      {"NormRowsNegative", [](auto& b) { set_constant<int32_t>(b, norm(b).rows, 5, -2); }, "rows[5] = -2"},
      {"NormChannels",
       [](auto& b) {
         norm(b, kWindowsMerged).x = 0;
         norm(b, kWindowsMerged).rows = -1;
       },
       "rows of 8"},
      {"NormPartsOfChannels", [](auto& b) { value(b, norm(b, kWindowsMerged).output).shape = {2, 20, 12}; },
       "are not made of rows of 8"},
  };
  return rules;
}

class WindowsRuleTest : public testing::TestWithParam<Rule> {};

TEST_P(WindowsRuleTest, IsCheckedAndExplained) {
  Random random(3);
  PlanBuilder builder = windows_plan(random, kWindowsCase, true);
  expect_checked(std::move(builder), GetParam());
}

INSTANTIATE_TEST_SUITE_P(PlanCheck, WindowsRuleTest, testing::ValuesIn(windows_rules()), rule_name);

TEST(PlanCheck, GroupsNeedAsManyQueriesAsKeys) {
  PlanBuilder builder;
  plan::SoftmaxT softmax;
  softmax.x = builder.input(DataType::Int32, {2, 1, 3, 4});
  softmax.output = builder.output(DataType::UInt8, {2, 1, 3, 4});
  softmax.groups = builder.constant(Shape{2, 4}, std::vector<uint8_t>(8));
  softmax.multiplier = 1 << 14;
  builder.node(std::move(softmax));
  TestDelegate delegate;
  EXPECT_EQ(delegate.load(builder), Error::InvalidProgram);
  EXPECT_NE(last_log().find("as many queries as keys, there are 3 and 4"), std::string::npos) << last_log();
}

TEST(PlanCheck, WideStreamsHaveNoFractionBitsAndNoChannelShift) {
  Random random(3);
  {
    PlanBuilder builder = tiny_transformer(random, true);
    op(builder, kProjection).AsLinear()->requantizer->fraction_bits = 1;
    TestDelegate delegate;
    EXPECT_EQ(delegate.load(builder), Error::InvalidProgram);
    EXPECT_NE(last_log().find("no fraction bits"), std::string::npos) << last_log();
  }
  PlanBuilder builder = tiny_transformer(random, true);
  plan::LayerNormT& norm = *op(builder, kLayerNorm).AsLayerNorm();
  norm.channel_shift = builder.constant(Shape{8}, std::vector<uint8_t>(8, 0));
  TestDelegate delegate;
  EXPECT_EQ(delegate.load(builder), Error::Ok) << last_log();
  set_constant<uint8_t>(builder, norm.channel_shift, 5, 1);
  EXPECT_EQ(delegate.load(builder), Error::InvalidProgram);
}

TEST(PlanCheck, ArenaBytesMayBeUsedAgainOnceTheirValueWasReadLast) {
  Random random(3);
  PlanBuilder builder = tiny_transformer(random, false);
  // The image's codes are dead once they are embedded.
  value(builder, op(builder, kHidden).AsLinear()->output).location =
      value(builder, op(builder, kQuantize).AsQuantize()->output).location;
  TestDelegate delegate;
  EXPECT_EQ(delegate.load(builder), Error::Ok) << last_log();
}

// Plans of one operator at the limits of docs/numerics.md.
Error load_attention_values(size_t keys, plan::ProbabilityFormat format) {
  PlanBuilder builder;
  plan::AttentionValuesT values;
  values.v = builder.input(DataType::Int8, {1, keys, 1});
  values.probabilities = builder.input(DataType::UInt8, {1, 1, 1, keys});
  values.format = format;
  values.requantizer = builder.requantizer({{1 << 14}, {30}});
  values.output = builder.output(DataType::Int8, {1, 1, 1});
  builder.node(std::move(values));
  TestDelegate delegate;
  return delegate.load(builder);
}

// The same of a softmax in front of it, which has codes of `softmax_format`.
Error load_softmax_values(size_t keys, plan::ProbabilityFormat format, plan::ProbabilityFormat softmax_format) {
  PlanBuilder builder;
  plan::SoftmaxT softmax;
  softmax.x = builder.input(DataType::Int32, {1, 1, 1, keys});
  softmax.multiplier = 1 << 14;
  softmax.format = softmax_format;
  softmax.output = builder.arena(DataType::UInt8, {1, 1, 1, keys});
  plan::AttentionValuesT values;
  values.v = builder.input(DataType::Int8, {1, keys, 1});
  values.probabilities = softmax.output;
  values.format = format;
  values.requantizer = builder.requantizer({{1 << 14}, {30}});
  values.output = builder.output(DataType::Int8, {1, 1, 1});
  builder.node(std::move(softmax));
  builder.node(std::move(values));
  TestDelegate delegate;
  return delegate.load(builder);
}

TEST(PlanCheck, KeysAreLimited) {
  const auto log2 = plan::ProbabilityFormat::Log2;
  const auto linear = plan::ProbabilityFormat::Linear;
  EXPECT_EQ(load_attention_values(1031, log2), Error::Ok);
  EXPECT_EQ(load_attention_values(1032, log2), Error::InvalidProgram);
  EXPECT_NE(last_log().find("keys of log2 codes that no softmax gives is 1032"), std::string::npos) << last_log();
  EXPECT_EQ(load_softmax_values(65536, log2, log2), Error::Ok) << last_log();
  EXPECT_EQ(load_softmax_values(65537, log2, log2), Error::InvalidProgram);
  EXPECT_EQ(load_softmax_values(1032, log2, linear), Error::InvalidProgram);  // its codes may all be 0, which is 1 here
  EXPECT_EQ(load_attention_values(32768, plan::ProbabilityFormat::Linear), Error::Ok);
  EXPECT_EQ(load_attention_values(32769, plan::ProbabilityFormat::Linear), Error::InvalidProgram);
}

TEST(PlanCheck, FeaturesAreLimited) {
  const auto load = [](size_t k) {
    PlanBuilder builder;
    plan::LinearT linear;
    linear.x = builder.input(DataType::Int8, {1, k});
    linear.weight = builder.constant(Shape{1, k}, std::vector<int8_t>(k, 1));
    linear.bias = builder.constant(Shape{1}, std::vector<int32_t>{0});
    linear.epilogue = plan::Epilogue::Accumulate;
    linear.output = builder.output(DataType::Int32, {1, 1});
    builder.node(std::move(linear));
    TestDelegate delegate;
    return delegate.load(builder);
  };
  EXPECT_EQ(load(16384), Error::Ok);
  EXPECT_EQ(load(16385), Error::InvalidProgram);
}

TEST(PlanCheck, AnOperatorOfTheFutureIsIncompatible) {
  Random random(3);
  PlanBuilder builder = tiny_transformer(random, false);
  std::vector<uint8_t> bytes = builder.packed_plan();
  const auto* nodes = plan::GetPlan(bytes.data())->nodes();
  const auto* table = reinterpret_cast<const flatbuffers::Table*>(nodes->Get(nodes->size() - 1));
  bytes[static_cast<size_t>(table->GetAddressOf(plan::Node::VT_OP_TYPE) - bytes.data())] =
      static_cast<uint8_t>(plan::Operator::MAX) + 1;
  TestDelegate delegate;
  EXPECT_EQ(delegate.load(make_blob(bytes), builder.data_map()), Error::DelegateInvalidCompatibility);
  EXPECT_NE(last_log().find("update the runtime"), std::string::npos) << last_log();
}

}  // namespace
}  // namespace packqvit
