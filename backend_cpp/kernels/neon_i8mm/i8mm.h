// The ARMv8.6 int8 matrix multiply tier: everything but the products is the neon tier's.
#pragma once

#include "kernels/tier.h"

namespace packqvit::neon_i8mm {

const KernelTier& tier();

const GemmRoute& gemm_route();

}  // namespace packqvit::neon_i8mm
