// AVX2: Haswell, Zen and later.
#pragma once

#include "kernels/tier.h"

namespace packqvit::avx2 {

const KernelTier& tier();

const GemmRoute& bytes_route();
const GemmRoute& words_route();

size_t attention_scratch(const AttentionShape& shape, Probabilities format);
void attention(const AttentionArguments& arguments, size_t head, Range queries, void* scratch, AttentionClock* clock);
void layer_norm(const LayerNormArguments& arguments, Range rows);
void quantize(const QuantizeArguments& arguments, Range rows);
void pool_tokens(const PoolTokensArguments& arguments, Range channels);
void requantize(const RequantizeArguments& arguments, Range rows);
void multiply(const MultiplyArguments& arguments, Range rows);
void rotate(const RotateArguments& arguments, Range rows);

}  // namespace packqvit::avx2
