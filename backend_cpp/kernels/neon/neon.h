// ARMv8.0 kernels, compiled without extra flags: the tier "neon", and what the tiers above it take over as it is.
#pragma once

#include "kernels/tier.h"

namespace packqvit::neon {

const KernelTier& tier();

// Routes of GEMM, named for the instruction that multiplies; gemm.cpp says when their sums are exact.
const GemmRoute& mla_route();
const GemmRoute& mla_unsigned_route();
const GemmRoute& smlal_route();
const GemmRoute& smull_route();

// softmax_row's buffers are padded to a multiple of this.
inline constexpr size_t kCodeBlock = 16;

// One row of scores to codes. The buffers hold round_up(columns, kCodeBlock) elements: the scores' padding may hold
// anything, that of the codes becomes probability zero. The bias has exactly `columns`, or is nothing. Scores are
// overwritten. Returns the sum of linear codes, and 0 for log2 codes.
uint32_t softmax_row(const SoftmaxParameters& parameters, int32_t* scores, const ScoreBias& bias, size_t columns,
                     uint8_t* codes, int16_t* octaves);
size_t softmax_scratch(size_t columns);
void softmax(const SoftmaxArguments& arguments, Range rows, void* scratch);

// Divides a row of int32 sums, in place; `columns` is rounded up to a multiple of 4.
void divide_row(const RowDivision& division, size_t columns, int32_t* sums);

// Rows of int32 sums to codes with the channels from `channel` on. Strides count elements.
void requantize_rows(const int32_t* sums, size_t stride, size_t rows, size_t columns, const Requantizer& requantizer,
                     size_t channel, int8_t* output, size_t output_stride);

void layer_norm(const LayerNormArguments& arguments, Range rows);
void lookup_table(const int8_t* x, const int8_t* table, int8_t* output, size_t size);
void quantize(const QuantizeArguments& arguments, Range rows);
void dequantize(const DequantizeArguments& arguments, Range rows);
void pool_tokens(const PoolTokensArguments& arguments, Range channels);
void requantize(const RequantizeArguments& arguments, Range rows);
void multiply(const MultiplyArguments& arguments, Range rows);
void rotate(const RotateArguments& arguments, Range rows);

}  // namespace packqvit::neon
