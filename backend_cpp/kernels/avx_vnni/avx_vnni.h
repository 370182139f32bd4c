// AVX2 with AVX-VNNI, which has vpdpbusd on 256-bit registers: Alder Lake, Zen 5 and later. Everything but GEMM is that
// of the AVX2 tier.
#pragma once

#include "kernels/tier.h"

namespace packqvit::avx_vnni {

const KernelTier& tier();

const GemmRoute& direct_route();
const GemmRoute& inner_product_route();

}  // namespace packqvit::avx_vnni
