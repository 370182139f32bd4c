#include "tests/support/relative_plan.h"

#include <algorithm>
#include <numeric>

namespace packqvit {

using plan::DataType;

namespace {

std::unique_ptr<plan::RelativeBiasT> relative_bias(Random& random, const RelativeCase& c, PlanBuilder& plan) {
  auto relative = std::make_unique<plan::RelativeBiasT>();
  relative->rows = c.rows;
  relative->columns = c.columns;
  const Shape shape{c.by_head ? c.heads : 1, 2 * (c.rows + c.columns) - 2, c.head_size};
  relative->numbers = plan.constant(shape, random.numbers<int8_t>(element_count(shape), -127, 127));
  relative->multiplier = static_cast<int16_t>(random.number(0, 32767));
  relative->shift = static_cast<uint8_t>(random.uniform(14, 16));
  return relative;
}

void set_bias(Random& random, const RelativeCase& c, PlanBuilder& plan, plan::AttentionT& op) {
  if (!c.with_bias) return;
  const size_t tokens = size_t{c.rows} * c.columns;
  const Shape shape{c.heads, tokens, tokens};
  if (random.uniform(0, 1) == 0) {
    op.bias = plan.constant(shape, random.numbers<int32_t>(element_count(shape), -(1 << 29), 3000));
  } else {
    op.bias = plan.constant(shape, random.numbers<int16_t>(element_count(shape), -(1 << 15), 100));
    op.bias_shift = static_cast<uint8_t>(random.uniform(0, 14));
  }
}

// The operators of an attention, one behind the other.
void add_parts(plan::AttentionT fused, const Shape& tokens, PlanBuilder& plan, const std::vector<uint32_t>& order) {
  const Shape matrices{tokens[0], fused.heads, tokens[1], tokens[1]};
  plan::AttentionScoresT scores;
  scores.q = fused.q;
  scores.k = fused.k;
  scores.heads = fused.heads;
  scores.output = plan.arena(DataType::Int32, matrices);
  plan::AddRelativeBiasT relative;
  relative.x = scores.output;
  relative.q = fused.q;
  relative.relative = std::move(fused.relative);
  relative.output = plan.arena(DataType::Int32, matrices);
  plan::SoftmaxT softmax;
  softmax.x = relative.output;
  softmax.bias = fused.bias;
  softmax.bias_shift = fused.bias_shift;
  softmax.multiplier = fused.multiplier;
  softmax.shift = fused.shift;
  softmax.format = fused.format;
  softmax.output = plan.arena(DataType::UInt8, matrices);
  plan::AttentionValuesT values;
  values.probabilities = softmax.output;
  values.v = fused.v;
  values.format = fused.format;
  values.requantizer = std::move(fused.requantizer);
  values.output = order.empty() ? fused.output : plan.arena(DataType::Int8, tokens);
  plan::SelectTokensT select;
  select.x = values.output;
  select.index = order;
  select.output = fused.output;
  plan.node(std::move(scores));
  plan.node(std::move(relative));
  plan.node(std::move(softmax));
  plan.node(std::move(values));
  if (!order.empty()) plan.node(std::move(select));
}

}  // namespace

PlanBuilder relative_plan(Random& random, const RelativeCase& c, bool fused) {
  PlanBuilder plan;
  const size_t tokens = size_t{c.rows} * c.columns;
  const Shape shape{c.batch, tokens, c.heads * c.head_size};
  plan::AttentionT op;
  op.q = plan.input(DataType::Int8, shape);
  op.k = plan.input(DataType::Int8, shape);
  op.v = plan.input(DataType::Int8, shape);
  op.heads = static_cast<uint32_t>(c.heads);
  op.relative = relative_bias(random, c, plan);
  set_bias(random, c, plan, op);
  op.multiplier = 20000;
  op.shift = 3;
  op.format = c.log2 ? plan::ProbabilityFormat::Log2 : plan::ProbabilityFormat::Linear;
  naive::Requantizer requantizer = random.requantizer(shape[2], c.log2 ? 21 : 15, 6);
  requantizer.qmin = -127;
  requantizer.qmax = 127;
  op.requantizer = plan.requantizer(requantizer);
  op.output = plan.output(DataType::Int8, shape);
  std::vector<uint32_t> order(c.moves ? tokens : 0);
  std::iota(order.begin(), order.end(), 0);
  for (size_t i = 1; i < order.size(); ++i) {
    std::swap(order[i], order[static_cast<size_t>(random.uniform(0, static_cast<int64_t>(i)))]);
  }
  if (!fused) {
    add_parts(std::move(op), shape, plan, order);
    return plan;
  }
  if (c.moves) {
    std::vector<int32_t> places(tokens);
    for (size_t i = 0; i < tokens; ++i) places[order[i]] = static_cast<int32_t>(i);
    op.rows = plan.constant(Shape{tokens}, places);
  }
  plan.node(std::move(op));
  return plan;
}

}  // namespace packqvit
