#include "tests/support/plan_builder.h"

#include <algorithm>
#include <cstring>

#include "packqvit/backend.h"
#include "src/blob.h"
#include "src/crc32.h"

namespace packqvit {

using executorch::runtime::Error;
using executorch::runtime::FreeableBuffer;
using executorch::runtime::Result;
using executorch::runtime::TensorLayout;
using plan::DataType;

void FakeDataMap::add(std::string key, const std::vector<uint8_t>& data) {
  Entry entry{std::move(key), data.size(), {}};
  if (entry.data.allocate(data.size() + kOffset) && !data.empty()) {
    std::memcpy(entry.data.data() + kOffset, data.data(), data.size());
  }
  entries_.push_back(std::move(entry));
}

Result<const TensorLayout> FakeDataMap::get_tensor_layout(std::string_view) const { return Error::NotImplemented; }

Result<FreeableBuffer> FakeDataMap::get_data(std::string_view key) const {
  for (const Entry& entry : entries_) {
    if (key != entry.key) continue;
    use_->most = std::max(use_->most, ++use_->now);
    const auto give_back = [](void* use, void*, size_t) { --static_cast<Use*>(use)->now; };
    return FreeableBuffer(entry.data.data() + kOffset, entry.size, give_back, use_.get());
  }
  return Error::NotFound;
}

Error FakeDataMap::load_data_into(std::string_view, void*, size_t) const { return Error::NotImplemented; }

std::vector<uint8_t> make_blob(const std::vector<uint8_t>& plan) {
  std::vector<uint8_t> blob(kBlobHeaderSize);
  const auto put = [&](size_t offset, uint64_t number, size_t size) {
    for (size_t i = 0; i < size; ++i) blob[offset + i] = static_cast<uint8_t>(number >> (8 * i));
  };
  std::memcpy(blob.data(), kBlobMagic, 8);
  put(8, kPlanVersion, 4);
  put(12, kBlobHeaderSize, 4);
  put(16, plan.size(), 8);
  put(24, crc32(plan.data(), plan.size()), 4);
  blob.insert(blob.end(), plan.begin(), plan.end());
  return blob;
}

PlanBuilder::PlanBuilder() { add_segment(); }

void PlanBuilder::add_segment() {
  auto segment = std::make_unique<plan::SegmentT>();
  segment->key = key(plan.segments.size());
  plan.segments.push_back(std::move(segment));
  segments_.resize(plan.segments.size());
}

void PlanBuilder::give_weights_segments() {
  for (const auto& constant : plan.constants) {
    if (constant->type != DataType::Int8 || constant->shape.size() != 2 || constant->shape[0] == 1) continue;
    const size_t rows = constant->shape[0];
    const size_t columns = constant->shape[1];
    const size_t bytes = rows * (constant->encoding == plan::Encoding::Nibbles ? (columns + 1) / 2 : columns);
    const uint8_t* data = segments_[constant->segment].data() + constant->offset;
    const std::vector<uint8_t> own(data, data + bytes);
    add_segment();
    segments_.back() = own;
    constant->segment = static_cast<uint32_t>(segments_.size() - 1);
    constant->offset = 0;
  }
}

FakeDataMap PlanBuilder::data_map() const {
  FakeDataMap map;
  for (size_t i = 0; i < segments_.size(); ++i) map.add(key(i), segments_[i]);
  return map;
}

uint32_t PlanBuilder::value(DataType type, const Shape& shape, plan::Storage storage, uint64_t location) {
  auto value = std::make_unique<plan::ValueT>();
  value->type = type;
  value->shape.assign(shape.begin(), shape.end());
  value->storage = storage;
  value->location = location;
  value->name = "value" + std::to_string(plan.values.size());
  plan.values.push_back(std::move(value));
  return static_cast<uint32_t>(plan.values.size() - 1);
}

uint32_t PlanBuilder::input(DataType type, const Shape& shape) {
  plan.inputs.push_back(value(type, shape, plan::Storage::Input, plan.inputs.size()));
  return plan.inputs.back();
}

uint32_t PlanBuilder::output(DataType type, const Shape& shape) {
  plan.outputs.push_back(value(type, shape, plan::Storage::Output, plan.outputs.size()));
  return plan.outputs.back();
}

uint32_t PlanBuilder::arena(DataType type, const Shape& shape) {
  const uint32_t index = value(type, shape, plan::Storage::Arena, plan.arena_size);
  plan.arena_size += round_up(element_count(shape) * element_size(type), kAlignment);
  return index;
}

int32_t PlanBuilder::constant(DataType type, const Shape& shape, plan::Encoding encoding, const void* data,
                              size_t bytes) {
  auto constant = std::make_unique<plan::ConstantT>();
  constant->type = type;
  constant->shape.assign(shape.begin(), shape.end());
  constant->encoding = encoding;
  std::vector<uint8_t>& segment = segments_[0];
  segment.resize(round_up(segment.size(), kAlignment));
  constant->offset = segment.size();
  segment.resize(segment.size() + bytes);
  std::memcpy(segment.data() + constant->offset, data, bytes);
  plan.constants.push_back(std::move(constant));
  return static_cast<int32_t>(plan.constants.size() - 1);
}

int32_t PlanBuilder::nibbles(const Shape& shape, const std::vector<int8_t>& codes) {
  const std::vector<uint8_t> bytes = to_nibbles(codes, shape.back());
  return constant(DataType::Int8, shape, plan::Encoding::Nibbles, bytes.data(), bytes.size());
}

std::unique_ptr<plan::RequantizerT> PlanBuilder::requantizer(const naive::Requantizer& plain) {
  auto result = std::make_unique<plan::RequantizerT>();
  result->multiplier = constant({plain.multiplier.size()}, plain.multiplier);
  result->shift = constant({plain.shift.size()}, plain.shift);
  result->fraction_bits = static_cast<uint8_t>(plain.fraction_bits);
  result->zero_point = static_cast<int32_t>(plain.zero_point);
  result->qmin = static_cast<int32_t>(plain.qmin);
  result->qmax = static_cast<int32_t>(plain.qmax);
  result->left_shift = static_cast<uint8_t>(plain.left_shift);
  return result;
}

uint8_t* PlanBuilder::data(int32_t constant) {
  const plan::ConstantT& stored = *plan.constants[static_cast<size_t>(constant)];
  return segments_[stored.segment].data() + stored.offset;
}

std::vector<uint8_t> PlanBuilder::packed_plan() {
  for (size_t i = 0; i < segments_.size() && !keep_segments; ++i) {
    plan.segments[i]->size = segments_[i].size();
    plan.segments[i]->crc32 = crc32(segments_[i].data(), segments_[i].size());
  }
  flatbuffers::FlatBufferBuilder builder;
  builder.Finish(plan::Plan::Pack(builder, &plan), plan::PlanIdentifier());
  return {builder.GetBufferPointer(), builder.GetBufferPointer() + builder.GetSize()};
}

namespace {

constexpr size_t kBatch = 2;
constexpr size_t kTokens = 7;
constexpr size_t kChannels = 8;
constexpr size_t kHeads = 2;
constexpr size_t kHidden = 12;
constexpr size_t kClasses = 10;

// Appends operators of random parameters; each function returns the value that it writes.
class Layers {
 public:
  Layers(PlanBuilder& plan, Random& random, bool wide)
      : plan_(plan), random_(random), stream_(wide ? DataType::Int16 : DataType::Int8), wide_(wide) {}

