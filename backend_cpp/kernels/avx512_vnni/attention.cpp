// Fused attention: for 5 queries at a time the scores, their softmax and the weighted values, which stay in L1.
#include <algorithm>

#include "kernels/avx512_vnni/attention_panels.h"
#include "kernels/avx512_vnni/avx512_vnni.h"
#include "kernels/avx512_vnni/products.h"
#include "kernels/avx512_vnni/softmax.h"
#include "kernels/stopwatch.h"

namespace packqvit::avx512_vnni {
namespace {

constexpr size_t kTileRows = 5;
constexpr size_t kQueries = 2 * kTileRows;  // a block: the stages of its rows of softmax overlap

// What one call keeps in scratch memory. All strides are multiples of 64 bytes.
struct Buffers {
  size_t key_steps;     // groups of 4 channels of q and k
  size_t value_steps;   // groups of 4 keys
  size_t score_stride;  // scores of a row
  size_t p_planes;      // rows of bytes for each row of probabilities

  int8_t* keys;
  int8_t* values;
  int32_t* start;         // of the scores, for each key
  int32_t* scores;        // [kQueries][score_stride]
  int16_t* octaves;       // [kQueries][score_stride]
  uint8_t* q;             // [kQueries][4 key_steps]
  uint8_t* p;             // [kQueries][p_planes][score_stride]
  RowDivision* division;  // [kQueries], for linear codes
  size_t bytes = 0;

  Buffers(const AttentionShape& shape, Probabilities format, void* scratch)
      : key_steps(divide_up(shape.head_size, 4)),
        value_steps(divide_up(shape.keys, 4)),
        score_stride(round_up(shape.keys, 64)),
        p_planes(format == Probabilities::kLog2 ? 2 : 1),
        next_(static_cast<uint8_t*>(scratch)) {
    keys = take<int8_t>(round_up(shape.keys, 16) * 4 * key_steps);
    values = take<int8_t>(round_up(shape.head_size, 16) * 4 * value_steps);
    start = take<int32_t>(round_up(shape.keys, 16));
    scores = take<int32_t>(kQueries * score_stride);
    octaves = take<int16_t>(kQueries * score_stride);
    q = take<uint8_t>(kQueries * q_stride());
    p = take<uint8_t>(kQueries * p_planes * score_stride);
    division = take<RowDivision>(kQueries);
  }

  size_t q_stride() const { return round_up(4 * key_steps, kAlignment); }

 private:
  template <typename T>
  T* take(size_t count) {
    T* result = reinterpret_cast<T*>(next_ + bytes);
    bytes += round_up(count * sizeof(T), kAlignment);
    return result;
  }

