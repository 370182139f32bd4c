#include "tests/support/windows_plan.h"

#include <algorithm>
#include <numeric>

namespace packqvit {

using plan::DataType;

namespace {

using Order = std::vector<uint32_t>;

class Builder {
 public:
  Builder(Random& random, const WindowsCase& c, bool fused)
      : random_(random),
        c_(c),
        fused_(fused),
        channels_(c.heads * c.head_size),
        stream_(c.wide ? DataType::Int16 : DataType::Int8),
        format_(c.wide ? plan::ProbabilityFormat::Linear : plan::ProbabilityFormat::Log2) {}

  PlanBuilder build() {
    const size_t tokens = c_.windows * c_.tokens;
    const size_t group = c_.in_windows ? c_.tokens : tokens;
    const Shape map{c_.batch * tokens / group, group, channels_};
    const Shape windows{c_.batch * c_.windows, c_.tokens, channels_};
    const uint32_t x = plan_.input(stream_, map);
    const uint32_t y = layer_norm(x, permutation(group), 1, plan_.arena(DataType::Int8, windows));
    const uint32_t q = linear(y, windows);
    const uint32_t k = linear(y, windows);
    const uint32_t v = linear(y, windows);
    const uint32_t sum = linear(attention(q, k, v, permutation(group), map), map, x);
    Order merged = permutation(group);
    merged.resize(group / 2 * 2);
    merged.insert(merged.end(), {0, 1, 1, 0});  // tokens that lie side by side, and some twice
    layer_norm(sum, merged, 2, plan_.output(DataType::Int8, {map[0], merged.size() / 2, 2 * channels_}));
    return std::move(plan_);
  }

 private:
  // Some of the rows stay beside each other.
  Order permutation(size_t size) {
    Order order(size);
    std::iota(order.begin(), order.end(), 0);
    for (size_t i = 1; i < size; ++i) {
      const size_t other = static_cast<size_t>(random_.uniform(0, static_cast<int64_t>(i)));
      if (random_.uniform(0, 1) == 1) std::swap(order[i], order[other]);
    }
    return order;
  }

  std::vector<int32_t> as_rows(const Order& order) { return {order.begin(), order.end()}; }

  uint32_t select(uint32_t x, const Order& index, DataType type, const Shape& shape) {
    plan::SelectTokensT op;
    op.x = x;
    op.index = index;
    op.output = plan_.arena(type, shape);
    return add(std::move(op));
  }

  uint32_t layer_norm(uint32_t x, const Order& index, size_t parts, uint32_t output) {
    const size_t channels = parts * channels_;
    plan::LayerNormT op;
    op.x = x;
    if (!c_.wide) op.channel_shift = plan_.constant(Shape{channels}, random_.numbers<uint8_t>(channels, 0, 7));
    op.weight = plan_.constant(Shape{channels}, random_.numbers<int16_t>(channels, -20000, 20000));
    op.bias = plan_.constant(Shape{channels}, random_.numbers<int32_t>(channels, -(1 << 20), 1 << 20));
    op.epsilon = 77;
    op.output_shift = 20;
    op.qmin = -128;
    op.qmax = 127;
    op.output = output;
    if (fused_) {
      op.rows = plan_.constant(Shape{index.size() / parts, parts}, as_rows(index));
    } else {
      const auto& shape = plan_.plan.values[output]->shape;
      op.x = select(x, index, stream_, {shape.begin(), shape.end()});
    }
    return add(std::move(op));
  }

  uint32_t linear(uint32_t x, const Shape& shape, int64_t residual = -1) {
    plan::LinearT op;
    op.x = x;
    op.weight = plan_.constant(Shape{channels_, channels_}, random_.numbers<int8_t>(channels_ * channels_, -127, 127));
    op.bias = plan_.constant(Shape{channels_}, random_.numbers<int32_t>(channels_, -2000, 2000));
    naive::Requantizer requantizer = random_.requantizer(channels_, 15, residual >= 0 && c_.wide ? 0 : 5, 3);
    requantizer.qmin = -127;
    requantizer.qmax = 127;
    op.requantizer = plan_.requantizer(requantizer);
    if (residual >= 0) {
      op.epilogue = plan::Epilogue::AddResidual;
      op.residual = static_cast<int32_t>(residual);
      op.residual_multiplier = plan_.constant(Shape{channels_}, random_.numbers<int16_t>(channels_, 0, 32767));
    }
    op.output = plan_.arena(residual >= 0 ? stream_ : DataType::Int8, shape);
    return add(std::move(op));
  }

