// The routes of the avx_vnni tier with vpdpbusd in its AVX-512 encoding: machines that lack one often have the other.
#define PACKQVIT_ISA avx_vnni_evex
#define PACKQVIT_VPDPBUSD "%{evex%} vpdpbusd"
#include "tests/support/avx_vnni_evex.h"

#include "kernels/x86/cpu.h"
// Behind what it uses.
#include "kernels/avx_vnni/routes.h"