  uint8_t* next_;
};

// One step of multiply().
template <size_t kRows, size_t kRegisters>
__attribute__((always_inline)) inline void multiply_step(const uint8_t* rows, size_t row_stride, const int8_t* panel,
                                                         size_t steps, size_t step, __m512i (&acc)[kRows][4]) {
  __m512i w[kRegisters];
  unroll<kRegisters>([&](auto j)
                         __attribute__((always_inline)) { w[j] = _mm512_load_si512(panel + 64 * (j * steps + step)); });
  unroll<kRows>([&](auto i) __attribute__((always_inline)) {
    const __m512i x = broadcast(rows + i * row_stride + 4 * step);
    unroll<kRegisters>([&](auto j) __attribute__((always_inline)) { multiply_add(acc[i][j], x, w[j]); });
  });
}

// acc[i][j] += products of rows of unsigned bytes with registers of 16 outputs.
template <size_t kRows, size_t kRegisters>
__attribute__((always_inline)) inline void multiply(const uint8_t* rows, size_t row_stride, const int8_t* panel,
                                                    size_t steps, __m512i (&acc)[kRows][4]) {
  for (size_t step = 0; step < steps; ++step)
    multiply_step<kRows, kRegisters>(rows, row_stride, panel, steps, step, acc);
}

// The same for rows of which many bytes are zero: skips the steps in which all are.
template <size_t kRows, size_t kRegisters>
__attribute__((always_inline)) inline void multiply_sparse(const uint8_t* rows, size_t row_stride, const int8_t* panel,
                                                           size_t steps, __m512i (&acc)[kRows][4]) {
  for (size_t first = 0; first < steps; first += 16) {
    __m512i any = _mm512_load_si512(rows + 4 * first);
    unroll<kRows - 1>([&](auto i) __attribute__((always_inline)) {
      any = _mm512_or_si512(any, _mm512_load_si512(rows + (i + 1) * row_stride + 4 * first));
    });
    for (unsigned bits = _mm512_test_epi32_mask(any, any); bits != 0; bits &= bits - 1) {
      const size_t step = first + static_cast<size_t>(__builtin_ctz(bits));
      multiply_step<kRows, kRegisters>(rows, row_stride, panel, steps, step, acc);
    }
  }
}

template <size_t kRows, size_t kRegisters>
__attribute__((noinline)) void score_tile(const Buffers& buffers, const uint8_t* q, size_t first_key, int32_t* scores) {
  __m512i acc[kRows][4];
  unroll<kRows>([&](auto i) __attribute__((always_inline)) {
    unroll<kRegisters>([&](auto j) __attribute__((always_inline)) {
      acc[i][j] = _mm512_load_si512(buffers.start + first_key + 16 * j);
    });
  });
  multiply<kRows, kRegisters>(q, buffers.q_stride(), buffers.keys + 4 * first_key * buffers.key_steps,
                              buffers.key_steps, acc);
  unroll<kRows>([&](auto i) __attribute__((always_inline)) {
    unroll<kRegisters>([&](auto j) __attribute__((always_inline)) {
      _mm512_store_si512(scores + i * buffers.score_stride + first_key + 16 * j, acc[i][j]);
    });
  });
}

// Channels of a head that one tile of values computes, and how they requantise.
struct ValueGroup {
  const int8_t* panel;
  __m512i rounding[4];
  Requantize requantize;
  __mmask64 mask;
};

// RowDivision of sums: what it multiplies fits into int16, as |v| <= 127 and the codes' sum is below 2^z.
class Divide {
 public:
  explicit Divide(const RowDivision& division)
      : half_(_mm512_set1_epi32(division.shift > 0 ? 1 << (division.shift - 1) : 0)),
        shift_(_mm_cvtsi32_si128(static_cast<int>(division.shift))),
        reciprocal_(_mm512_set1_epi32(division.reciprocal)) {}

  __m512i operator()(__m512i acc) const {
    __m512i product = _mm512_set1_epi32(1 << 13);
    multiply_add_words(product, _mm512_sra_epi32(_mm512_add_epi32(acc, half_), shift_), reciprocal_);
    return _mm512_srai_epi32(product, 14);
  }

