#include <arm_neon.h>

#include <algorithm>

#include "kernels/dequantize_rows.h"
#include "kernels/neon/neon.h"
#include "kernels/pool_tokens.h"
#include "kernels/product_rows.h"
#include "kernels/requantize_rows.h"

namespace packqvit::neon {
namespace {

// FCVTNS rounds to nearest even, saturates, and turns NaN into 0.
class Quantizer {
 public:
  Quantizer(const QuantizeArguments& arguments, size_t channel)
      : offset_(vdupq_n_f32(arguments.offset[arguments.offset_per_channel ? channel : 0])),
        inverse_scale_(vdupq_n_f32(arguments.inverse_scale[arguments.scale_per_channel ? channel : 0])),
        low_(vdupq_n_s16(static_cast<int16_t>(arguments.qmin))),
        high_(vdupq_n_s16(static_cast<int16_t>(arguments.qmax))) {}

  int16x8_t operator()(const float* x) const {
    const int16x8_t codes = vqmovn_high_s32(vqmovn_s32(round(x)), round(x + 4));
    return vmaxq_s16(vminq_s16(codes, high_), low_);
  }

 private:
  int32x4_t round(const float* x) const {
    return vcvtnq_s32_f32(vmulq_f32(vsubq_f32(vld1q_f32(x), offset_), inverse_scale_));
  }

  float32x4_t offset_;
  float32x4_t inverse_scale_;
  int16x8_t low_;
  int16x8_t high_;
};

inline void store_codes(int16_t* output, int16x8_t codes) { vst1q_s16(output, codes); }
inline void store_codes(int8_t* output, int16x8_t codes) { vst1_s8(output, vmovn_s16(codes)); }

template <typename Code>
void quantize_row(const QuantizeArguments& arguments, size_t row) {
  const Quantizer quantizer(arguments, row % arguments.channels);
  const size_t size = arguments.inner;
  const float* x = arguments.x + row * size;
  Code* output = static_cast<Code*>(arguments.output) + row * size;
  size_t i = 0;
  for (; i + 8 <= size; i += 8) store_codes(output + i, quantizer(x + i));
  if (i < size) {
    float last[8] = {};
    Code codes[8];
    std::copy(x + i, x + size, last);
    store_codes(codes, quantizer(last));
    std::copy(codes, codes + size - i, output + i);
  }
}

inline int32x4x2_t load_codes(const int8_t* x) {
  const int16x8_t codes = vmovl_s8(vld1_s8(x));
  return {{vmovl_s16(vget_low_s16(codes)), vmovl_high_s16(codes)}};
}
inline int32x4x2_t load_codes(const int16_t* x) {
  const int16x8_t codes = vld1q_s16(x);
  return {{vmovl_s16(vget_low_s16(codes)), vmovl_high_s16(codes)}};
}

// Differences of int32 codes need 33 bits: SCVTF of 64 bits would round twice, so those stay scalar.
template <typename Code>
void dequantize_row(const DequantizeArguments& arguments, size_t row) {
  const float scale = arguments.scale[arguments.scale_per_channel ? row % arguments.channels : 0];
  const size_t size = arguments.inner;
  const Code* x = static_cast<const Code*>(arguments.x) + row * size;
  float* output = arguments.output + row * size;
  size_t i = 0;
  if constexpr (sizeof(Code) < 4) {
    const int32x4_t zero_point = vdupq_n_s32(arguments.zero_point);
    for (; i + 8 <= size; i += 8) {
      const int32x4x2_t codes = load_codes(x + i);
      vst1q_f32(output + i, vmulq_n_f32(vcvtq_f32_s32(vsubq_s32(codes.val[0], zero_point)), scale));
      vst1q_f32(output + i + 4, vmulq_n_f32(vcvtq_f32_s32(vsubq_s32(codes.val[1], zero_point)), scale));
    }
  }
  for (; i < size; ++i) output[i] = static_cast<float>(int64_t{x[i]} - arguments.zero_point) * scale;
}

template <typename Code>
void dequantize_rows(const DequantizeArguments& arguments, Range rows) {
  if (are_single_values(arguments)) return dequantize_single_values<Code>(arguments, rows);
  for (size_t row = rows.begin; row < rows.end; ++row) dequantize_row<Code>(arguments, row);
}

inline uint8x16x4_t load_quarter(const int8_t* table) { return vld1q_u8_x4(reinterpret_cast<const uint8_t*>(table)); }

}  // namespace

// TBL gives 0, and TBX keeps what is there, for an index beyond its 64 bytes: each quarter of the table gets the codes
// minus the one that it begins with.
void lookup_table(const int8_t* x, const int8_t* table, int8_t* output, size_t size) {
  const uint8x16x4_t from_0 = load_quarter(table + 128);
  const uint8x16x4_t from_64 = load_quarter(table + 192);
  const uint8x16x4_t from_128 = load_quarter(table);
  const uint8x16x4_t from_192 = load_quarter(table + 64);
  const auto find = [&](size_t i) __attribute__((always_inline)) {
    const uint8x16_t codes = vreinterpretq_u8_s8(vld1q_s8(x + i));
    uint8x16_t found = vqtbl4q_u8(from_0, codes);
    found = vqtbx4q_u8(found, from_64, vsubq_u8(codes, vdupq_n_u8(64)));
    found = vqtbx4q_u8(found, from_128, vsubq_u8(codes, vdupq_n_u8(128)));
    found = vqtbx4q_u8(found, from_192, vsubq_u8(codes, vdupq_n_u8(192)));
    vst1q_s8(output + i, vreinterpretq_s8_u8(found));
  };
  size_t i = 0;
  for (; i + 64 <= size; i += 64) {
    find(i);
    find(i + 16);
    find(i + 32);
    find(i + 48);
  }
  for (; i + 16 <= size; i += 16) find(i);
  for (; i < size; ++i) output[i] = table[x[i] + 128];
}

void quantize(const QuantizeArguments& arguments, Range rows) {
  for (size_t row = rows.begin; row < rows.end; ++row) {
    arguments.wide ? quantize_row<int16_t>(arguments, row) : quantize_row<int8_t>(arguments, row);
  }
}

void dequantize(const DequantizeArguments& arguments, Range rows) {
  switch (arguments.type) {
    case CodeType::kInt8:
      return dequantize_rows<int8_t>(arguments, rows);
    case CodeType::kInt16:
      return dequantize_rows<int16_t>(arguments, rows);
    case CodeType::kInt32:
      return dequantize_rows<int32_t>(arguments, rows);
  }
}

void pool_tokens(const PoolTokensArguments& arguments, Range channels) { pool_channels(arguments, channels); }

void requantize(const RequantizeArguments& arguments, Range rows) { requantize_rows(arguments, rows); }

void multiply(const MultiplyArguments& arguments, Range rows) { multiply_rows(arguments, rows); }

void rotate(const RotateArguments& arguments, Range rows) { rotate_rows(arguments, rows); }

}  // namespace packqvit::neon
