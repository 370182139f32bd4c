// Fused attention of the Arm tiers: a block of query rows goes through scores, softmax, and values while it is in L1.
//
// A tier supplies the two matrix products as a type of static members in its own namespace (ArmV8Products is one):
//
//   kQueries    rows of a block, a multiple of what its microkernels compute
//   kKeys       columns that scores() writes: the keys, rounded up to a multiple of this
//   kChannels   columns that values() writes: head_size, rounded up to a multiple of this
//
//   size_t keys_bytes(shape), values_bytes(shape, format)
//       of the packed k and v of one head.
//   void pack_keys(k, stride, shape, packed), pack_values(v, stride, shape, format, packed)
//       once per call; rows of k and v are `stride` bytes apart. Nothing is read beyond [keys, head_size].
//   size_t rows_bytes(shape, format)
//       what scores() and values() need to lay out a block of their left operand, one after the other.
//   void scores(q, stride, count, shape, packed_keys, rows, output, output_stride)
//       output[count <= kQueries] rows of int32 scores. There is room for kQueries rows.
//   void values(codes, stride, count, shape, format, packed_values, rows, output, output_stride)
//       output[count <= kQueries] rows of int32 sums. Rows of codes are a multiple of kCodeBlock long, filled up with
//       codes of probability zero; rows from `count` to kQueries may be read and hold anything.
//
// Packed operands, rows, scores, codes and sums begin on 64 bytes. The functions are templates over the tier's own
// type, so that no two files with different ISA flags share one; what does not depend on the type is compiled once, in
// neon.h's functions.
#pragma once

#include <algorithm>
#include <cstring>
#include <numeric>

#include "kernels/neon/neon.h"
#include "kernels/stopwatch.h"

namespace packqvit::neon {

template <typename Products>
struct AttentionScratch {
  void* keys;
  void* values;
  void* rows;
  int32_t* scores;  // [kQueries][scores_stride]
  size_t scores_stride;
  uint8_t* codes;  // [kQueries][codes_stride]
  size_t codes_stride;
  int16_t* octaves;  // of one row
  int32_t* sums;     // [kQueries][sums_stride]
  size_t sums_stride;
  size_t bytes;

