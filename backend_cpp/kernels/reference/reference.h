// The portable tier: plain C++, written so that compilers vectorise it for whatever the build targets.
#pragma once

#include "kernels/tier.h"

namespace packqvit::reference {

const KernelTier& tier();

size_t gemm_scratch(const PackedWeights& weights);
void gemm(const GemmArguments& arguments, Range rows, Range panels, void* scratch);

size_t attention_scratch(const AttentionShape& shape);
void attention_scores(const AttentionScoresArguments& arguments, size_t head, Range queries, void* scratch);
void attention_values(const AttentionValuesArguments& arguments, size_t head, Range queries, void* scratch);

size_t softmax_scratch(size_t columns);
void softmax(const SoftmaxArguments& arguments, Range rows, void* scratch);

void layer_norm(const LayerNormArguments& arguments, Range rows);
void lookup_table(const int8_t* x, const int8_t* table, int8_t* output, size_t size);
void quantize(const QuantizeArguments& arguments, Range rows);
void dequantize(const DequantizeArguments& arguments, Range rows);
void mean_tokens(const MeanTokensArguments& arguments, Range channels);

}  // namespace packqvit::reference