  uint32_t linear(uint32_t x, size_t in, size_t out, bool nibbles, int64_t residual = -1) {
    plan::LinearT op;
    op.x = x;
    op.weight = weight(out, in, nibbles);
    op.bias = plan_.constant(Shape{out}, random_.numbers<int32_t>(out, -2000, 2000));
    naive::Requantizer requantizer = random_.requantizer(out, 15, residual >= 0 && wide_ ? 0 : 5, 3);
    requantizer.qmin = -127;
    requantizer.qmax = 127;
    op.requantizer = plan_.requantizer(requantizer);
    if (residual >= 0) {
      op.epilogue = plan::Epilogue::AddResidual;
      op.residual = static_cast<int32_t>(residual);
      op.residual_multiplier = plan_.constant(Shape{out}, random_.numbers<int16_t>(out, 0, 32767));
    }
    op.output = plan_.arena(residual >= 0 ? stream_ : DataType::Int8, {kBatch, kTokens, out});
    return add(std::move(op));
  }

  // A linear that a stream begins with.
  uint32_t wide_linear(uint32_t x) {
    plan::LinearT op;
    op.x = x;
    op.weight = weight(kChannels, kChannels, false);
    op.bias = plan_.constant(Shape{kChannels}, random_.numbers<int32_t>(kChannels, -2000, 2000));
    naive::Requantizer requantizer = random_.requantizer(kChannels, 9, 0, 3);
    requantizer.zero_point = 0;
    requantizer.qmin = INT16_MIN;
    requantizer.qmax = INT16_MAX;
    op.requantizer = plan_.requantizer(requantizer);
    op.output = plan_.arena(DataType::Int16, {kBatch, kTokens, kChannels});
    return add(std::move(op));
  }

