#include <algorithm>

#include "kernels/reference/dot_tile.h"
#include "kernels/reference/reference.h"

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

}  // namespace

size_t attention_scratch(const AttentionShape& shape) {
  const size_t scores = (kQueryBlock + round_up(shape.keys, kTileColumns)) * padded(shape.head_size);
  const size_t values = (kQueryBlock + round_up(shape.head_size, kTileColumns)) * padded(shape.keys);
  return std::max(scores, values) * sizeof(int16_t);
}

void attention_scores(const AttentionScoresArguments& arguments, size_t head, Range queries, void* scratch) {
  const AttentionShape& shape = arguments.shape;
  const size_t channels = shape.heads * shape.head_size;
  const size_t stride = padded(shape.head_size);
  const size_t batch = head / shape.heads;
  const size_t channel = head % shape.heads * shape.head_size;
  const int8_t* q = arguments.q + batch * shape.queries * channels + channel;
  const int8_t* k = arguments.k + batch * shape.keys * channels + channel;
  int32_t* output = arguments.output + head * shape.queries * shape.keys;
  int16_t* a = static_cast<int16_t*>(scratch);
  int16_t* b = a + kQueryBlock * stride;

  widen_rows(k, channels, shape.keys, shape.head_size, b, stride);
  std::fill(b + shape.keys * stride, b + round_up(shape.keys, kTileColumns) * stride, int16_t{0});
  for (size_t first = queries.begin; first < queries.end; first += kQueryBlock) {
    const size_t count = std::min(kQueryBlock, queries.end - first);
    widen_rows(q + first * channels, channels, count, shape.head_size, a, stride);
    for (size_t key = 0; key < shape.keys; key += kTileColumns) {
      const size_t columns = std::min(kTileColumns, shape.keys - key);
      dot_panel(a, count, b + key * stride, stride, stride, [&](size_t row, const int32_t* acc) {
        std::copy(acc, acc + columns, output + (first + row) * shape.keys + key);
      });
    }
  }
}

void attention_values(const AttentionValuesArguments& arguments, size_t head, Range queries, void* scratch) {
  const AttentionShape& shape = arguments.shape;
  const size_t channels = shape.heads * shape.head_size;
  const size_t stride = padded(shape.keys);
  const size_t batch = head / shape.heads;
  const size_t channel = head % shape.heads * shape.head_size;
  const uint8_t* probabilities = arguments.probabilities + head * shape.queries * shape.keys;
  int8_t* output = arguments.output + batch * shape.queries * channels + channel;
  int16_t* a = static_cast<int16_t*>(scratch);
  int16_t* b = a + kQueryBlock * stride;

  transpose_values(arguments.v + batch * shape.keys * channels + channel, channels, shape, b, stride);
  std::fill(b + shape.head_size * stride, b + round_up(shape.head_size, kTileColumns) * stride, int16_t{0});
  for (size_t first = queries.begin; first < queries.end; first += kQueryBlock) {
    const size_t count = std::min(kQueryBlock, queries.end - first);
    for (size_t i = 0; i < count; ++i) {
      weigh(probabilities + (first + i) * shape.keys, arguments.format, shape.keys, a + i * stride, stride);
    }
    for (size_t c = 0; c < shape.head_size; c += kTileColumns) {
      const size_t columns = std::min(kTileColumns, shape.head_size - c);
      dot_panel(a, count, b + c * stride, stride, stride, [&](size_t row, const int32_t* acc) {
        for (size_t j = 0; j < columns; ++j) {
          output[(first + row) * channels + c + j] =
              static_cast<int8_t>(arguments.requantizer(acc[j], channel + c + j));
        }
      });
    }
  }
}

}  // namespace packqvit::reference
