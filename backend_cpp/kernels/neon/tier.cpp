#include "kernels/neon/armv8_products.h"
#include "kernels/neon/attention.h"
#include "kernels/neon/neon.h"

namespace packqvit::neon {

const KernelTier& tier() {
  static const GemmRoute* const kRoutes[] = {&mla_route(), &mla_unsigned_route(), &smlal_route(), &smull_route()};
  static const KernelTier kTier = {
      "neon",
      [] { return true; },  // AArch64 has no CPU without it
      kRoutes,
      sizeof(kRoutes) / sizeof(kRoutes[0]),
      fused_attention_scratch<ArmV8Products>,
      fused_attention<ArmV8Products>,
      attention_part_scratch<ArmV8Products>,
      attention_scores<ArmV8Products>,
      attention_values<ArmV8Products>,
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

}  // namespace packqvit::neon