  // A LayerNorm that a stream begins with.
  uint32_t stream_norm(uint32_t x) {
    plan::LayerNormT op = norm_of(x, wide_);
    op.qmin = wide_ ? -30000 : -128;
    op.qmax = wide_ ? INT16_MAX : 127;
    op.output = plan_.arena(stream_, {kBatch, kTokens, kChannels});
    return add(std::move(op));
  }

  uint32_t layer_norm_add(uint32_t x, uint32_t residual) {
    plan::LayerNormT op = norm_of(x, true);
    op.residual = static_cast<int32_t>(residual);
    op.residual_multiplier = plan_.constant(Shape{kChannels}, random_.numbers<int16_t>(kChannels, 0, 32767));
    op.fraction_bits = wide_ ? 0 : 5;
    op.output = plan_.arena(stream_, {kBatch, kTokens, kChannels});
    return add(std::move(op));
  }

  uint32_t layer_norm(uint32_t x) {
    plan::LayerNormT op = norm_of(x, wide_);
    op.qmin = -128;
    op.qmax = 127;
    op.output = plan_.arena(DataType::Int8, {kBatch, kTokens, kChannels});
    return add(std::move(op));
  }

  // Without an output.
  plan::LayerNormT norm_of(uint32_t x, bool wide) {
    plan::LayerNormT op;
    op.x = x;
    if (!wide) op.channel_shift = plan_.constant(Shape{kChannels}, random_.numbers<uint8_t>(kChannels, 0, 7));
    op.weight = plan_.constant(Shape{kChannels}, random_.numbers<int16_t>(kChannels, -20000, 20000));
    op.bias = plan_.constant(Shape{kChannels}, random_.numbers<int32_t>(kChannels, -(1 << 20), 1 << 20));
    op.epsilon = 77;
    op.output_shift = 20;
    return op;
  }

  uint32_t patch_embedding(uint32_t x) {
    plan::PatchEmbeddingT op;
    op.x = x;
    op.patch_height = 4;
    op.patch_width = 4;
    op.weight = weight(kChannels, 48, false);
    op.bias = plan_.constant(Shape{kChannels}, random_.numbers<int32_t>(kChannels, -2000, 2000));
    op.requantizer = plan_.requantizer(random_.requantizer(kChannels, 20, wide_ ? 0 : 6, 5));
    op.position = plan_.constant(Shape{kTokens - 1, kChannels}, random_.numbers<int16_t>(6 * kChannels, -5000, 5000));
    op.prefix = wide_ ? plan_.constant(Shape{1, kChannels}, random_.numbers<int16_t>(kChannels, -32768, 32767))
                      : plan_.constant(Shape{1, kChannels}, random_.numbers<int8_t>(kChannels, -128, 127));
    op.output = plan_.arena(stream_, {kBatch, kTokens, kChannels});
    return add(std::move(op));
  }

  uint32_t attention(uint32_t q, uint32_t k, uint32_t v) {
    plan::AttentionScoresT scores;
    scores.q = q;
    scores.k = k;
    scores.heads = kHeads;
    scores.output = plan_.arena(DataType::Int32, {kBatch, kHeads, kTokens, kTokens});
    const uint32_t x = add(std::move(scores));

    plan::SoftmaxT softmax;
    softmax.x = x;
    softmax.bias = plan_.constant(Shape{2, kTokens, kTokens}, random_.numbers<int32_t>(2 * 49, -3000, 3000));
    softmax.multiplier = 20000;
    softmax.shift = 1;
    softmax.format = wide_ ? plan::ProbabilityFormat::Linear : plan::ProbabilityFormat::Log2;
    softmax.output = plan_.arena(DataType::UInt8, {kBatch, kHeads, kTokens, kTokens});
    const uint32_t p = add(std::move(softmax));

    plan::AttentionValuesT values;
    values.probabilities = p;
    values.v = v;
    values.format = wide_ ? plan::ProbabilityFormat::Linear : plan::ProbabilityFormat::Log2;
    values.requantizer = plan_.requantizer(random_.requantizer(kChannels, wide_ ? 15 : 21, 6, 5));
    values.output = plan_.arena(DataType::Int8, {kBatch, kTokens, kChannels});
    return add(std::move(values));
  }