 private:
  __m512i half_;
  __m128i shift_;
  __m512i reciprocal_;
};

template <size_t kRows, size_t kRegisters, bool kLog2>
__attribute__((noinline)) void value_tile(const Buffers& buffers, size_t first_row, const ValueGroup& group,
                                          int8_t* output, size_t output_stride) {
  const size_t row_stride = buffers.p_planes * buffers.score_stride;
  const uint8_t* p = buffers.p + first_row * row_stride;
  __m512i acc[kRows][4];
  unroll<kRows>([&](auto i) __attribute__((always_inline)) {
    unroll<4>([&](auto j) __attribute__((always_inline)) { acc[i][j] = _mm512_setzero_si512(); });
  });
  if constexpr (kLog2) {
    // The upper bytes of the weights 2^(14 - code): zero for probabilities below 1 / 90.
    multiply_sparse<kRows, kRegisters>(p, row_stride, group.panel, buffers.value_steps, acc);
    unroll<kRows>([&](auto i) __attribute__((always_inline)) {
      unroll<kRegisters>([&](auto j) __attribute__((always_inline)) {
        acc[i][j] = _mm512_add_epi32(_mm512_slli_epi32(acc[i][j], 8), group.rounding[j]);
      });
    });
    multiply<kRows, kRegisters>(p + buffers.score_stride, row_stride, group.panel, buffers.value_steps, acc);
  } else {
    multiply<kRows, kRegisters>(p, row_stride, group.panel, buffers.value_steps, acc);
    unroll<kRows>([&](auto i) __attribute__((always_inline)) {
      const Divide divide(buffers.division[first_row + i]);
      unroll<kRegisters>([&](auto j) __attribute__((always_inline)) {
        acc[i][j] = _mm512_add_epi32(divide(acc[i][j]), group.rounding[j]);
      });
    });
  }
  unroll<kRows>([&](auto i) __attribute__((always_inline)) {
    _mm512_mask_storeu_epi8(output + i * output_stride, group.mask, group.requantize.codes<kRegisters>(acc[i]));
  });
}

// Calls tile<kRows, 1 ... 4>.
template <typename Tile>
void with_registers(size_t registers, const Tile& tile) {
  switch (registers) {
    case 1:
      return tile(std::integral_constant<size_t, 1>{});
    case 2:
      return tile(std::integral_constant<size_t, 2>{});
    case 3:
      return tile(std::integral_constant<size_t, 3>{});
    default:
      return tile(std::integral_constant<size_t, 4>{});
  }
}

// Calls tile(first row, number of rows as a constant) for all rows of a block.
template <typename Tile>
void for_each_tile(size_t rows, const Tile& tile) {
  size_t row = 0;
  for (; row + kTileRows <= rows; row += kTileRows) tile(row, std::integral_constant<size_t, kTileRows>{});
  for (; row < rows; ++row) tile(row, std::integral_constant<size_t, 1>{});
}

void score_block(const int8_t* q, size_t q_stride, size_t rows, const AttentionShape& shape, const Buffers& buffers) {
  const __m512i flip = _mm512_set1_epi8(INT8_MIN);
  for (size_t i = 0; i < rows; ++i) {
    for (size_t d = 0; d < shape.head_size; d += 64) {
      const __m512i codes = _mm512_maskz_loadu_epi8(byte_mask(shape.head_size - d), q + i * q_stride + d);
      _mm512_store_si512(buffers.q + i * buffers.q_stride() + d, _mm512_xor_si512(codes, flip));
    }
  }
  const size_t registers = divide_up(shape.keys, 16);
  for_each_tile(rows, [&](size_t row, auto count) {
    const uint8_t* tile_q = buffers.q + row * buffers.q_stride();
    int32_t* scores = buffers.scores + row * buffers.score_stride;
    for (size_t first = 0; first < registers; first += 4) {
      with_registers(registers - first, [&](auto width) {
        score_tile<decltype(count)::value, decltype(width)::value>(buffers, tile_q, 16 * first, scores);
      });
    }
  });
}

template <Probabilities kFormat>
void softmax_block(const AttentionArguments& arguments, const Softmax& softmax, size_t head, Range queries,
                   const Buffers& buffers) {
  // The upper and the lower byte of 2^(14 - code).
  const __m512i upper = _mm512_broadcast_i32x4(_mm_setr_epi8(64, 32, 16, 8, 4, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0));
  const __m512i lower = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, -128, 64, 32, 16, 8, 4, 2, 1, 0));
  const AttentionShape& shape = arguments.shape;
  const size_t rows = queries.end - queries.begin;
  const size_t stride = buffers.score_stride;
  static_assert(kQueries <= 16, "log2_of_sums() takes 16");
  int32_t maximum[kQueries];
  alignas(64) int32_t sum[16];
  std::fill(sum, sum + 16, 1 << 14);
  for (size_t row = 0; row < rows; ++row) {
    const ScoreBias bias = softmax_bias(arguments.softmax, head, queries.begin + row, shape.queries, shape.keys);
    maximum[row] = Softmax::maximum(buffers.scores + row * stride, bias, shape.keys);
  }
  for (size_t row = 0; row < rows; ++row) {
    sum[row] =
        softmax.weigh<kFormat>(buffers.scores + row * stride, maximum[row], shape.keys, buffers.octaves + row * stride);
  }
  alignas(64) int32_t normaliser[16] = {};
  if constexpr (kFormat == Probabilities::kLog2) {
    _mm512_store_si512(normaliser, log2_of_sums(_mm512_load_si512(sum)));
  }
  for (size_t row = 0; row < rows; ++row) {
    uint8_t* p = buffers.p + row * buffers.p_planes * stride;
    __m512i code_sums = _mm512_setzero_si512();
    Softmax::codes<kFormat>(buffers.octaves + row * stride, normaliser[row], shape.keys,
                            [&](size_t first, __m512i codes) {
                              if constexpr (kFormat == Probabilities::kLog2) {
                                _mm512_store_si512(p + first, _mm512_shuffle_epi8(upper, codes));
                                _mm512_store_si512(p + stride + first, _mm512_shuffle_epi8(lower, codes));
                              } else {
                                _mm512_store_si512(p + first, codes);
                                const __m512i sums = _mm512_sad_epu8(codes, _mm512_setzero_si512());
                                code_sums = _mm512_add_epi64(code_sums, sums);
                              }
                            });
    if constexpr (kFormat == Probabilities::kLinear) {
      buffers.division[row] = RowDivision(static_cast<uint32_t>(_mm512_reduce_add_epi64(code_sums)));
    }
  }
}

