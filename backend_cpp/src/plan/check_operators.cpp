#include <executorch/runtime/platform/log.h>

#include <algorithm>
#include <cinttypes>

#include "src/plan/check_node.h"
#include "src/plan/check_relative.h"
#include "src/plan/check_windows.h"

namespace packqvit {

using executorch::runtime::Error;
using plan::DataType;

namespace {

// The limits of docs/numerics.md, "Why nothing overflows".
constexpr size_t kMaxFeatures = 16384;  // of a linear or a patch
constexpr size_t kMaxChannels = 4096;   // of a norm or a head
constexpr int64_t kMaxBias = int64_t{1} << 29;
constexpr uint64_t kMaxBiasShift = 14;  // 2^15 << 14 is kMaxBias
constexpr int64_t kMaxLayerNormBias = (int64_t{1} << 30) - 1;
constexpr int64_t kMaxEpsilon = int64_t{1} << 57;
constexpr size_t kMaxSoftmaxKeys = 65536;
constexpr size_t kMaxLinearKeys = 32768;
constexpr size_t kMaxLog2Keys = 1031;  // of any codes; of those that a softmax gives, kMaxSoftmaxKeys
constexpr size_t kMaxMeanTokens = 8192;

template <typename Op>  // a Requantizer, or a LayerNorm
bool check_grid_limit(const NodeChecker& checker, DataType output, const Op& op) {
  return output != DataType::Int16 || op.fraction_bits() == 0 ||
         checker.fail("int16 codes have no fraction bits, found %d", op.fraction_bits());
}

// A requantiser that ends on int8 or int16 codes of its own.
bool check_requantized(const NodeChecker& checker, const plan::Requantizer* requantizer, size_t channels,
                       uint64_t bound, const Value& output) {
  if (!checker.requantizer(requantizer, channels, bound)) return false;
  return checker.range("requantizer", requantizer->qmin(), requantizer->qmax(), output.type) &&
         checker.zero_point(requantizer->zero_point(), output.type);
}

bool check(NodeChecker& checker, const plan::Quantize& op) {
  const Value* x = checker.read(op.x(), "x");
  const Value* output = checker.write(op.output());
  if (x == nullptr || output == nullptr) return false;
  const DataType type = code_type(op.qmin(), op.qmax());
  const Constant* scale = checker.axis_floats(op.inverse_scale(), "inverse_scale", *x, op.axis());
  const Constant* offset = checker.axis_floats(op.offset(), "offset", *x, op.axis());
  if (scale == nullptr || offset == nullptr) return false;
  if (scale->size() > 1 && offset->size() > 1 && scale->shape.size() != offset->shape.size()) {
    return checker.fail("inverse_scale has %zu axes, offset %zu", scale->shape.size(), offset->shape.size());
  }
  return checker.has_type(*x, "x", {DataType::Float32}) && checker.has_type(*output, "output", {type}) &&
         checker.has_size(*output, "output", x->size()) && checker.range("range", op.qmin(), op.qmax(), type);
}

bool check(NodeChecker& checker, const plan::Dequantize& op) {
  const Value* x = checker.read(op.x(), "x");
  const Value* output = checker.write(op.output());
  if (x == nullptr || output == nullptr) return false;
  const size_t channels = op.axis() < x->shape.size() ? x->dim(op.axis()) : 1;
  if (op.channels_first() && (!checker.has_rank(*x, "x", 3) || op.axis() != 2)) {
    return checker.fail("channels come first where x has 3 axes, the last one of channels, not axis %" PRIu32,
                        op.axis());
  }
  return checker.has_type(*x, "x", {DataType::Int8, DataType::Int16, DataType::Int32}) &&
         checker.has_type(*output, "output", {DataType::Float32}) && checker.has_size(*output, "output", x->size()) &&
         checker.zero_point(op.zero_point(), x->type) &&
         checker.channel_floats(op.scale(), "scale", channels) != nullptr;
}

// Codes of the output's type and shape, which are multiplied and added to.
template <typename Op>
bool check_residual(NodeChecker& checker, const Op& op, const Value& output, size_t features) {
  const Value* residual = checker.read(op.residual(), "residual");
  if (residual != nullptr) checker.use.replaceable = static_cast<size_t>(op.residual());
  if (residual == nullptr || !checker.has_type(output, "output", {DataType::Int8, DataType::Int16}) ||
      !checker.has_type(*residual, "residual", {output.type}) ||
      !checker.has_rows(*residual, "residual", output.size() / features, features)) {
    return false;
  }
  const Constant* multiplier =
      checker.constant(op.residual_multiplier(), "residual_multiplier", DataType::Int16, {features});
  if (multiplier == nullptr) return false;
  for (size_t c = 0; c < features; ++c) {
    if (multiplier->get<int16_t>(c) < 0) return checker.fail("residual_multiplier[%zu] is negative", c);
  }
  return true;
}

// Codes on an affine grid of int8, or of a stream that begins here.
bool check_codes(const NodeChecker& checker, const plan::Linear& op, const Value& output, size_t features,
                 uint64_t bound) {
  if (!checker.has_type(output, "output", {DataType::Int8, DataType::Int16}) ||
      (op.table() != -1 && checker.constant(op.table(), "table", DataType::Int8, {256}) == nullptr) ||
      !check_requantized(checker, op.requantizer(), features, bound, output)) {
    return false;
  }
  if (output.type == DataType::Int8) return true;
  const plan::Requantizer& grid = *op.requantizer();
  if (op.table() != -1) return checker.fail("a table has int8 codes, the output int16");
  if (grid.qmin() != INT16_MIN || grid.qmax() != INT16_MAX || grid.zero_point() != 0) {
    return checker.fail("int16 codes of a linear are [-32768, 32767] around 0, found [%d, %d] around %d", grid.qmin(),
                        grid.qmax(), grid.zero_point());
  }
  return check_grid_limit(checker, output.type, grid);
}

bool check(NodeChecker& checker, const plan::Linear& op) {
  const Value* x = checker.read(op.x(), "x");
  const Value* output = checker.write(op.output());
  if (x == nullptr || output == nullptr) return false;
  const size_t features = output->last();
  std::vector<uint64_t> bounds(features);
  if (!checker.has_type(*x, "x", {DataType::Int8}) || !checker.at_most("K", x->last(), kMaxFeatures) ||
      !checker.has_rows(*output, "output", x->size() / x->last(), features) ||
      !checker.weight(op.weight(), features, x->last(), bounds) || !checker.bias(op.bias(), kMaxBias, bounds)) {
    return false;
  }
  const uint64_t bound = *std::max_element(bounds.begin(), bounds.end());
  if (op.table() != -1 && op.epilogue() != plan::Epilogue::Requantize) {
    return checker.fail("a table belongs to Requantize, the epilogue is %d", static_cast<int>(op.epilogue()));
  }
  if (op.epilogue() == plan::Epilogue::AddResidual) {
    return check_residual(checker, op, *output, features) && checker.requantizer(op.requantizer(), features, bound) &&
           check_grid_limit(checker, output->type, *op.requantizer());
  }
  if (op.residual() != -1 || op.residual_multiplier() != -1) {
    return checker.fail("a residual belongs to AddResidual, the epilogue is %d", static_cast<int>(op.epilogue()));
  }
  switch (op.epilogue()) {
    case plan::Epilogue::Requantize:
      return check_codes(checker, op, *output, features, bound);
    case plan::Epilogue::Accumulate:
      return checker.has_type(*output, "output", {DataType::Int32});
    default:
      return checker.fail("unknown epilogue %d", static_cast<int>(op.epilogue()));
  }
}

bool check(NodeChecker& checker, const plan::PatchEmbedding& op) {
  const Value* x = checker.read(op.x(), "x");
  const Value* output = checker.write(op.output());
  if (x == nullptr || output == nullptr || !checker.has_type(*x, "x", {DataType::Int8}) ||
      !checker.has_type(*output, "output", {DataType::Int8, DataType::Int16}) || !checker.has_rank(*x, "x", 4) ||
      !checker.has_rank(*output, "output", 3)) {
    return false;
  }
  const size_t height = op.patch_height();
  const size_t width = op.patch_width();
  if (height == 0 || width == 0 || x->dim(2) < height || x->dim(3) < width) {
    return checker.fail("no patch of %zu x %zu is in the image %s", height, width, to_string(x->shape).c_str());
  }
  const size_t patches = x->dim(2) / height * (x->dim(3) / width);
  const size_t channels = output->last();
  const size_t features = x->dim(1) * height * width;
  const size_t prefix = output->dim(1) - std::min(patches, output->dim(1));
  std::vector<uint64_t> bounds(channels);
  return checker.has_shape(*output, "output", {x->dim(0), prefix + patches, channels}) &&
         checker.at_most("K", features, kMaxFeatures) && checker.weight(op.weight(), channels, features, bounds) &&
         checker.bias(op.bias(), kMaxBias, bounds) &&
         checker.requantizer(op.requantizer(), channels, *std::max_element(bounds.begin(), bounds.end())) &&
         check_grid_limit(checker, output->type, *op.requantizer()) &&
         (op.position() == -1
              ? output->type == DataType::Int16 || checker.fail("int8 tokens need positions")
              : checker.constant(op.position(), "position", DataType::Int16, {patches, channels}) != nullptr) &&
         ((op.prefix() == -1 && prefix == 0) ||
          checker.constant(op.prefix(), "prefix", output->type, {prefix, channels}) != nullptr);
}

bool is_probability_format(plan::ProbabilityFormat format) {
  return format == plan::ProbabilityFormat::Log2 || format == plan::ProbabilityFormat::Linear;
}

// Shape of q, [B, Nq, D]: a value, or a constant that all images share. Empty where it is neither.
template <typename Op>
Shape check_queries(NodeChecker& checker, const Op& op, const Value& k) {
  if (op.query() == -1) {
    const Value* q = checker.read(op.q(), "q");
    const bool good = q != nullptr && checker.has_type(*q, "q", {DataType::Int8}) && checker.has_rank(*q, "q", 3);
    return good ? q->shape : Shape{};
  }
  if (op.q() != kNoValue) {
    checker.fail("q is a value, %" PRIu32 ", and a constant", op.q());
    return {};
  }
  const Constant* query = checker.find_constant(op.query(), "query");
  if (query == nullptr) return {};
  const size_t queries = query->shape.size() == 3 ? query->shape[1] : 0;
  return checker.constant(op.query(), "query", DataType::Int8, {1, queries, k.last()}) != nullptr
             ? Shape{k.dim(0), queries, k.last()}
             : Shape{};
}

// q and k of rank 3 and their heads; sets the shape of q.
template <typename Op>
bool check_heads(NodeChecker& checker, const Op& op, const Value& k, Shape& q) {
  if (!checker.has_type(k, "k", {DataType::Int8}) || !checker.has_rank(k, "k", 3)) return false;
  q = check_queries(checker, op, k);
  if (q.empty()) return false;
  if (op.heads() == 0 || q[2] % op.heads() != 0) {
    return checker.fail("%" PRIu32 " heads do not divide %zu channels", op.heads(), q[2]);
  }
  return checker.has_shape(k, "k", {q[0], k.dim(1), q[2]}) &&
         checker.at_most("channels per head", q[2] / op.heads(), kMaxChannels);
}

bool check(NodeChecker& checker, const plan::AttentionScores& op) {
  const Value* k = checker.read(op.k(), "k");
  const Value* output = checker.write(op.output());
  Shape q;
  return k != nullptr && output != nullptr && checker.has_type(*output, "output", {DataType::Int32}) &&
         check_heads(checker, op, *k, q) && checker.has_shape(*output, "output", {q[0], op.heads(), q[1], k->dim(1)});
}

bool check(NodeChecker& checker, const plan::AddRelativeBias& op) {
  const Value* x = checker.read(op.x(), "x");
  const Value* q = checker.read(op.q(), "q");
  const Value* output = checker.write(op.output());
  if (x == nullptr || q == nullptr || output == nullptr || !checker.has_type(*x, "x", {DataType::Int32}) ||
      !checker.has_type(*q, "q", {DataType::Int8}) || !checker.has_type(*output, "output", {DataType::Int32}) ||
      !checker.has_rank(*x, "x", 4) || !checker.has_rank(*q, "q", 3) ||
      !checker.has_shape(*output, "output", x->shape) ||
      !checker.has_shape(*q, "q", {x->dim(0), x->dim(2), q->last()})) {
    return false;
  }
  const size_t head_size = q->last() / x->dim(1);
  if (head_size * x->dim(1) != q->last()) {
    return checker.fail("%zu heads do not divide %zu channels", x->dim(1), q->last());
  }
  return checker.at_most("channels per head", head_size, kMaxChannels) &&
         check_relative(checker, op.relative(), x->shape, head_size);
}

// Which of `count` columns of a bias each pair of a query and a key has.
bool check_bias_index(const NodeChecker& checker, int32_t index, size_t count, const Shape& shape) {
  const Constant* found = checker.find_constant(index, "bias_index");
  if (found == nullptr) return false;
  const DataType type = found->type == DataType::UInt8 ? DataType::UInt8 : DataType::Int16;
  if (checker.constant(index, "bias_index", type, shape) == nullptr) return false;
  for (size_t i = 0; i < found->size(); ++i) {
    const int column = type == DataType::UInt8 ? found->get<uint8_t>(i) : found->get<int16_t>(i);
    if (column < 0 || static_cast<size_t>(column) >= count) {
      return checker.fail("bias_index[%zu] = %d is no column of %zu", i, column, count);
    }
  }
  return true;
}

// Multiplier, shift, format, groups and bias of a softmax over scores [batch, heads, queries, keys].
template <typename Op>
bool check_softmax(const NodeChecker& checker, const Op& op, const Shape& scores) {
  if (!checker.at_most("keys", scores[3], kMaxSoftmaxKeys)) return false;
  if (op.multiplier() < 1 << 14) return checker.fail("multiplier %d is not in [16384, 32767]", op.multiplier());
  if (op.shift() < -15 || op.shift() > 30) return checker.fail("shift %d is not in [-15, 30]", op.shift());
  if (!is_probability_format(op.format())) return checker.fail("unknown format %d", static_cast<int>(op.format()));
  if (op.groups() != -1 && !check_groups(checker, op.groups(), scores)) return false;
  if (op.bias() == -1) return true;
  const Constant* bias = checker.find_constant(op.bias(), "bias");
  if (bias == nullptr) return false;
  const size_t heads = scores[0] * scores[1];
  if (heads % bias->shape[0] != 0) {
    return checker.fail("bias has %zu heads, needs a divisor of %zu", bias->shape[0], heads);
  }
  Shape shape{bias->shape[0], scores[2], scores[3]};
  if (op.bias_index() != -1) {
    if (bias->shape.size() != 2)
      return checker.fail("a bias with an index has 2 axes, this one is %s", to_string(bias->shape).c_str());
    shape = bias->shape;
    if (!check_bias_index(checker, op.bias_index(), shape[1], {scores[2], scores[3]})) return false;
  }
  if (bias->type != DataType::Int16) {
    return (op.bias_shift() == 0 || checker.fail("bias_shift is of int16, it is %d", op.bias_shift())) &&
           checker.bounded(op.bias(), "bias", shape, kMaxBias);
  }
  return checker.at_most("bias_shift", op.bias_shift(), kMaxBiasShift) &&
         checker.constant(op.bias(), "bias", DataType::Int16, shape) != nullptr;
}

bool check(NodeChecker& checker, const plan::Softmax& op) {
  const Value* x = checker.read(op.x(), "x");
  const Value* output = checker.write(op.output());
  if (x == nullptr || output == nullptr || !checker.has_type(*x, "x", {DataType::Int32}) ||
      !checker.has_type(*output, "output", {DataType::UInt8}) || !checker.has_rank(*x, "x", 4) ||
      !checker.has_shape(*output, "output", x->shape)) {
    return false;
  }
  return check_softmax(checker, op, x->shape);
}

// The sums of `keys` values, weighted by what a softmax gives or by any codes, and their requantiser.
template <typename Op>
bool check_values(const NodeChecker& checker, const Op& op, size_t keys, bool of_softmax, const Value& v,
                  const Value& output) {
  const bool log2 = op.format() == plan::ProbabilityFormat::Log2;
  const uint64_t largest = log2 ? keys * 127 << 14 : INT16_MAX;  // linear: divided by the sum of the codes
  const size_t most = !log2 ? kMaxLinearKeys : of_softmax ? kMaxSoftmaxKeys : kMaxLog2Keys;
  return checker.at_most(log2 && !of_softmax ? "keys of log2 codes that no softmax gives" : "keys", keys, most) &&
         check_requantized(checker, op.requantizer(), v.last(), largest, output);
}

// Whether a value is what a softmax of this plan gives, with log2 codes.
bool is_log2_softmax(const NodeChecker& checker, uint32_t value) {
  const plan::Node* writer = checker.writer(value);
  const plan::Softmax* softmax = writer != nullptr ? writer->op_as_Softmax() : nullptr;
  return softmax != nullptr && softmax->format() == plan::ProbabilityFormat::Log2;
}

bool check(NodeChecker& checker, const plan::AttentionValues& op) {
  const Value* p = checker.read(op.probabilities(), "probabilities");
  const Value* v = checker.read(op.v(), "v");
  const Value* output = checker.write(op.output());
  if (p == nullptr || v == nullptr || output == nullptr || !checker.has_type(*p, "probabilities", {DataType::UInt8}) ||
      !checker.has_type(*v, "v", {DataType::Int8}) || !checker.has_type(*output, "output", {DataType::Int8}) ||
      !checker.has_rank(*p, "probabilities", 4) || !checker.has_rank(*v, "v", 3) ||
      !checker.has_shape(*v, "v", {p->dim(0), p->dim(3), v->last()}) ||
      !checker.has_shape(*output, "output", {p->dim(0), p->dim(2), v->last()})) {
    return false;
  }
  if (v->last() % p->dim(1) != 0) {
    return checker.fail("%zu heads do not divide %zu channels", p->dim(1), v->last());
  }
  if (!is_probability_format(op.format())) return checker.fail("unknown format %d", static_cast<int>(op.format()));
  return check_values(checker, op, p->dim(3), is_log2_softmax(checker, op.probabilities()), *v, *output);
}

bool check(NodeChecker& checker, const plan::Attention& op) {
  const Value* k = checker.read(op.k(), "k");
  const Value* v = checker.read(op.v(), "v");
  const Value* output = checker.write(op.output());
  Shape q;
  if (k == nullptr || v == nullptr || output == nullptr || !checker.has_type(*v, "v", {DataType::Int8}) ||
      !checker.has_type(*output, "output", {DataType::Int8}) || !check_heads(checker, op, *k, q)) {
    return false;
  }
  const size_t rows = q[0] * q[1];
  const bool fits =
      op.rows() == -1 ? checker.has_shape(*output, "output", q)
                      : checker.has_rows(*output, "output", rows, q[2]) && check_permutation(checker, op.rows(), rows);
  const Shape scores{q[0], op.heads(), q[1], k->dim(1)};
  if (op.relative() != nullptr) {
    if (op.query() != -1) return checker.fail("relative positions are of queries that are a value");
    if (op.groups() != -1) return checker.fail("there are groups or relative positions, not both");
    if (!check_relative(checker, op.relative(), scores, q[2] / op.heads())) return false;
  }
  return fits && checker.has_shape(*v, "v", k->shape) && check_softmax(checker, op, scores) &&
         check_values(checker, op, k->dim(1), true, *v, *output);
}

// What the output's codes are: a range of their own, or a sum with a residual.
bool check_layer_norm_output(NodeChecker& checker, const plan::LayerNorm& op, const Value& output) {
  if (op.residual() != -1) {
    return check_residual(checker, op, output, output.last()) &&
           checker.at_most("fraction_bits", op.fraction_bits(), 6) && check_grid_limit(checker, output.type, op);
  }
  if (op.residual_multiplier() != -1 || op.fraction_bits() != 0) {
    return checker.fail("a residual multiplier and fraction bits belong to a residual, there is none");
  }
  return checker.range("range", op.qmin(), op.qmax(), output.type);
}

template <typename Op>  // a LayerNorm, or a HeadNorm
bool check_norm_numbers(const NodeChecker& checker, const Op& op) {
  if (op.epsilon() < 0 || op.epsilon() > kMaxEpsilon) {
    return checker.fail("epsilon %" PRId64 " is not in [0, 2^57]", op.epsilon());
  }
  return (op.output_shift() >= 1 && op.output_shift() <= 30) ||
         checker.fail("output_shift %d is not in [1, 30]", op.output_shift());
}

// The rows of x, or those that `rows` makes of them.
template <typename Op>  // a LayerNorm, or a Requantize
bool check_rows(const NodeChecker& checker, const Op& op, const Value& x, const Value& output) {
  const size_t channels = output.last();
  return op.rows() == -1 ? checker.has_rows(output, "output", x.size() / x.last(), x.last())
                         : check_sources(checker, op.rows(), x, output.size() / channels, channels);
}

bool check(NodeChecker& checker, const plan::LayerNorm& op) {
  const Value* x = checker.read(op.x(), "x");
  const Value* output = checker.write(op.output());
  if (x == nullptr || output == nullptr || !checker.has_type(*x, "x", {DataType::Int8, DataType::Int16}) ||
      !checker.has_type(*output, "output", {DataType::Int8, DataType::Int16})) {
    return false;
  }
  const size_t channels = output->last();
  if (!check_rows(checker, op, *x, *output) || !check_norm_numbers(checker, op)) return false;
  if (op.rows() == -1 && x->type == output->type) checker.use.replaceable = op.x();
  if (op.channel_shift() != -1) {
    const Constant* shift = checker.constant(op.channel_shift(), "channel_shift", DataType::UInt8, {channels});
    if (shift == nullptr) return false;
    const int limit = x->type == DataType::Int8 ? 7 : 0;
    for (size_t c = 0; c < channels; ++c) {
      if (shift->get<uint8_t>(c) > limit) return checker.fail("channel_shift[%zu] is above %d", c, limit);
    }
  }
  return checker.at_most("channels", channels, kMaxChannels) && check_layer_norm_output(checker, op, *output) &&
         checker.constant(op.weight(), "weight", DataType::Int16, {channels}) != nullptr &&
         checker.bounded(op.bias(), "bias", {channels}, kMaxLayerNormBias);
}

bool check(NodeChecker& checker, const plan::HeadNorm& op) {
  const Value* x = checker.read(op.x(), "x");
  const Value* output = checker.write(op.output());
  if (x == nullptr || output == nullptr || !checker.has_type(*x, "x", {DataType::Int8, DataType::Int16}) ||
      !checker.has_type(*output, "output", {DataType::Int8, DataType::Int16}) ||
      !checker.has_rows(*output, "output", x->size() / x->last(), x->last())) {
    return false;
  }
  const size_t width = x->last();
  if (op.heads() == 0 || width % op.heads() != 0) {
    return checker.fail("%" PRIu32 " heads do not divide %zu channels", op.heads(), width);
  }
  return checker.at_most("channels per head", width / op.heads(), kMaxChannels) && check_norm_numbers(checker, op) &&
         checker.range("range", op.qmin(), op.qmax(), output->type) &&
         checker.constant(op.weight(), "weight", DataType::Int16, {width}) != nullptr &&
         checker.bounded(op.bias(), "bias", {width}, kMaxLayerNormBias);
}

// int16 without its least number: two products with it would not fit into 32 bits.
bool check_factors(const NodeChecker& checker, int32_t index, const char* what, const Shape& shape) {
  const Constant* factors = checker.constant(index, what, DataType::Int16, shape);
  if (factors == nullptr) return false;
  for (size_t i = 0; i < factors->size(); ++i) {
    if (factors->get<int16_t>(i) == INT16_MIN) return checker.fail("%s[%zu] is %d", what, i, INT16_MIN);
  }
  return true;
}

bool check(NodeChecker& checker, const plan::Rotate& op) {
  const Value* x = checker.read(op.x(), "x");
  const Value* output = checker.write(op.output());
  if (x == nullptr || output == nullptr || !checker.has_rank(*x, "x", 3) ||
      !checker.has_type(*x, "x", {DataType::Int16}) || !checker.has_type(*output, "output", {DataType::Int8}) ||
      !checker.has_rows(*output, "output", x->dim(0) * x->dim(1), x->last())) {
    return false;
  }
  const size_t channels = op.partner() == nullptr ? 0 : op.partner()->size();
  if (channels == 0 || x->last() % channels != 0) {
    return checker.fail("%zu channels of a head do not divide %zu", channels, x->last());
  }
  for (const uint32_t partner : *op.partner()) {
    if (partner >= channels) return checker.fail("there is no channel %" PRIu32 " of %zu", partner, channels);
  }
  const size_t heads = x->last() / channels;
  const Constant* cosine = checker.find_constant(op.cosine(), "cosine");
  if (cosine == nullptr) return false;
  const bool by_head = cosine->shape.size() == 3 && cosine->shape[1] == heads;
  const Shape factors{x->dim(1), by_head ? heads : 1, channels};
  return check_factors(checker, op.cosine(), "cosine", factors) && check_factors(checker, op.sine(), "sine", factors) &&
         check_requantized(checker, op.requantizer(), x->last(), 1 << 15, *output);
}

// A zero point of int8 codes; int16 ones, whose differences to one would need more bits, are around 0.
bool check_factor_grid(const NodeChecker& checker, const Value& factor, int64_t zero_point) {
  if (factor.type == DataType::Int8) return checker.zero_point(zero_point, factor.type);
  return zero_point == 0 || checker.fail("int16 codes that are multiplied are around 0, not %" PRId64, zero_point);
}

bool check(NodeChecker& checker, const plan::Multiply& op) {
  const Value* x = checker.read(op.x(), "x");
  const Value* y = checker.read(op.y(), "y");
  const Value* output = checker.write(op.output());
  if (x == nullptr || y == nullptr || output == nullptr ||
      !checker.has_type(*x, "x", {DataType::Int8, DataType::Int16}) ||
      !checker.has_type(*y, "y", {DataType::Int8, DataType::Int16}) ||
      !checker.has_rows(*y, "y", x->size() / x->last(), x->last()) ||
      !checker.has_rows(*output, "output", x->size() / x->last(), x->last())) {
    return false;
  }
  return check_factor_grid(checker, *x, op.x_zero_point()) && check_factor_grid(checker, *y, op.y_zero_point()) &&
         checker.at_most("product_shift", op.product_shift(), 15) &&
         check_requantized(checker, op.requantizer(), x->last(), 1 << 15, *output) &&
         checker.has_type(*output, "output", {code_type(op.requantizer()->qmin(), op.requantizer()->qmax())}) &&
         check_grid_limit(checker, output->type, *op.requantizer());
}

bool check(NodeChecker& checker, const plan::Requantize& op) {
  const Value* x = checker.read(op.x(), "x");
  const Value* output = checker.write(op.output());
  if (x == nullptr || output == nullptr || !checker.has_type(*x, "x", {DataType::Int8, DataType::Int16}) ||
      !check_rows(checker, op, *x, *output)) {
    return false;
  }
  const uint64_t largest = static_cast<uint64_t>(-type_minimum(x->type));
  return check_requantized(checker, op.requantizer(), output->last(), largest, *output) &&
         checker.has_type(*output, "output", {code_type(op.requantizer()->qmin(), op.requantizer()->qmax())}) &&
         check_grid_limit(checker, output->type, *op.requantizer());
}

bool check(NodeChecker& checker, const plan::RequantizeAdd& op) {
  const Value* x = checker.read(op.x(), "x");
  const Value* output = checker.write(op.output());
  if (x == nullptr || output == nullptr || !checker.has_type(*x, "x", {DataType::Int8, DataType::Int16}) ||
      !checker.has_rows(*output, "output", x->size() / x->last(), x->last())) {
    return false;
  }
  const uint64_t largest = static_cast<uint64_t>(-type_minimum(x->type));
  return check_residual(checker, op, *output, x->last()) && checker.requantizer(op.requantizer(), x->last(), largest) &&
         check_grid_limit(checker, output->type, *op.requantizer());
}

bool check(NodeChecker& checker, const plan::LookupTable& op) {
  const Value* x = checker.read(op.x(), "x");
  const Value* output = checker.write(op.output());
  if (x == nullptr || output == nullptr || !checker.has_type(*x, "x", {DataType::Int8}) ||
      !checker.has_type(*output, "output", {DataType::Int8}) || !checker.has_size(*output, "output", x->size())) {
    return false;
  }
  return checker.constant(op.table(), "table", DataType::Int8, {256}) != nullptr;
}

bool check(NodeChecker& checker, const plan::SelectTokens& op) {
  const Value* x = checker.read(op.x(), "x");
  const Value* output = checker.write(op.output());
  if (x == nullptr || output == nullptr || !checker.has_rank(*x, "x", 3) ||
      !checker.has_type(*output, "output", {x->type})) {
    return false;
  }
  if (op.index() == nullptr || op.index()->size() == 0) return checker.fail("no token is selected");
  for (const uint32_t index : *op.index()) {
    if (index >= x->dim(1) && index != kNoToken)
      return checker.fail("there is no token %" PRIu32 " of %zu", index, x->dim(1));
  }
  return checker.has_rows(*output, "output", x->dim(0) * op.index()->size(), x->dim(2)) &&
         (op.fill() == 0 || checker.range("fill", op.fill(), op.fill(), x->type));
}

bool check(NodeChecker& checker, const plan::RepeatTokens& op) {
  const Value* output = checker.write(op.output());
  const Constant* tokens = output == nullptr ? nullptr : checker.find_constant(op.tokens(), "tokens");
  if (tokens == nullptr || !checker.has_type(*output, "output", {DataType::Int8, DataType::Int16})) return false;
  if (tokens->type != output->type || tokens->encoding != plan::Encoding::Dense) {
    return checker.fail("tokens are no dense constant of the output's type");
  }
  return checker.has_size(*output, "output", output->dim(0) * tokens->size());
}

bool check(NodeChecker& checker, const plan::JoinTokens& op) {
  const Value* x = checker.read(op.x(), "x");
  const Value* y = checker.read(op.y(), "y");
  const Value* output = checker.write(op.output());
  return x != nullptr && y != nullptr && output != nullptr && checker.has_rank(*x, "x", 3) &&
         checker.has_rank(*y, "y", 3) && checker.has_type(*x, "x", {DataType::Int8, DataType::Int16}) &&
         checker.has_type(*y, "y", {x->type}) && checker.has_type(*output, "output", {x->type}) &&
         checker.has_shape(*y, "y", {x->dim(0), y->dim(1), x->dim(2)}) &&
         checker.has_rows(*output, "output", x->dim(0) * (x->dim(1) + y->dim(1)), x->dim(2));
}

// One token of all, whose codes are added up or compared.
template <typename Op>
bool check_pooling(NodeChecker& checker, const Op& op, bool adds) {
  const Value* x = checker.read(op.x(), "x");
  const Value* output = checker.write(op.output());
  if (x == nullptr || output == nullptr || !checker.has_type(*x, "x", {DataType::Int8, DataType::Int16}) ||
      !checker.has_type(*output, "output", {DataType::Int8, DataType::Int16}) || !checker.has_rank(*x, "x", 3) ||
      !checker.has_rows(*output, "output", x->dim(0), x->dim(2)) ||
      (adds && !checker.at_most("tokens", x->dim(1), kMaxMeanTokens))) {
    return false;
  }
  const uint64_t largest = static_cast<uint64_t>(-type_minimum(x->type));
  std::vector<uint64_t> bounds(x->dim(2), adds ? x->dim(1) * largest : largest);
  if (!checker.bias(op.bias(), kMaxBias, bounds) ||
      !check_requantized(checker, op.requantizer(), x->dim(2), *std::max_element(bounds.begin(), bounds.end()),
                         *output)) {
    return false;
  }
  return checker.has_type(*output, "output", {code_type(op.requantizer()->qmin(), op.requantizer()->qmax())}) &&
         check_grid_limit(checker, output->type, *op.requantizer());
}

bool check(NodeChecker& checker, const plan::MeanTokens& op) { return check_pooling(checker, op, /*adds=*/true); }

bool check(NodeChecker& checker, const plan::MaxTokens& op) { return check_pooling(checker, op, /*adds=*/false); }

bool check(NodeChecker& checker, const plan::PixelCodes& op) {
  const Value* x = checker.read(op.x(), "x");
  const Value* output = checker.write(op.output());
  if (x == nullptr || output == nullptr || !checker.has_type(*x, "x", {DataType::UInt8}) ||
      !checker.has_type(*output, "output", {DataType::Int8}) || !checker.has_rank(*x, "x", 4)) {
    return false;
  }
  return checker.has_shape(*output, "output",
                           op.channels_last() ? Shape{x->dim(0), x->dim(3), x->dim(1), x->dim(2)} : x->shape);
}

// Rows of k best of float32 scores.
bool check_best(const NodeChecker& checker, const Value& scores, const Value& best, const char* what) {
  return checker.has_type(scores, "x", {DataType::Float32}) && checker.at_most("k", best.last(), scores.last()) &&
         checker.has_rows(best, what, scores.size() / scores.last(), best.last());
}

bool check(NodeChecker& checker, const plan::TopK& op) {
  const Value* x = checker.read(op.x(), "x");
  const Value* output = checker.write(op.output());
  return x != nullptr && output != nullptr && checker.has_type(*output, "output", {DataType::Int32}) &&
         check_best(checker, *x, *output, "output");
}

bool check(NodeChecker& checker, const plan::TakeScores& op) {
  const Value* x = checker.read(op.x(), "x");
  const Value* index = checker.read(op.index(), "index");
  const Value* output = checker.write(op.output());
  return x != nullptr && index != nullptr && output != nullptr &&
         checker.has_type(*index, "index", {DataType::Int32}) &&
         checker.has_type(*output, "output", {DataType::Float32}) && check_best(checker, *x, *index, "index") &&
         checker.has_rows(*output, "output", index->size() / index->last(), index->last());
}

// The scores and the softmax of an attention, to be traced under their own names.
bool check_parts(const NodeChecker& checker, const plan::Node& node) {
  const size_t parts = node.parts() != nullptr ? node.parts()->size() : 0;
  return parts == 0 || (parts == 2 && node.op_type() == plan::Operator::Attention) || checker.fail("%zu parts", parts);
}

enum class Verdict { kGood, kBad, kUnknownOperator };

Verdict check_operator(NodeChecker& checker, const plan::Node& node) {
  const auto verdict = [&](const auto* op) { return check(checker, *op) ? Verdict::kGood : Verdict::kBad; };
  switch (node.op_type()) {
    case plan::Operator::Quantize:
      return verdict(node.op_as_Quantize());
    case plan::Operator::Dequantize:
      return verdict(node.op_as_Dequantize());
    case plan::Operator::Linear:
      return verdict(node.op_as_Linear());
    case plan::Operator::PatchEmbedding:
      return verdict(node.op_as_PatchEmbedding());
    case plan::Operator::AttentionScores:
      return verdict(node.op_as_AttentionScores());
    case plan::Operator::Softmax:
      return verdict(node.op_as_Softmax());
    case plan::Operator::AttentionValues:
      return verdict(node.op_as_AttentionValues());
    case plan::Operator::LayerNorm:
      return verdict(node.op_as_LayerNorm());
    case plan::Operator::LookupTable:
      return verdict(node.op_as_LookupTable());
    case plan::Operator::SelectTokens:
      return verdict(node.op_as_SelectTokens());
    case plan::Operator::MeanTokens:
      return verdict(node.op_as_MeanTokens());
    case plan::Operator::Attention:
      return verdict(node.op_as_Attention());
    case plan::Operator::PixelCodes:
      return verdict(node.op_as_PixelCodes());
    case plan::Operator::TopK:
      return verdict(node.op_as_TopK());
    case plan::Operator::TakeScores:
      return verdict(node.op_as_TakeScores());
    case plan::Operator::HeadNorm:
      return verdict(node.op_as_HeadNorm());
    case plan::Operator::Requantize:
      return verdict(node.op_as_Requantize());
    case plan::Operator::MaxTokens:
      return verdict(node.op_as_MaxTokens());
    case plan::Operator::RequantizeAdd:
      return verdict(node.op_as_RequantizeAdd());
    case plan::Operator::RepeatTokens:
      return verdict(node.op_as_RepeatTokens());
    case plan::Operator::JoinTokens:
      return verdict(node.op_as_JoinTokens());
    case plan::Operator::Rotate:
      return verdict(node.op_as_Rotate());
    case plan::Operator::Multiply:
      return verdict(node.op_as_Multiply());
    case plan::Operator::AddRelativeBias:
      return verdict(node.op_as_AddRelativeBias());
    default:
      checker.fail("operator %d is unknown: exported by a newer packqvit_delegate, update the runtime",
                   static_cast<int>(node.op_type()));
      return Verdict::kUnknownOperator;
  }
}

}  // namespace

Error check_node(const plan::Node& node, size_t index, ConstantStore& constants, const std::vector<Value>& values,
                 std::vector<NodeUse>& uses, std::vector<const plan::Node*>& writers) {
  NodeChecker checker(node, index, constants, values, writers);
  const Verdict verdict = check_parts(checker, node) ? check_operator(checker, node) : Verdict::kBad;
  if (verdict == Verdict::kUnknownOperator) return Error::DelegateInvalidCompatibility;
  if (verdict == Verdict::kBad) return checker.error();
  writers[checker.use.write] = &node;
  uses.push_back(std::move(checker.use));
  return Error::Ok;
}

}  // namespace packqvit
