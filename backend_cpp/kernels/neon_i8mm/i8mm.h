// The ARMv8.6 int8 matrix multiply tier: everything but the products is the neon tier's.
#pragma once

#include "kernels/tier.h"

namespace packqvit::neon_i8mm {

const KernelTier& tier();

const GemmRoute& gemm_route();

size_t attention_scratch(const AttentionShape& shape, Probabilities format);
void attention(const AttentionArguments& arguments, size_t head, Range queries, void* scratch, AttentionClock* clock);
size_t attention_part_scratch(const AttentionShape& shape);
void attention_scores(const AttentionScoresArguments& arguments, size_t head, Range queries, void* scratch);
void attention_values(const AttentionValuesArguments& arguments, size_t head, Range queries, void* scratch);

}  // namespace packqvit::neon_i8mm
