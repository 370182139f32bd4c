// Fused attention in products of int16: for some queries at a time the scores, their softmax and the weighted values.
#pragma once

#include <algorithm>

#include "kernels/stopwatch.h"
#include "kernels/ymm/epilogue.h"
#include "kernels/ymm/softmax.h"
#include "kernels/ymm/words.h"

namespace packqvit::PACKQVIT_ISA {

inline constexpr size_t kQueries = 4;  // rows of a tile

// What one call keeps in scratch memory; distances in elements.
struct AttentionBuffers {
  size_t key_steps;    // pairs of channels of q and k
  size_t value_steps;  // pairs of keys
  size_t key_count;    // keys, padded to 16
  size_t value_count;  // channels of the head, padded to 16

  int16_t* keys;    // [key_count / 8][key_steps][8][2]
  int16_t* values;  // [value_count / 8][value_steps][8][2]
  int16_t* q;       // [kQueries][2 key_steps]
  int16_t* p;       // [kQueries][key_count]
  int32_t* scores;  // [kQueries][key_count]
  int16_t* octaves;
  RowDivision* division;  // [kQueries], for linear codes
  size_t bytes = 0;

  AttentionBuffers(const AttentionShape& shape, void* scratch)
      : key_steps(divide_up(shape.head_size, 2)),
        value_steps(divide_up(shape.keys, 2)),
        key_count(round_up(shape.keys, 16)),
        value_count(round_up(shape.head_size, 16)),
        next_(static_cast<uint8_t*>(scratch)) {
    keys = take<int16_t>(key_count * 2 * key_steps);
    values = take<int16_t>(value_count * 2 * value_steps);
    q = take<int16_t>(kQueries * 2 * key_steps);
    p = take<int16_t>(kQueries * key_count);
    scores = take<int32_t>(kQueries * key_count);
    octaves = take<int16_t>(key_count);
    division = take<RowDivision>(kQueries);
  }

 private:
  template <typename T>
  T* take(size_t count) {
    T* result = reinterpret_cast<T*>(next_ + bytes);
    bytes += round_up(count * sizeof(T), kAlignment);
    return result;
  }