  uint32_t lookup_table(uint32_t x) {
    plan::LookupTableT op;
    op.x = x;
    op.table = plan_.constant(Shape{256}, random_.numbers<int8_t>(256, -128, 127));
    op.output = plan_.arena(DataType::Int8, {kBatch, kTokens, kHidden});
    return add(std::move(op));
  }

  uint32_t quantize(uint32_t x) {
    plan::QuantizeT op;
    op.x = x;
    op.inverse_scale = plan_.constant(Shape{1}, std::vector<float>{30.0f});
    op.offset = plan_.constant(Shape{3}, std::vector<float>{0.1f, -0.2f, 0.3f});
    op.axis = 1;
    op.qmin = -128;
    op.qmax = 127;
    op.output = plan_.arena(DataType::Int8, {kBatch, 3, 8, 12});
    return add(std::move(op));
  }

  void head(uint32_t x) {
    plan::SelectTokensT select;
    select.x = x;
    select.index = {0};
    select.output = plan_.arena(DataType::Int8, {kBatch, 1, kChannels});
    plan::LinearT linear;
    linear.x = add(std::move(select));
    linear.weight = weight(kClasses, kChannels, true);
    linear.bias = plan_.constant(Shape{kClasses}, random_.numbers<int32_t>(kClasses, -2000, 2000));
    linear.epilogue = plan::Epilogue::Accumulate;
    linear.output = plan_.arena(DataType::Int32, {kBatch, 1, kClasses});
    plan::DequantizeT dequantize;
    dequantize.x = add(std::move(linear));
    std::vector<float> scale;
    for (size_t c = 0; c < kClasses; ++c) scale.push_back(0.01f * static_cast<float>(c + 1));
    dequantize.scale = plan_.constant(Shape{kClasses}, scale);
    dequantize.axis = 2;
    dequantize.output = plan_.output(DataType::Float32, {kBatch, 1, kClasses});
    add(std::move(dequantize));
  }

  void mean(uint32_t x) {
    plan::MeanTokensT op;
    op.x = x;
    op.bias = plan_.constant(Shape{kChannels}, random_.numbers<int32_t>(kChannels, -500, 500));
    op.requantizer = plan_.requantizer(random_.requantizer(kChannels, 16, 6, 15));
    op.output = plan_.output(DataType::Int8, {kBatch, 1, kChannels});
    add(std::move(op));
  }

  // The mean or the maximum of all tokens, as a stream.
  template <typename OpT>
  uint32_t pooled(uint32_t x) {
    OpT op;
    op.x = x;
    op.bias = plan_.constant(Shape{kChannels}, random_.numbers<int32_t>(kChannels, -500, 500));
    op.requantizer = plan_.requantizer(stream_requantizer());
    op.output = plan_.arena(stream_, {kBatch, 1, kChannels});
    return add(std::move(op));
  }

  uint32_t constant_tokens(size_t tokens) {
    plan::RepeatTokensT op;
    const Shape one{1, tokens, kChannels};
    const size_t size = tokens * kChannels;
    op.tokens = wide_ ? plan_.constant(one, random_.numbers<int16_t>(size, -32768, 32767))
                      : plan_.constant(one, random_.numbers<int8_t>(size, -128, 127));
    op.output = plan_.arena(stream_, {kBatch, tokens, kChannels});
    return add(std::move(op));
  }

  uint32_t join(uint32_t x, size_t x_tokens, uint32_t y, size_t y_tokens) {
    plan::JoinTokensT op;
    op.x = x;
    op.y = y;
    op.output = plan_.arena(stream_, {kBatch, x_tokens + y_tokens, kChannels});
    return add(std::move(op));
  }

  // The sum of two streams.
  uint32_t add(uint32_t x, uint32_t residual, size_t tokens, bool leaves) {
    plan::RequantizeAddT op;
    op.x = x;
    op.residual = residual;
    op.requantizer = plan_.requantizer(stream_requantizer());
    op.residual_multiplier = plan_.constant(Shape{kChannels}, random_.numbers<int16_t>(kChannels, 0, 32767));
    const Shape shape{kBatch, tokens, kChannels};
    op.output = leaves ? plan_.output(stream_, shape) : plan_.arena(stream_, shape);
    return add(std::move(op));
  }

 private:
  naive::Requantizer stream_requantizer() {
    naive::Requantizer requantizer = random_.requantizer(kChannels, wide_ ? 16 : 8, wide_ ? 0 : 6, 2);
    if (wide_) {
      requantizer.zero_point = 0;
      requantizer.qmin = -32768;
      requantizer.qmax = 32767;
    }
    return requantizer;
  }

