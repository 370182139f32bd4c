#include "kernels/neon/armv8_products.h"

#include <arm_neon.h>

#include <algorithm>
#include <cstring>

#include "kernels/aligned_array.h"
#include "kernels/mca.h"

namespace packqvit::neon {
namespace {

constexpr size_t kRows = 4;      // 4 x 16 accumulators are 16 registers
constexpr size_t kColumns = 16;  // of a panel
constexpr size_t kDepth = 8;     // k of one step: the lanes of a vector of the left operand

template <int kLane>
__attribute__((always_inline)) inline void multiply_lane(const int16x8_t (&a)[kRows], const int16_t* b,
                                                         int32x4_t (&acc)[kRows][4]) {
  const int16x8_t low = vld1q_s16(b + kLane * kColumns);
  const int16x8_t high = vld1q_s16(b + kLane * kColumns + 8);
  for (size_t i = 0; i < kRows; ++i) {
    acc[i][0] = vmlal_laneq_s16(acc[i][0], vget_low_s16(low), a[i], kLane);
    acc[i][1] = vmlal_high_laneq_s16(acc[i][1], low, a[i], kLane);
    acc[i][2] = vmlal_laneq_s16(acc[i][2], vget_low_s16(high), a[i], kLane);
    acc[i][3] = vmlal_high_laneq_s16(acc[i][3], high, a[i], kLane);
  }
}

// Not inlined: compilers keep the accumulators in registers only where nothing else lives beside them.
// output[4][16] = a[4][k] * b[k][16], k a multiple of kDepth.
__attribute__((noinline)) void multiply_tile(const int16_t* a, size_t stride, const int16_t* b, size_t k,
                                             int32_t* output, size_t output_stride) {
  int32x4_t acc[kRows][4];
  for (size_t i = 0; i < kRows; ++i) {
    for (size_t j = 0; j < 4; ++j) acc[i][j] = vdupq_n_s32(0);
  }
  for (size_t x = 0; x < k; x += kDepth, b += kDepth * kColumns) {
    PACKQVIT_MCA_BEGIN("armv8_attention");
    const int16x8_t rows[kRows] = {vld1q_s16(a + x), vld1q_s16(a + stride + x), vld1q_s16(a + 2 * stride + x),
                                   vld1q_s16(a + 3 * stride + x)};
    multiply_lane<0>(rows, b, acc);
    multiply_lane<1>(rows, b, acc);
    multiply_lane<2>(rows, b, acc);
    multiply_lane<3>(rows, b, acc);
    multiply_lane<4>(rows, b, acc);
    multiply_lane<5>(rows, b, acc);
    multiply_lane<6>(rows, b, acc);
    multiply_lane<7>(rows, b, acc);
    PACKQVIT_MCA_END();
  }
  for (size_t i = 0; i < kRows; ++i) {
    for (size_t j = 0; j < 4; ++j) vst1q_s32(output + i * output_stride + 4 * j, acc[i][j]);
  }
}

// Rows up to a multiple of kRows are computed; the caller's buffers have room for them.
void multiply(const int16_t* a, size_t count, const int16_t* panels, size_t k, size_t columns, int32_t* output,
              size_t output_stride) {
  for (size_t column = 0; column < columns; column += kColumns, panels += k * kColumns) {
    for (size_t row = 0; row < count; row += kRows) {
      multiply_tile(a + row * k, k, panels, k, output + row * output_stride + column, output_stride);
    }
  }
}

size_t padded_depth(size_t k) { return round_up(k, kDepth); }

// Widens `size` codes, and fills up with zeros to `padded`.
void widen(const int8_t* in, size_t size, size_t padded, int16_t* out) {
  size_t i = 0;
  for (; i + 8 <= size; i += 8) vst1q_s16(out + i, vmovl_s8(vld1_s8(in + i)));
  for (; i < size; ++i) out[i] = in[i];
  for (; i < padded; ++i) out[i] = 0;
}

// 8 x 8 codes, rows `stride` apart, widened and transposed to rows kColumns apart.
void transpose_block(const int8_t* in, size_t stride, int16_t* out) {
  int8x8_t rows[8];
  for (size_t i = 0; i < 8; ++i) rows[i] = vld1_s8(in + i * stride);
  int32x2_t quads[8];  // quads[i]: columns i % 4 and i % 4 + 4 of the rows 4 (i / 4) ...
  for (size_t half = 0; half < 2; ++half) {
    const int8x8x2_t first = vtrn_s8(rows[4 * half], rows[4 * half + 1]);
    const int8x8x2_t second = vtrn_s8(rows[4 * half + 2], rows[4 * half + 3]);
    for (size_t odd = 0; odd < 2; ++odd) {
      const int16x4x2_t pair = vtrn_s16(vreinterpret_s16_s8(first.val[odd]), vreinterpret_s16_s8(second.val[odd]));
      quads[4 * half + odd] = vreinterpret_s32_s16(pair.val[0]);
      quads[4 * half + odd + 2] = vreinterpret_s32_s16(pair.val[1]);
    }
  }
  for (size_t i = 0; i < 4; ++i) {
    const int32x2x2_t columns = vtrn_s32(quads[i], quads[i + 4]);
    vst1q_s16(out + i * kColumns, vmovl_s8(vreinterpret_s8_s32(columns.val[0])));
    vst1q_s16(out + (i + 4) * kColumns, vmovl_s8(vreinterpret_s8_s32(columns.val[1])));
  }
}

// 2^(14 - code), and 0 from 15 on.
void log2_weights(const uint8_t* codes, size_t size, int16_t* out) {
  const uint16x8_t one = vdupq_n_u16(1 << 14);
  for (size_t j = 0; j < size; j += 16) {
    const int8x16_t shift = vnegq_s8(vreinterpretq_s8_u8(vminq_u8(vld1q_u8(codes + j), vdupq_n_u8(15))));
    vst1q_s16(out + j, vreinterpretq_s16_u16(vshlq_u16(one, vmovl_s8(vget_low_s8(shift)))));
    vst1q_s16(out + j + 8, vreinterpretq_s16_u16(vshlq_u16(one, vmovl_high_s8(shift))));
  }
}

void linear_weights(const uint8_t* codes, size_t size, int16_t* out) {
  for (size_t j = 0; j < size; j += 16) {
    const uint8x16_t x = vld1q_u8(codes + j);
    vst1q_s16(out + j, vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(x))));
    vst1q_s16(out + j + 8, vreinterpretq_s16_u16(vmovl_high_u8(x)));
  }
}

}  // namespace

