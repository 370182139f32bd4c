// What a kernel tier (one ISA level) provides. docs/kernels.md says how to add one.
//
// The work functions take a range of independent units (rows, panels, elements), so that the executor can split any of
// them over threads; the result never depends on the split. `scratch` is 64-byte aligned, of the size that the tier
// asked for, and belongs to one call at a time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/packed_weights.h"
#include "kernels/scalar.h"

namespace packqvit {

struct Range {
  size_t begin;
  size_t end;
};

// The codes that a value can take, which the executor derives from the operators that write it.
struct CodeRange {
  int32_t low = INT8_MIN;
  int32_t high = INT8_MAX;
};

enum class Epilogue : uint8_t {
  kRequantize,   // codes, those of 8 bits through `table` where there is one
  kAddResidual,  // onto residual codes of the output's type
  kAddPosition,  // onto int16 positions with the requantizer's fraction bits
  kAccumulate,   // the int32 accumulators
};

// output[rows, n] = epilogue(x[rows, k] * weights^T + bias). All channel vectors are padded to a multiple of nr.
struct GemmArguments {
  const int8_t* x = nullptr;
  const PackedWeights* weights = nullptr;
  const int32_t* bias = nullptr;  // as the route's fold_bias left it
  Epilogue epilogue = Epilogue::kRequantize;
  Requantizer requantizer;
  const int8_t* table = nullptr;  // kRequantize: nullptr, or [256] codes indexed by code + 128
  const int16_t* residual_multiplier = nullptr;
  const void* addend = nullptr;  // [rows, n]: residual codes, which the output may be written over, or positions
  void* output = nullptr;
  bool wide = false;  // int16 codes instead of int8: no fraction bits, for kRequantize all of int16 and zero point 0
};

// One way to multiply matrices: a weight layout and the kernel that reads it.
struct GemmRoute {
  const char* name;
  bool (*accepts)(unsigned weight_bits, CodeRange x);  // whether every sum is exact
  bool (*pays)();                                      // on this CPU, against the routes behind it
  GemmTile tile;
  // Adds to the bias what does not depend on the activations, once, when a delegate loads. nullptr: nothing.
  void (*fold_bias)(const PackedWeights& weights, Epilogue epilogue, const Requantizer& requantizer, int32_t* bias);
  size_t (*scratch)(const PackedWeights& weights, size_t rows);  // for a call on so many rows
  // `rows.begin` is a multiple of tile.mr.
  void (*run)(const GemmArguments& arguments, Range rows, Range panels, void* scratch);
};

// q, k and v are [batch, tokens, heads * head_size]; scores and probabilities are [batch, heads, queries, keys].
struct AttentionShape {
  size_t heads;
  size_t queries;
  size_t keys;
  size_t head_size;
};

struct AttentionScoresArguments {
  AttentionShape shape;
  const int8_t* q;
  const int8_t* k;
  int32_t* output;
};

enum class Probabilities : uint8_t { kLog2, kLinear };

struct AttentionValuesArguments {
  AttentionShape shape;
  Probabilities format;
  const uint8_t* probabilities;
  const int8_t* v;
  Requantizer requantizer;  // one channel vector over heads * head_size
  int8_t* output;
};

// What is added to scores: nothing, int32, or int16 times 2^shift, which take half of the memory.
struct ScoreBias {
  ScoreBias() = default;
  ScoreBias(const int32_t* numbers) : wide(numbers) {}
  ScoreBias(const int16_t* numbers, unsigned left_shift) : narrow(numbers), shift(left_shift) {}

  explicit operator bool() const { return wide != nullptr || narrow != nullptr; }
  int32_t operator[](size_t index) const { return narrow != nullptr ? narrow[index] * (1 << shift) : wide[index]; }

  // From element `index` on.
  ScoreBias from(size_t index) const {
    if (narrow != nullptr) return {narrow + index, shift};
    return wide != nullptr ? wide + index : nullptr;
  }

  const int32_t* wide = nullptr;
  const int16_t* narrow = nullptr;
  unsigned shift = 0;
};

// Int-2^n-Softmax of rows of scores.
struct SoftmaxParameters {
  ScoreBias bias;  // nothing, or [bias_heads, rows_per_head, columns]
  size_t bias_heads;
  int32_t multiplier;
  int32_t shift;
  Probabilities format;
};

// The bias of one row of scores of head b * heads + h, or nothing.
inline ScoreBias softmax_bias(const SoftmaxParameters& softmax, size_t head, size_t row, size_t rows_per_head,
                              size_t columns) {
  if (!softmax.bias) return {};
  return softmax.bias.from((head % softmax.bias_heads * rows_per_head + row) * columns);
}

struct SoftmaxArguments {
  const int32_t* x;  // rows of `columns`
  size_t columns;
  size_t rows_per_head;
  SoftmaxParameters softmax;
  uint8_t* output;
};

// Scores, softmax and values of one head, without the matrices between them.
struct AttentionArguments {
  AttentionShape shape;
  const int8_t* q;
  const int8_t* k;
  const int8_t* v;
  SoftmaxParameters softmax;
  Requantizer requantizer;  // one channel vector over heads * head_size
  int8_t* output;
};

// Where the time of a fused attention goes. `now` counts in any unit.
struct AttentionClock {
  uint64_t (*now)();
  uint64_t scores;
  uint64_t softmax;
  uint64_t values;
};

struct LayerNormArguments {
  const void* x;  // rows of `channels`, int8 or int16; the output may be written over them where its type is the same
  bool wide;
  size_t channels;
  const uint8_t* channel_shift;  // nullptr: all zero
  const int16_t* weight;
  const int32_t* bias;
  int64_t epsilon;
  unsigned output_shift;
  int32_t qmin;
  int32_t qmax;
  void* output;
  bool wide_output = false;
  // nullptr, or codes of the output's type that what is normalised is added to; the sum saturates at the type's range.
  // The output may be written over them.
  const void* residual = nullptr;
  const int16_t* residual_multiplier = nullptr;
  unsigned fraction_bits = 0;
  bool centred = true;    // whether the mean is taken out; only without a residual it is not
  size_t row_stride = 0;  // elements from one row to the next, of x and of the output; 0: `channels`

