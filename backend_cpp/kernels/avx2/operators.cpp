#define PACKQVIT_ISA avx2
#include <algorithm>

#include "kernels/avx2/avx2.h"
#include "kernels/pool_tokens.h"
#include "kernels/product_rows.h"
#include "kernels/requantize_rows.h"
#include "kernels/ymm/attention.h"
#include "kernels/ymm/elementwise.h"
#include "kernels/ymm/layer_norm.h"

namespace packqvit::avx2 {

size_t attention_scratch(const AttentionShape& shape, Probabilities) { return fused_attention_scratch(shape); }

void attention(const AttentionArguments& arguments, size_t head, Range queries, void* scratch, AttentionClock* clock) {
  fused_attention(arguments, head, queries, scratch, clock);
}

void layer_norm(const LayerNormArguments& arguments, Range rows) { layer_norm_rows(arguments, rows); }

void quantize(const QuantizeArguments& arguments, Range rows) { quantize_rows(arguments, rows); }

void pool_tokens(const PoolTokensArguments& arguments, Range channels) { pool_channels(arguments, channels); }

void requantize(const RequantizeArguments& arguments, Range rows) { requantize_rows(arguments, rows); }

void multiply(const MultiplyArguments& arguments, Range rows) { multiply_rows(arguments, rows); }

void rotate(const RotateArguments& arguments, Range rows) { rotate_rows(arguments, rows); }

}  // namespace packqvit::avx2