  int32_t groups() {
    auto numbers = random_.numbers<uint8_t>(c_.windows * c_.tokens, 7, 9);
    std::fill_n(numbers.begin(), c_.tokens, uint8_t{255});  // the first window is one group
    return plan_.constant(Shape{c_.windows, c_.tokens}, numbers);
  }

  // A number for each pair, or few numbers and an index, of long runs or of none.
  void set_bias(plan::AttentionT& op) {
    if (!c_.with_bias) return;
    const bool has_index = random_.uniform(0, 3) > 0;
    const size_t pairs = c_.tokens * c_.tokens;
    const size_t count = has_index ? 2 * c_.tokens + 3 : pairs;
    Shape shape{c_.heads, count};
    if (!has_index) shape = {c_.heads, c_.tokens, c_.tokens};
    if (random_.uniform(0, 1) == 0) {
      op.bias = plan_.constant(shape, random_.numbers<int32_t>(c_.heads * count, -(1 << 29), 3000));
    } else {
      op.bias = plan_.constant(shape, random_.numbers<int16_t>(c_.heads * count, -(1 << 15), 100));
      op.bias_shift = static_cast<uint8_t>(random_.uniform(0, 14));
    }
    if (!has_index) return;
    const int64_t longest = random_.uniform(0, 1) == 0 ? 1 : static_cast<int64_t>(count);
    std::vector<uint8_t> index;
    while (index.size() < pairs) {
      const int64_t length = random_.uniform((longest + 1) / 2, longest);
      const int64_t first = random_.uniform(0, static_cast<int64_t>(count) - length);
      for (int64_t i = 0; i < length && index.size() < pairs; ++i) index.push_back(static_cast<uint8_t>(first + i));
    }
    op.bias_index = plan_.constant(Shape{c_.tokens, c_.tokens}, index);
  }

  uint32_t attention(uint32_t q, uint32_t k, uint32_t v, const Order& order, const Shape& map) {
    plan::AttentionT fused;
    fused.q = q;
    fused.k = k;
    fused.v = v;
    fused.heads = static_cast<uint32_t>(c_.heads);
    fused.groups = groups();
    set_bias(fused);
    fused.multiplier = 20000;
    fused.shift = 1;
    fused.format = format_;
    fused.requantizer = plan_.requantizer(random_.requantizer(channels_, c_.wide ? 15 : 21, 6, 5));
    if (!fused_) return attention_parts(std::move(fused), order, map);
    std::vector<int32_t> places(order.size());
    for (size_t i = 0; i < order.size(); ++i) places[order[i]] = static_cast<int32_t>(i);
    fused.rows = plan_.constant(Shape{places.size()}, places);
    fused.output = plan_.arena(DataType::Int8, map);
    return add(std::move(fused));
  }

  uint32_t attention_parts(plan::AttentionT fused, const Order& order, const Shape& map) {
    const Shape matrices{c_.batch * c_.windows, c_.heads, c_.tokens, c_.tokens};
    plan::AttentionScoresT scores;
    scores.q = fused.q;
    scores.k = fused.k;
    scores.heads = fused.heads;
    scores.output = plan_.arena(DataType::Int32, matrices);
    plan::SoftmaxT softmax;
    softmax.x = add(std::move(scores));
    softmax.groups = fused.groups;
    softmax.bias = fused.bias;
    softmax.bias_shift = fused.bias_shift;
    softmax.bias_index = fused.bias_index;
    softmax.multiplier = fused.multiplier;
    softmax.shift = fused.shift;
    softmax.format = fused.format;
    softmax.output = plan_.arena(DataType::UInt8, matrices);
    plan::AttentionValuesT values;
    values.probabilities = add(std::move(softmax));
    values.v = fused.v;
    values.format = fused.format;
    values.requantizer = std::move(fused.requantizer);
    values.output = plan_.arena(DataType::Int8, map);
    return select(add(std::move(values)), order, DataType::Int8, map);
  }

  template <typename OpT>
  uint32_t add(OpT op) {
    const uint32_t output = op.output;
    plan_.node(std::move(op));
    return output;
  }

  Random& random_;
  const WindowsCase& c_;
  bool fused_;
  size_t channels_;
  DataType stream_;
  plan::ProbabilityFormat format_;
  PlanBuilder plan_;
};

}  // namespace

PlanBuilder windows_plan(Random& random, const WindowsCase& c, bool fused) { return Builder(random, c, fused).build(); }

}  // namespace packqvit