  size_t stride() const { return row_stride != 0 ? row_stride : channels; }
};

// x is [outer, channels, inner] around the axis of the vectors; a vector of one element serves all channels.
struct QuantizeArguments {
  const float* x;
  size_t channels;
  size_t inner;
  const float* inverse_scale;
  bool scale_per_channel;
  const float* offset;
  bool offset_per_channel;
  int32_t qmin;
  int32_t qmax;
  void* output;
  bool wide;  // int16 codes instead of int8
};

enum class CodeType : uint8_t { kInt8, kInt16, kInt32 };

struct DequantizeArguments {
  const void* x;
  CodeType type;
  size_t channels;
  size_t inner;
  const float* scale;
  bool scale_per_channel;
  int32_t zero_point;
  float* output;
};

enum class Pooling : uint8_t { kMean, kMaximum };

// One token of all: the sum of each channel, or its largest code.
struct PoolTokensArguments {
  Pooling pooling;
  const void* x;  // [tokens, channels] of one image
  bool wide_input;
  size_t tokens;
  size_t channels;
  const int32_t* bias;
  Requantizer requantizer;
  void* output;  // [channels]
  bool wide_output;
};

struct RequantizeArguments {
  const void* x;  // rows of `channels`
  bool wide_input;
  size_t channels;
  Requantizer requantizer;
  void* output;
  bool wide_output;
  // nullptr, or codes of the output's type that x is added to; the sum saturates at the type's range.
  const void* residual = nullptr;
  const int16_t* residual_multiplier = nullptr;
};

// Products of two rows' codes.
struct MultiplyArguments {
  const void* x;  // rows of `channels`
  const void* y;
  bool wide_x;
  bool wide_y;
  int32_t x_zero_point;
  int32_t y_zero_point;
  unsigned product_shift;
  size_t channels;
  Requantizer requantizer;
  void* output;
  bool wide_output;
};

// Which channel of a head belongs to which: the second half to the first, one neighbour to the other, or as a list
// says.
enum class Partners { kHalves, kNeighbours, kListed };

// Rotary positions of rows.
struct RotateArguments {
  const int16_t* x;  // rows of `channels`
  size_t channels;
  size_t head_size;
  size_t tokens;          // of an image: row r has the factors of token r % tokens
  size_t factors;         // of a token: head_size, or channels where heads differ
  const int16_t* cosine;  // [tokens, factors]
  const int16_t* sine;
  Partners order;
  const uint32_t* partner;  // [head_size]
  Requantizer requantizer;
  int8_t* output;
};

struct KernelTier {
  const char* name;
  bool (*is_supported)();  // by this CPU

  // Best first; the last one accepts everything and pays.
  const GemmRoute* const* gemm_routes;
  size_t gemm_route_count;

  // `head` is b * heads + h. `clock` may be nullptr; otherwise the three parts are timed and added to it.
  size_t (*attention_scratch)(const AttentionShape& shape, Probabilities format);
  void (*attention)(const AttentionArguments& arguments, size_t head, Range queries, void* scratch,
                    AttentionClock* clock);

  // The parts of attention on their own, for graphs in which something else reads the matrices between them.
  size_t (*attention_part_scratch)(const AttentionShape& shape);  // enough for scores and for values
  void (*attention_scores)(const AttentionScoresArguments& arguments, size_t head, Range queries, void* scratch);
  void (*attention_values)(const AttentionValuesArguments& arguments, size_t head, Range queries, void* scratch);

  size_t (*softmax_scratch)(size_t columns);
  void (*softmax)(const SoftmaxArguments& arguments, Range rows, void* scratch);

  void (*layer_norm)(const LayerNormArguments& arguments, Range rows);
  void (*lookup_table)(const int8_t* x, const int8_t* table, int8_t* output, size_t size);
  void (*quantize)(const QuantizeArguments& arguments, Range rows);  // a row is one (outer, channel) pair of `inner`
  void (*dequantize)(const DequantizeArguments& arguments, Range rows);
  void (*pool_tokens)(const PoolTokensArguments& arguments, Range channels);
  void (*requantize)(const RequantizeArguments& arguments, Range rows);
  void (*multiply)(const MultiplyArguments& arguments, Range rows);
  void (*rotate)(const RotateArguments& arguments, Range rows);
};

// The first route of a tier that computes `weight_bits` by `x` exactly and pays on this CPU.
const GemmRoute& choose_gemm_route(const KernelTier& tier, unsigned weight_bits, CodeRange x);

// Every tier of this build, best first. The reference tier is the last and always supported.
struct TierList {
  const KernelTier* const* begin_;
  size_t size_;
  const KernelTier* const* begin() const { return begin_; }
  const KernelTier* const* end() const { return begin_ + size_; }
};
TierList all_tiers();

// The best tier that this CPU supports.
const KernelTier& best_tier();

// The tier called `name`, or nullptr when this build has none or this CPU does not support it.
const KernelTier* find_tier(const char* name);

}  // namespace packqvit
