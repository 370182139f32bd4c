// AVX-512 with VNNI and VBMI: Ice Lake, Zen 4 and later.
#pragma once

#include "kernels/tier.h"

namespace packqvit::avx512_vnni {

const KernelTier& tier();

const GemmRoute& direct_in_place_route();
const GemmRoute& direct_route();
const GemmRoute& inner_product_route();

size_t attention_scratch(const AttentionShape& shape, Probabilities format);
void attention(const AttentionArguments& arguments, size_t head, Range queries, void* scratch, AttentionClock* clock);

void layer_norm(const LayerNormArguments& arguments, Range rows);
void lookup_table(const int8_t* x, const int8_t* table, int8_t* output, size_t size);
void quantize(const QuantizeArguments& arguments, Range rows);
void pool_tokens(const PoolTokensArguments& arguments, Range channels);
void requantize(const RequantizeArguments& arguments, Range rows);
void multiply(const MultiplyArguments& arguments, Range rows);
void rotate(const RotateArguments& arguments, Range rows);

}  // namespace packqvit::avx512_vnni
