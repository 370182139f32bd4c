#include <algorithm>
#include <array>
#include <numeric>

#include "kernels/reference/dot_tile.h"
#include "kernels/reference/reference.h"
#include "kernels/stopwatch.h"

namespace packqvit::reference {
namespace {

constexpr size_t kQueryBlock = 32;
constexpr size_t kPad = 16;  // rows of both operands end on a whole vector

// Widens rows [count, size] with a distance of `in_stride` into rows of `out_stride`, zero beyond.
void widen_rows(const int8_t* in, size_t in_stride, size_t count, size_t size, int16_t* out, size_t out_stride) {
  for (size_t row = 0; row < count; ++row) {
    for (size_t i = 0; i < size; ++i) out[row * out_stride + i] = in[row * in_stride + i];
    std::fill(out + row * out_stride + size, out + (row + 1) * out_stride, int16_t{0});
  }
}

// v of one head [keys, head_size] as int16 [head_size, stride]: the dot products run along the keys.
void transpose_values(const int8_t* v, size_t v_stride, const AttentionShape& shape, int16_t* out, size_t stride) {
  for (size_t c = 0; c < shape.head_size; ++c) {
    for (size_t j = 0; j < shape.keys; ++j) out[c * stride + j] = v[j * v_stride + c];
    std::fill(out + c * stride + shape.keys, out + (c + 1) * stride, int16_t{0});
  }
}

void weigh(const uint8_t* probabilities, Probabilities format, size_t keys, int16_t* out, size_t stride) {
  if (format == Probabilities::kLinear) {
    for (size_t j = 0; j < keys; ++j) out[j] = probabilities[j];
  } else {
    // Code 15 is zero, and so is everything beyond it.
    for (size_t j = 0; j < keys; ++j) {
      out[j] = static_cast<int16_t>((1 << 14) >> std::min<unsigned>(probabilities[j], 15));
    }
  }
  std::fill(out + keys, out + stride, int16_t{0});
}

size_t padded(size_t size) { return round_up(size, kPad); }

// One head of q, k, v or the output: rows of head_size with a distance of `channels`.
template <typename T>
T* head_of(T* x, const AttentionShape& shape, size_t tokens, size_t head) {
  const size_t channels = shape.heads * shape.head_size;
  return x + head / shape.heads * tokens * channels + head % shape.heads * shape.head_size;
}

// The operands of one head's two products, widened once, and a block of rows to multiply with them.
struct Buffers {
  int16_t* rows;
  int16_t* keys;    // [keys, padded(head_size)]
  int16_t* values;  // [head_size, padded(keys)]

