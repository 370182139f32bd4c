// The ARMv8.2 dot product tier: everything but the products is the neon tier's.
#pragma once

#include "kernels/tier.h"

namespace packqvit::neon_dotprod {

const KernelTier& tier();

const GemmRoute& gemm_route();

}  // namespace packqvit::neon_dotprod
