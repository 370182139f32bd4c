#pragma once

#include "kernels/tier.h"

namespace packqvit::avx_vnni_evex {

const GemmRoute& direct_route();
const GemmRoute& inner_product_route();

// The avx_vnni tier for CPUs with AVX-512.
const KernelTier& tier();

}  // namespace packqvit::avx_vnni_evex