  Buffers(const AttentionShape& shape, void* scratch) {
    rows = static_cast<int16_t*>(scratch);
    keys = rows + kQueryBlock * std::max(padded(shape.head_size), padded(shape.keys));
    values = keys + round_up(shape.keys, kTileColumns) * padded(shape.head_size);
  }
  static size_t bytes(const AttentionShape& shape) {
    const size_t rows = kQueryBlock * std::max(padded(shape.head_size), padded(shape.keys));
    const size_t keys = round_up(shape.keys, kTileColumns) * padded(shape.head_size);
    const size_t values = round_up(shape.head_size, kTileColumns) * padded(shape.keys);
    return (rows + keys + values) * sizeof(int16_t);
  }
};

void prepare_keys(const int8_t* k, const AttentionShape& shape, const Buffers& buffers) {
  const size_t stride = padded(shape.head_size);
  widen_rows(k, shape.heads * shape.head_size, shape.keys, shape.head_size, buffers.keys, stride);
  std::fill(buffers.keys + shape.keys * stride, buffers.keys + round_up(shape.keys, kTileColumns) * stride, int16_t{0});
}

void prepare_values(const int8_t* v, const AttentionShape& shape, const Buffers& buffers) {
  const size_t stride = padded(shape.keys);
  transpose_values(v, shape.heads * shape.head_size, shape, buffers.values, stride);
  std::fill(buffers.values + shape.head_size * stride,
            buffers.values + round_up(shape.head_size, kTileColumns) * stride, int16_t{0});
}

// `count` rows of scores, from the head's first of those queries.
void score_block(const int8_t* q, size_t count, const AttentionShape& shape, const Buffers& buffers, int32_t* output) {
  const size_t stride = padded(shape.head_size);
  widen_rows(q, shape.heads * shape.head_size, count, shape.head_size, buffers.rows, stride);
  for (size_t key = 0; key < shape.keys; key += kTileColumns) {
    const size_t columns = std::min(kTileColumns, shape.keys - key);
    dot_panel(buffers.rows, count, buffers.keys + key * stride, stride, stride,
              [&](size_t row, const int32_t* acc) { std::copy(acc, acc + columns, output + row * shape.keys + key); });
  }
}

void value_block(const uint8_t* probabilities, size_t count, const AttentionShape& shape, Probabilities format,
                 const Requantizer& requantizer, size_t channel, const Buffers& buffers, int8_t* output) {
  const size_t stride = padded(shape.keys);
  std::array<RowDivision, kQueryBlock> division;
  for (size_t i = 0; i < count; ++i) {
    const uint8_t* codes = probabilities + i * shape.keys;
    weigh(codes, format, shape.keys, buffers.rows + i * stride, stride);
    division[i] = RowDivision(std::accumulate(codes, codes + shape.keys, uint32_t{0}));
  }
  const bool divides = format == Probabilities::kLinear;
  for (size_t c = 0; c < shape.head_size; c += kTileColumns) {
    const size_t columns = std::min(kTileColumns, shape.head_size - c);
    dot_panel(buffers.rows, count, buffers.values + c * stride, stride, stride, [&](size_t row, const int32_t* acc) {
      int8_t* out = output + row * shape.heads * shape.head_size + c;
      for (size_t j = 0; j < columns; ++j) {
        const int32_t sum = divides ? division[row](acc[j]) : acc[j];
        out[j] = static_cast<int8_t>(requantizer(sum, channel + c + j));
      }
    });
  }
}

}  // namespace

size_t attention_part_scratch(const AttentionShape& shape) { return Buffers::bytes(shape); }

void attention_scores(const AttentionScoresArguments& arguments, size_t head, Range queries, void* scratch) {
  const AttentionShape& shape = arguments.shape;
  const Buffers buffers(shape, scratch);
  prepare_keys(head_of(arguments.k, shape, shape.keys, head), shape, buffers);
  const int8_t* q = head_of(arguments.q, shape, shape.queries, head);
  int32_t* output = arguments.output + head * shape.queries * shape.keys;
  for (size_t first = queries.begin; first < queries.end; first += kQueryBlock) {
    score_block(q + first * shape.heads * shape.head_size, std::min(kQueryBlock, queries.end - first), shape, buffers,
                output + first * shape.keys);
  }
}

void attention_values(const AttentionValuesArguments& arguments, size_t head, Range queries, void* scratch) {
  const AttentionShape& shape = arguments.shape;
  const Buffers buffers(shape, scratch);
  prepare_values(head_of(arguments.v, shape, shape.keys, head), shape, buffers);
  const uint8_t* probabilities = arguments.probabilities + head * shape.queries * shape.keys;
  int8_t* output = head_of(arguments.output, shape, shape.queries, head);
  for (size_t first = queries.begin; first < queries.end; first += kQueryBlock) {
    value_block(probabilities + first * shape.keys, std::min(kQueryBlock, queries.end - first), shape, arguments.format,
                arguments.requantizer, head % shape.heads * shape.head_size, buffers,
                output + first * shape.heads * shape.head_size);
  }
}

size_t attention_scratch(const AttentionShape& shape, Probabilities) {
  return round_up(Buffers::bytes(shape), kAlignment) + kQueryBlock * shape.keys * (sizeof(int32_t) + 1) +
         softmax_scratch(shape.keys) + kAlignment;
}

void attention(const AttentionArguments& arguments, size_t head, Range queries, void* scratch, AttentionClock* clock) {
  const AttentionShape& shape = arguments.shape;
  const size_t channels = shape.heads * shape.head_size;
  const Buffers buffers(shape, scratch);
  int32_t* scores =
      reinterpret_cast<int32_t*>(static_cast<uint8_t*>(scratch) + round_up(Buffers::bytes(shape), kAlignment));
  void* softmax_rows = scores + kQueryBlock * shape.keys;
  uint8_t* probabilities = static_cast<uint8_t*>(softmax_rows) + round_up(softmax_scratch(shape.keys), kAlignment);

  Stopwatch stopwatch(clock);
  prepare_keys(head_of(arguments.k, shape, shape.keys, head), shape, buffers);
  stopwatch.add_to(&AttentionClock::scores);
  prepare_values(head_of(arguments.v, shape, shape.keys, head), shape, buffers);
  stopwatch.add_to(&AttentionClock::values);
  for (size_t first = queries.begin; first < queries.end; first += kQueryBlock) {
    const size_t count = std::min(kQueryBlock, queries.end - first);
    score_block(head_of(arguments.q, shape, shape.queries, head) + first * channels, count, shape, buffers, scores);
    stopwatch.add_to(&AttentionClock::scores);
    for (size_t i = 0; i < count; ++i) {
      softmax_row(arguments.softmax, scores + i * shape.keys,
                  softmax_bias(arguments.softmax, head, first + i, shape.queries, shape.keys), shape.keys,
                  probabilities + i * shape.keys, softmax_rows);
    }
    stopwatch.add_to(&AttentionClock::softmax);
    value_block(probabilities, count, shape, arguments.softmax.format, arguments.requantizer,
                head % shape.heads * shape.head_size, buffers,
                head_of(arguments.output, shape, shape.queries, head) + first * channels);
    stopwatch.add_to(&AttentionClock::values);
  }
}

}  // namespace packqvit::reference
