#include "kernels/neon/attention.h"

#include "kernels/neon/tile_attention.h"
#include "kernels/neon_i8mm/i8mm.h"
#include "kernels/neon_i8mm/smmla.h"

namespace packqvit::neon_i8mm {

using Products = neon::TileProducts<Smmla>;

size_t attention_scratch(const AttentionShape& shape, Probabilities format) {
  return neon::fused_attention_scratch<Products>(shape, format);
}

void attention(const AttentionArguments& arguments, size_t head, Range queries, void* scratch, AttentionClock* clock) {
  neon::fused_attention<Products>(arguments, head, queries, scratch, clock);
}

size_t attention_part_scratch(const AttentionShape& shape) { return neon::attention_part_scratch<Products>(shape); }

void attention_scores(const AttentionScoresArguments& arguments, size_t head, Range queries, void* scratch) {
  neon::attention_scores<Products>(arguments, head, queries, scratch);
}

void attention_values(const AttentionValuesArguments& arguments, size_t head, Range queries, void* scratch) {
  neon::attention_values<Products>(arguments, head, queries, scratch);
}

}  // namespace packqvit::neon_i8mm