size_t ArmV8Products::keys_bytes(const AttentionShape& shape) {
  return round_up(shape.keys, kColumns) * padded_depth(shape.head_size) * sizeof(int16_t);
}

// Rows of codes are whole blocks of 16, and so is the depth of the second product.
size_t ArmV8Products::values_bytes(const AttentionShape& shape, Probabilities) {
  return round_up(shape.head_size, kColumns) * round_up(shape.keys, 16) * sizeof(int16_t);
}

size_t ArmV8Products::rows_bytes(const AttentionShape& shape, Probabilities) {
  return kQueries * std::max(padded_depth(shape.head_size), round_up(shape.keys, 16)) * sizeof(int16_t);
}

// [keys / 16][head_size][16]
void ArmV8Products::pack_keys(const int8_t* k, size_t stride, const AttentionShape& shape, void* packed) {
  const size_t depth = padded_depth(shape.head_size);
  int16_t* out = static_cast<int16_t*>(packed);
  std::memset(out, 0, keys_bytes(shape));
  const auto at = [&](size_t key, size_t d) { return out + (key / kColumns * depth + d) * kColumns + key % kColumns; };
  const size_t whole = shape.head_size / 8 * 8;
  size_t key = 0;
  for (; key + 8 <= shape.keys; key += 8) {
    for (size_t d = 0; d < whole; d += 8) transpose_block(k + key * stride + d, stride, at(key, d));
    for (size_t d = whole; d < shape.head_size; ++d) {
      for (size_t i = 0; i < 8; ++i) *at(key + i, d) = k[(key + i) * stride + d];
    }
  }
  for (; key < shape.keys; ++key) {
    for (size_t d = 0; d < shape.head_size; ++d) *at(key, d) = k[key * stride + d];
  }
}

// [head_size / 16][keys][16]
void ArmV8Products::pack_values(const int8_t* v, size_t stride, const AttentionShape& shape, Probabilities,
                                void* packed) {
  int16_t* out = static_cast<int16_t*>(packed);
  const size_t padded = round_up(shape.keys, 16);
  for (size_t c = 0; c < shape.head_size; c += kColumns) {
    const size_t columns = std::min(kColumns, shape.head_size - c);
    for (size_t key = 0; key < shape.keys; ++key, out += kColumns) widen(v + key * stride + c, columns, kColumns, out);
    std::fill_n(out, (padded - shape.keys) * kColumns, int16_t{0});
    out += (padded - shape.keys) * kColumns;
  }
}

void ArmV8Products::scores(const int8_t* q, size_t stride, size_t count, const AttentionShape& shape,
                           const void* packed_keys, void* rows, int32_t* output, size_t output_stride) {
  const size_t depth = padded_depth(shape.head_size);
  int16_t* a = static_cast<int16_t*>(rows);
  for (size_t i = 0; i < count; ++i) widen(q + i * stride, shape.head_size, depth, a + i * depth);
  multiply(a, count, static_cast<const int16_t*>(packed_keys), depth, shape.keys, output, output_stride);
}

void ArmV8Products::values(const uint8_t* codes, size_t stride, size_t count, const AttentionShape& shape,
                           Probabilities format, const void* packed_values, void* rows, int32_t* output,
                           size_t output_stride) {
  int16_t* a = static_cast<int16_t*>(rows);
  for (size_t i = 0; i < count; ++i) {
    format == Probabilities::kLog2 ? log2_weights(codes + i * stride, stride, a + i * stride)
                                   : linear_weights(codes + i * stride, stride, a + i * stride);
  }
  multiply(a, count, static_cast<const int16_t*>(packed_values), stride, shape.head_size, output, output_stride);
}

}  // namespace packqvit::neon