  template <typename OpT>
  uint32_t add(OpT op) {
    const uint32_t output = op.output;
    plan_.node(std::move(op));
    return output;
  }

  int32_t weight(size_t out, size_t in, bool nibbles) {
    const int64_t limit = nibbles ? 7 : 127;
    const auto codes = random_.numbers<int8_t>(out * in, -limit, limit);
    return nibbles ? plan_.nibbles({out, in}, codes) : plan_.constant(Shape{out, in}, codes);
  }

  PlanBuilder& plan_;
  Random& random_;
  DataType stream_;
  bool wide_;
};

}  // namespace

PlanBuilder tiny_transformer(Random& random, bool wide) {
  PlanBuilder plan;
  Layers layers(plan, random, wide);
  const uint32_t embedded = layers.patch_embedding(layers.quantize(plan.input(DataType::Float32, {kBatch, 3, 8, 12})));
  const uint32_t x = layers.layer_norm(embedded);
  const uint32_t q = layers.linear(x, kChannels, kChannels, false);
  const uint32_t k = layers.linear(x, kChannels, kChannels, true);
  const uint32_t v = layers.linear(x, kChannels, kChannels, false);
  const uint32_t stream = layers.linear(layers.attention(q, k, v), kChannels, kChannels, false, embedded);
  const uint32_t hidden = layers.linear(layers.layer_norm(stream), kChannels, kHidden, true);
  const uint32_t last = layers.linear(layers.lookup_table(hidden), kHidden, kChannels, false, stream);
  const uint32_t features = layers.layer_norm(last);
  layers.head(features);
  layers.mean(features);
  return plan;
}

PlanBuilder tiny_post_norm(Random& random, bool wide) {
  PlanBuilder plan;
  Layers layers(plan, random, wide);
  const uint32_t image = layers.quantize(plan.input(DataType::Float32, {kBatch, 3, 8, 12}));
  const uint32_t stream = layers.stream_norm(layers.patch_embedding(image));
  const uint32_t branch = layers.wide_linear(layers.layer_norm(stream));
  const uint32_t features = layers.layer_norm(layers.layer_norm_add(branch, stream));
  layers.head(features);
  layers.mean(features);
  return plan;
}

PlanBuilder tiny_pooling(Random& random, bool wide) {
  PlanBuilder plan;
  Layers layers(plan, random, wide);
  const uint32_t embedded = layers.patch_embedding(layers.quantize(plan.input(DataType::Float32, {kBatch, 3, 8, 12})));
  const uint32_t sum = layers.add(layers.stream_norm(embedded), embedded, kTokens, /*leaves=*/false);
  const uint32_t tokens = layers.join(sum, kTokens, layers.constant_tokens(3), 3);
  layers.add(layers.pooled<plan::MeanTokensT>(tokens), layers.pooled<plan::MaxTokensT>(tokens), 1, /*leaves=*/true);
  return plan;
}

void fuse(PlanBuilder& builder) {
  std::vector<std::unique_ptr<plan::NodeT>> nodes;
  std::vector<std::unique_ptr<plan::PartT>> parts;
  plan::AttentionT attention;
  const auto absorb = [&](const plan::NodeT& node) {
    auto part = std::make_unique<plan::PartT>();
    part->name = node.name;
    part->debug_id = node.debug_id;
    parts.push_back(std::move(part));
  };
  for (auto& node : builder.plan.nodes) {
    if (const auto* scores = node->op.AsAttentionScores()) {
      attention.q = scores->q;
      attention.query = scores->query;
      attention.k = scores->k;
      attention.heads = scores->heads;
      absorb(*node);
    } else if (const auto* softmax = node->op.AsSoftmax()) {
      attention.bias = softmax->bias;
      attention.multiplier = softmax->multiplier;
      attention.shift = softmax->shift;
      attention.format = softmax->format;
      absorb(*node);
    } else if (auto* values = node->op.AsAttentionValues()) {
      attention.v = values->v;
      attention.output = values->output;
      attention.requantizer = std::move(values->requantizer);
      node->op.Set(std::move(attention));
      node->parts = std::move(parts);
      nodes.push_back(std::move(node));
    } else if (const auto* lookup = node->op.AsLookupTable()) {
      auto* linear = nodes.back()->op.AsLinear();
      linear->table = lookup->table;
      linear->output = lookup->output;
    } else {
      nodes.push_back(std::move(node));
    }
  }
  builder.plan.nodes = std::move(nodes);
}

}  // namespace packqvit
