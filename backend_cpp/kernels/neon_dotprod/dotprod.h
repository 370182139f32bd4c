// The ARMv8.2 dot product tier: everything but the products is the neon tier's.
#pragma once

#include "kernels/tier.h"

namespace packqvit::neon_dotprod {

const KernelTier& tier();

const GemmRoute& sdot_in_order_route();  // for CPUs of nothing but Cortex-A55
const GemmRoute& sdot_route();

size_t attention_scratch(const AttentionShape& shape, Probabilities format);
void attention(const AttentionArguments& arguments, size_t head, Range queries, void* scratch, AttentionClock* clock);
size_t attention_part_scratch(const AttentionShape& shape);
void attention_scores(const AttentionScoresArguments& arguments, size_t head, Range queries, void* scratch);
void attention_values(const AttentionValuesArguments& arguments, size_t head, Range queries, void* scratch);

}  // namespace packqvit::neon_dotprod
