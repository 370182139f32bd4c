#include "kernels/reference/dot_tile.h"
#include "kernels/reference/reference.h"

namespace packqvit::reference {

const KernelTier& tier() {
  static constexpr KernelTier kTier = {
      "reference",
      [] { return true; },
      // 32 rows amortise widening a panel to int16; kr = 16 is one vector of codes.
      {kTileRows, kTileColumns, /*kr=*/16, /*row_block=*/32},
      gemm_scratch,
      gemm,
      attention_scratch,
      attention_scores,
      attention_values,
      softmax_scratch,
      softmax,
      layer_norm,
      lookup_table,
      quantize,
      dequantize,
      mean_tokens,
  };
  return kTier;
}

}  // namespace packqvit::reference