template <Probabilities kFormat>
void value_block(const AttentionArguments& arguments, size_t channel, size_t rows, int8_t* output,
                 const Buffers& buffers) {
  constexpr bool kLog2 = kFormat == Probabilities::kLog2;
  const AttentionShape& shape = arguments.shape;
  for (size_t c = 0; c < shape.head_size; c += kPanel) {
    const size_t columns = std::min(kPanel, shape.head_size - c);
    ValueGroup group{buffers.values + c * 4 * buffers.value_steps,
                     {},
                     Requantize(arguments.requantizer, channel + c, columns),
                     byte_mask(columns)};
    for (size_t j = 0; j < kVectors; ++j) group.rounding[j] = group.requantize.rounding(j);
    for_each_tile(rows, [&](size_t row, auto count) {
      const size_t stride = shape.heads * shape.head_size;
      with_registers(divide_up(columns, 16), [&](auto width) {
        value_tile<decltype(count)::value, decltype(width)::value, kLog2>(buffers, row, group,
                                                                          output + row * stride + c, stride);
      });
    });
  }
}

template <Probabilities kFormat>
void run(const AttentionArguments& arguments, size_t head, Range queries, void* scratch, AttentionClock* clock) {
  const AttentionShape& shape = arguments.shape;
  const size_t channels = shape.heads * shape.head_size;
  const size_t batch = head / shape.heads;
  const size_t channel = head % shape.heads * shape.head_size;
  const Buffers buffers(shape, kFormat, scratch);
  const Softmax softmax(arguments.softmax);

  Stopwatch stopwatch(clock);
  pack_keys(arguments.k + batch * shape.keys * channels + channel, channels, shape.keys, shape.head_size, buffers.keys,
            buffers.start);
  stopwatch.add_to(&AttentionClock::scores);
  pack_values(arguments.v + batch * shape.keys * channels + channel, channels, shape.keys, shape.head_size,
              buffers.values);
  stopwatch.add_to(&AttentionClock::values);
  for (size_t first = queries.begin; first < queries.end; first += kQueries) {
    const size_t rows = std::min(kQueries, queries.end - first);
    const size_t offset = (batch * shape.queries + first) * channels + channel;
    score_block(arguments.q + offset, channels, rows, shape, buffers);
    stopwatch.add_to(&AttentionClock::scores);
    softmax_block<kFormat>(arguments, softmax, head, {first, first + rows}, buffers);
    stopwatch.add_to(&AttentionClock::softmax);
    value_block<kFormat>(arguments, channel, rows, arguments.output + offset, buffers);
    stopwatch.add_to(&AttentionClock::values);
  }
}

}  // namespace

size_t attention_scratch(const AttentionShape& shape, Probabilities format) {
  return Buffers(shape, format, nullptr).bytes;
}

void attention(const AttentionArguments& arguments, size_t head, Range queries, void* scratch, AttentionClock* clock) {
  arguments.softmax.format == Probabilities::kLog2
      ? run<Probabilities::kLog2>(arguments, head, queries, scratch, clock)
      : run<Probabilities::kLinear>(arguments, head, queries, scratch, clock);
}

}  // namespace packqvit::avx512_vnni