  uint8_t* next_;
};

// Rows and columns of 8 x 8 int32, exchanged.
inline void transpose_words(__m256i (&x)[8]) {
  __m256i t[8];
  for (size_t i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_epi32(x[i], x[i + 1]);
    t[i + 1] = _mm256_unpackhi_epi32(x[i], x[i + 1]);
  }
  for (size_t i = 0; i < 8; i += 4) {
    x[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
    x[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
    x[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
    x[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (size_t j = 0; j < 4; ++j) {
    t[j] = _mm256_permute2x128_si256(x[j], x[4 + j], 0x20);
    t[4 + j] = _mm256_permute2x128_si256(x[j], x[4 + j], 0x31);
  }
  for (size_t i = 0; i < 8; ++i) x[i] = t[i];
}

inline void pack_keys(const int8_t* k, size_t stride, const AttentionShape& shape, const AttentionBuffers& buffers) {
  for (size_t first = 0; first < buffers.key_count; first += 8) {
    int16_t* out = buffers.keys + first * 2 * buffers.key_steps;
    for (size_t d = 0; d < shape.head_size; d += 16) {
      __m256i rows[8];
      for (size_t i = 0; i < 8; ++i) {
        const size_t key = first + i;
        rows[i] = key < shape.keys ? _mm256_cvtepi8_epi16(load_bytes(k + key * stride + d, shape.head_size - d))
                                   : _mm256_setzero_si256();
      }
      transpose_words(rows);
      for (size_t i = 0; i < std::min<size_t>(8, buffers.key_steps - d / 2); ++i)
        store(out + 16 * (d / 2 + i), rows[i]);
    }
  }
}

inline void pack_values(const int8_t* v, size_t stride, const AttentionShape& shape, const AttentionBuffers& buffers) {
  for (size_t c = 0; c < buffers.value_count; c += 16) {
    const size_t count = shape.head_size > c ? shape.head_size - c : 0;
    int16_t* low = buffers.values + c * 2 * buffers.value_steps;
    int16_t* high = low + 16 * buffers.value_steps;
    for (size_t step = 0; step < buffers.value_steps; ++step) {
      const int8_t* row = v + 2 * step * stride + c;
      const __m256i even = _mm256_cvtepi8_epi16(load_bytes(row, count));
      const __m256i odd =
          2 * step + 1 < shape.keys ? _mm256_cvtepi8_epi16(load_bytes(row + stride, count)) : _mm256_setzero_si256();
      const __m256i a = _mm256_unpacklo_epi16(even, odd);
      const __m256i b = _mm256_unpackhi_epi16(even, odd);
      store(low + 16 * step, _mm256_permute2x128_si256(a, b, 0x20));
      store(high + 16 * step, _mm256_permute2x128_si256(a, b, 0x31));
    }
  }
}

template <size_t kRows>
__attribute__((noinline)) void score_tile(const AttentionBuffers& buffers, size_t row, size_t first) {
  __m256i acc[kRows][2];
  unroll<kRows>([&](auto i) __attribute__((always_inline)) { acc[i][0] = acc[i][1] = _mm256_setzero_si256(); });
  const size_t stride = 2 * buffers.key_steps;
  multiply_words<kRows, 2>(buffers.q + row * stride, stride, buffers.keys + first * stride, 8 * stride, 16,
                           buffers.key_steps, acc);
  unroll<kRows>([&](auto i) __attribute__((always_inline)) {
    int32_t* scores = buffers.scores + (row + i) * buffers.key_count + first;
    store(scores, acc[i][0]);
    store(scores + 8, acc[i][1]);
  });
}

// 16 channels of a head: where they start and how they requantise.
struct ValueGroup {
  const int16_t* panel;
  __m256i rounding[2];
  Requantize requantize;
  size_t columns;
};

// RowDivision of 8 sums.
inline __m256i divided(__m256i acc, const RowDivision& division) {
  const __m256i half = _mm256_set1_epi32(division.shift > 0 ? 1 << (division.shift - 1) : 0);
  const __m256i shifted =
      _mm256_sra_epi32(_mm256_add_epi32(acc, half), _mm_cvtsi32_si128(static_cast<int>(division.shift)));
  const __m256i product = _mm256_mullo_epi32(shifted, _mm256_set1_epi32(division.reciprocal));
  return _mm256_srai_epi32(_mm256_add_epi32(product, _mm256_set1_epi32(1 << 13)), 14);
}

template <size_t kRows, Probabilities kFormat>
__attribute__((noinline)) void value_tile(const AttentionBuffers& buffers, size_t row, const ValueGroup& group,
                                          int8_t* output, size_t output_stride) {
  __m256i acc[kRows][2];
  unroll<kRows>([&](auto i) __attribute__((always_inline)) {
    for (size_t j = 0; j < 2; ++j) {
      acc[i][j] = kFormat == Probabilities::kLinear ? _mm256_setzero_si256() : group.rounding[j];
    }
  });
  multiply_words<kRows, 2>(buffers.p + row * buffers.key_count, buffers.key_count, group.panel,
                           16 * buffers.value_steps, 16, buffers.value_steps, acc);
  unroll<kRows>([&](auto i) __attribute__((always_inline)) {
    if constexpr (kFormat == Probabilities::kLinear) {
      for (size_t j = 0; j < 2; ++j) {
        acc[i][j] = _mm256_add_epi32(divided(acc[i][j], buffers.division[row + i]), group.rounding[j]);
      }
    }
    store_bytes(output + (row + i) * output_stride, group.columns, group.requantize(acc[i]));
  });
}

// Calls tile(first row, number of rows as a constant) for all rows of a block.
template <typename Tile>
void for_each_tile(size_t rows, const Tile& tile) {
  if (rows == kQueries) return tile(size_t{0}, std::integral_constant<size_t, kQueries>{});
  for (size_t row = 0; row < rows; ++row) tile(row, std::integral_constant<size_t, 1>{});
}

inline __m256i weights_of_codes(__m256i codes) {
  // Bytes of 2^(14 - code); the unwanted byte of each index has its upper bit set.
  const __m256i upper = _mm256_setr_epi8(64, 32, 16, 8, 4, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0,  //
                                         64, 32, 16, 8, 4, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  const __m256i lower = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, -128, 64, 32, 16, 8, 4, 2, 1, 0,  //
                                         0, 0, 0, 0, 0, 0, 0, -128, 64, 32, 16, 8, 4, 2, 1, 0);
  const __m256i low = _mm256_shuffle_epi8(lower, _mm256_or_si256(codes, _mm256_set1_epi16(INT16_MIN)));
  const __m256i high_index = _mm256_or_si256(_mm256_slli_epi16(codes, 8), _mm256_set1_epi16(0x80));
  return _mm256_or_si256(low, _mm256_shuffle_epi8(upper, high_index));
}

template <Probabilities kFormat>
void softmax_block(const AttentionArguments& arguments, const Softmax& softmax, size_t head, Range queries,
                   const AttentionBuffers& buffers) {
  const AttentionShape& shape = arguments.shape;
  for (size_t query = queries.begin; query < queries.end; ++query) {
    const size_t row = query - queries.begin;
    const ScoreBias bias = softmax_bias(arguments.softmax, head, query, shape.queries, shape.keys);
    int16_t* p = buffers.p + row * buffers.key_count;
    __m256i sums = _mm256_setzero_si256();
    softmax.run<kFormat>(buffers.scores + row * buffers.key_count, bias, shape.keys, buffers.octaves,
                         [&](size_t first, __m256i codes) {
                           if constexpr (kFormat == Probabilities::kLog2) {  // 2^(14 - code), 0 for 15
                             codes = weights_of_codes(codes);
                           } else {
                             sums = _mm256_add_epi32(sums, _mm256_madd_epi16(codes, _mm256_set1_epi16(1)));
                           }
                           store(p + first, codes);
                         });
    if constexpr (kFormat == Probabilities::kLinear) {
      buffers.division[row] = RowDivision(static_cast<uint32_t>(sum_of(sums)));
    }
  }
}

template <Probabilities kFormat>
void value_block(const AttentionArguments& arguments, size_t channel, size_t rows, int8_t* output,
                 const AttentionBuffers& buffers) {
  const AttentionShape& shape = arguments.shape;
  const size_t stride = shape.heads * shape.head_size;
  for (size_t c = 0; c < shape.head_size; c += kPanel) {
    const size_t columns = std::min(kPanel, shape.head_size - c);
    int32_t rounding[kPanel] = {};
    for (size_t i = 0; i < columns; ++i) rounding[i] = rounding_of(arguments.requantizer, channel + c + i);
    const ValueGroup group{buffers.values + c * 2 * buffers.value_steps,
                           {load(rounding), load(rounding + 8)},
                           Requantize(arguments.requantizer, channel + c, columns),
                           columns};
    for_each_tile(rows, [&](size_t row, auto count) {
      value_tile<decltype(count)::value, kFormat>(buffers, row, group, output + c, stride);
    });
  }
}

template <Probabilities kFormat>
void attend(const AttentionArguments& arguments, size_t head, Range queries, void* scratch, AttentionClock* clock) {
  const AttentionShape& shape = arguments.shape;
  const size_t channels = shape.heads * shape.head_size;
  const size_t batch = head / shape.heads;
  const size_t channel = head % shape.heads * shape.head_size;
  const AttentionBuffers buffers(shape, scratch);
  const Softmax softmax(arguments.softmax);

  Stopwatch stopwatch(clock);
  pack_keys(arguments.k + batch * shape.keys * channels + channel, channels, shape, buffers);
  stopwatch.add_to(&AttentionClock::scores);
  pack_values(arguments.v + batch * shape.keys * channels + channel, channels, shape, buffers);
  stopwatch.add_to(&AttentionClock::values);
  for (size_t first = queries.begin; first < queries.end; first += kQueries) {
    const size_t rows = std::min(kQueries, queries.end - first);
    const size_t offset = (batch * shape.queries + first) * channels + channel;
    for (size_t i = 0; i < rows; ++i) {
      widen(arguments.q + offset + i * channels, shape.head_size, 2 * buffers.key_steps,
            buffers.q + i * 2 * buffers.key_steps);
    }
    for_each_tile(rows, [&](size_t row, auto count) {
      for (size_t key = 0; key < shape.keys; key += 16) score_tile<decltype(count)::value>(buffers, row, key);
    });
    stopwatch.add_to(&AttentionClock::scores);
    softmax_block<kFormat>(arguments, softmax, head, {first, first + rows}, buffers);
    stopwatch.add_to(&AttentionClock::softmax);
    value_block<kFormat>(arguments, channel, rows, arguments.output + offset, buffers);
    stopwatch.add_to(&AttentionClock::values);
  }
}

inline size_t fused_attention_scratch(const AttentionShape& shape) { return AttentionBuffers(shape, nullptr).bytes; }

inline void fused_attention(const AttentionArguments& arguments, size_t head, Range queries, void* scratch,
                            AttentionClock* clock) {
  arguments.softmax.format == Probabilities::kLog2
      ? attend<Probabilities::kLog2>(arguments, head, queries, scratch, clock)
      : attend<Probabilities::kLinear>(arguments, head, queries, scratch, clock);
}

}  // namespace packqvit::PACKQVIT_ISA