  // With nullptr only the size is meaningful.
  AttentionScratch(const AttentionShape& shape, Probabilities format, void* scratch) {
    scores_stride = round_up(round_up(shape.keys, Products::kKeys), kCodeBlock);
    codes_stride = round_up(shape.keys, kCodeBlock);
    sums_stride = round_up(shape.head_size, Products::kChannels);
    size_t offset = 0;
    const auto take = [&](size_t size) {
      uint8_t* begin = scratch != nullptr ? static_cast<uint8_t*>(scratch) + offset : nullptr;
      offset += round_up(size, kAlignment);
      return begin;
    };
    keys = take(Products::keys_bytes(shape));
    values = take(Products::values_bytes(shape, format));
    rows = take(Products::rows_bytes(shape, format));
    scores = reinterpret_cast<int32_t*>(take(Products::kQueries * scores_stride * sizeof(int32_t)));
    codes = take(Products::kQueries * codes_stride);
    octaves = reinterpret_cast<int16_t*>(take(codes_stride * sizeof(int16_t)));
    sums = reinterpret_cast<int32_t*>(take(Products::kQueries * sums_stride * sizeof(int32_t)));
    bytes = offset;
  }
};

// One head of q, k, v or the output: rows of head_size with a distance of heads * head_size.
template <typename Products, typename T>
T* head_of(T* x, const AttentionShape& shape, size_t tokens, size_t head) {
  const size_t channels = shape.heads * shape.head_size;
  return x + head / shape.heads * tokens * channels + head % shape.heads * shape.head_size;
}

// The sums of values that linear codes weigh, over the sums of the codes.
template <typename Products>
void divide_rows(Probabilities format, const RowDivision* division, size_t count, const AttentionShape& shape,
                 const AttentionScratch<Products>& buffers) {
  if (format != Probabilities::kLinear) return;
  for (size_t i = 0; i < count; ++i) {
    divide_row(division[i], shape.head_size, buffers.sums + i * buffers.sums_stride);
  }
}

template <typename Products>
size_t fused_attention_scratch(const AttentionShape& shape, Probabilities format) {
  return AttentionScratch<Products>(shape, format, nullptr).bytes;
}

template <typename Products>
void fused_attention(const AttentionArguments& arguments, size_t head, Range queries, void* scratch,
                     AttentionClock* clock) {
  const AttentionShape& shape = arguments.shape;
  const Probabilities format = arguments.softmax.format;
  const size_t channels = shape.heads * shape.head_size;
  const AttentionScratch<Products> buffers(shape, format, scratch);
  const int8_t* q = head_of<Products>(arguments.q, shape, shape.queries, head);
  int8_t* output = head_of<Products>(arguments.output, shape, shape.queries, head);

  Stopwatch stopwatch(clock);
  Products::pack_keys(head_of<Products>(arguments.k, shape, shape.keys, head), channels, shape, buffers.keys);
  stopwatch.add_to(&AttentionClock::scores);
  Products::pack_values(head_of<Products>(arguments.v, shape, shape.keys, head), channels, shape, format,
                        buffers.values);
  stopwatch.add_to(&AttentionClock::values);
  for (size_t first = queries.begin; first < queries.end; first += Products::kQueries) {
    const size_t count = std::min(Products::kQueries, queries.end - first);
    Products::scores(q + first * channels, channels, count, shape, buffers.keys, buffers.rows, buffers.scores,
                     buffers.scores_stride);
    stopwatch.add_to(&AttentionClock::scores);
    RowDivision division[Products::kQueries];
    const ScoreBias bias = softmax_bias(arguments.softmax, head, first, shape.queries, shape.keys);
    for (size_t i = 0; i < count; ++i) {
      const uint32_t sum =
          softmax_row(arguments.softmax, buffers.scores + i * buffers.scores_stride, bias.from(i * shape.keys),
                      shape.keys, buffers.codes + i * buffers.codes_stride, buffers.octaves);
      if (format == Probabilities::kLinear) division[i] = RowDivision(sum);
    }
    stopwatch.add_to(&AttentionClock::softmax);
    Products::values(buffers.codes, buffers.codes_stride, count, shape, format, buffers.values, buffers.rows,
                     buffers.sums, buffers.sums_stride);
    divide_rows<Products>(format, division, count, shape, buffers);
    requantize_rows(buffers.sums, buffers.sums_stride, count, shape.head_size, arguments.requantizer,
                    head % shape.heads * shape.head_size, output + first * channels, channels);
    stopwatch.add_to(&AttentionClock::values);
  }
}

// Enough for either of the two products on its own.
template <typename Products>
size_t attention_part_scratch(const AttentionShape& shape) {
  return std::max(fused_attention_scratch<Products>(shape, Probabilities::kLog2),
                  fused_attention_scratch<Products>(shape, Probabilities::kLinear));
}

template <typename Products>
void attention_scores(const AttentionScoresArguments& arguments, size_t head, Range queries, void* scratch) {
  const AttentionShape& shape = arguments.shape;
  const size_t channels = shape.heads * shape.head_size;
  const AttentionScratch<Products> buffers(shape, Probabilities::kLog2, scratch);
  const int8_t* q = head_of<Products>(arguments.q, shape, shape.queries, head);
  Products::pack_keys(head_of<Products>(arguments.k, shape, shape.keys, head), channels, shape, buffers.keys);
  for (size_t first = queries.begin; first < queries.end; first += Products::kQueries) {
    const size_t count = std::min(Products::kQueries, queries.end - first);
    Products::scores(q + first * channels, channels, count, shape, buffers.keys, buffers.rows, buffers.scores,
                     buffers.scores_stride);
    for (size_t i = 0; i < count; ++i) {
      std::memcpy(arguments.output + (head * shape.queries + first + i) * shape.keys,
                  buffers.scores + i * buffers.scores_stride, shape.keys * sizeof(int32_t));
    }
  }
}

template <typename Products>
void attention_values(const AttentionValuesArguments& arguments, size_t head, Range queries, void* scratch) {
  const AttentionShape& shape = arguments.shape;
  const size_t channels = shape.heads * shape.head_size;
  const AttentionScratch<Products> buffers(shape, arguments.format, scratch);
  const int zero = arguments.format == Probabilities::kLog2 ? 15 : 0;
  int8_t* output = head_of<Products>(arguments.output, shape, shape.queries, head);
  Products::pack_values(head_of<Products>(arguments.v, shape, shape.keys, head), channels, shape, arguments.format,
                        buffers.values);
  for (size_t first = queries.begin; first < queries.end; first += Products::kQueries) {
    const size_t count = std::min(Products::kQueries, queries.end - first);
    RowDivision division[Products::kQueries];
    for (size_t i = 0; i < count; ++i) {
      uint8_t* codes = buffers.codes + i * buffers.codes_stride;
      std::memcpy(codes, arguments.probabilities + (head * shape.queries + first + i) * shape.keys, shape.keys);
      std::memset(codes + shape.keys, zero, buffers.codes_stride - shape.keys);
      if (arguments.format == Probabilities::kLinear) {
        division[i] = RowDivision(std::accumulate(codes, codes + shape.keys, uint32_t{0}));
      }
    }
    Products::values(buffers.codes, buffers.codes_stride, count, shape, arguments.format, buffers.values, buffers.rows,
                     buffers.sums, buffers.sums_stride);
    divide_rows<Products>(arguments.format, division, count, shape, buffers);
    requantize_rows(buffers.sums, buffers.sums_stride, count, shape.head_size, arguments.requantizer,
                    head % shape.heads * shape.head_size, output + first * channels, channels);
  }
}

}  // namespace packqvit::neon
