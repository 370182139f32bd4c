#define PACKQVIT_ISA avx_vnni
#define PACKQVIT_VPDPBUSD "%{vex%} vpdpbusd"
#include "kernels/avx_vnni/avx_vnni.h"
#include "kernels/x86/cpu.h"
// Behind what it uses.
#include "kernels/avx_vnni/routes.h"
