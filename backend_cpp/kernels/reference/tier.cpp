#include "kernels/reference/reference.h"

namespace packqvit::reference {

const KernelTier& tier() {
  static const GemmRoute* const kRoutes[] = {&gemm_route()};
  static const KernelTier kTier = {
      "reference",
      [] { return true; },
      kRoutes,
      1,
      attention_scratch,
      attention,
      attention_part_scratch,
      attention_scores,
      attention_values,
      softmax_scratch,
      softmax,
      layer_norm,
      lookup_table,
      quantize,
      dequantize,
      pool_tokens,
      requantize,
      multiply,
      rotate,
  };
  return kTier;
}

}  // namespace packqvit::reference
