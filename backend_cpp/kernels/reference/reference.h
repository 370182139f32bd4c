// The portable tier: plain C++, written so that compilers vectorise it for whatever the build targets.
#pragma once

#include "kernels/tier.h"

namespace packqvit::reference {

const KernelTier& tier();

const GemmRoute& gemm_route();

size_t attention_scratch(const AttentionShape& shape, Probabilities format);
void attention(const AttentionArguments& arguments, size_t head, Range queries, void* scratch, AttentionClock* clock);
size_t attention_part_scratch(const AttentionShape& shape);
void attention_scores(const AttentionScoresArguments& arguments, size_t head, Range queries, void* scratch);
void attention_values(const AttentionValuesArguments& arguments, size_t head, Range queries, void* scratch);

size_t softmax_scratch(size_t columns);
void softmax(const SoftmaxArguments& arguments, Range rows, void* scratch);

// One row of `columns` scores with its row of the bias, or nullptr, to codes.
void softmax_row(const SoftmaxParameters& parameters, const int32_t* x, const ScoreBias& bias, size_t columns,
                 uint8_t* output, void* scratch);

void layer_norm(const LayerNormArguments& arguments, Range rows);
void lookup_table(const int8_t* x, const int8_t* table, int8_t* output, size_t size);
void quantize(const QuantizeArguments& arguments, Range rows);
void dequantize(const DequantizeArguments& arguments, Range rows);
void pool_tokens(const PoolTokensArguments& arguments, Range channels);
void requantize(const RequantizeArguments& arguments, Range rows);
void multiply(const MultiplyArguments& arguments, Range rows);
void rotate(const RotateArguments& arguments, Range rows);

}  // namespace packqvit::reference
