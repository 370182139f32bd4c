// Twelve accumulators cover latency times throughput of every x86-64 CPU with these instructions. The assembler knows
// them without ISA flags; the registers' upper halves need not be declared where no code uses them.
#include "bench/peak.h"

#define PACKQVIT_CLOBBERS                                                                                          \
  "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", \
      "xmm13"

namespace packqvit {
namespace {

constexpr size_t kAccumulators = 12;

void vpdpbusd_zmm(size_t iterations) {
  __asm volatile(
      "1: .irp i,0,1,2,3,4,5,6,7,8,9,10,11\n"
      "   vpdpbusd %%zmm12, %%zmm13, %%zmm\\i\n"
      "   .endr\n"
      "   dec %0\n"
      "   jnz 1b\n"
      "   vzeroupper\n"
      : "+r"(iterations)::PACKQVIT_CLOBBERS);
}

void vpdpbusd_ymm(size_t iterations) {
  __asm volatile(
      "1: .irp i,0,1,2,3,4,5,6,7,8,9,10,11\n"
      "   %{vex%} vpdpbusd %%ymm12, %%ymm13, %%ymm\\i\n"
      "   .endr\n"
      "   dec %0\n"
      "   jnz 1b\n"
      "   vzeroupper\n"
      : "+r"(iterations)::PACKQVIT_CLOBBERS);
}

void vpmaddubsw_ymm(size_t iterations) {
  __asm volatile(
      "1: .irp i,0,1,2,3,4,5,6,7,8,9,10,11\n"
      "   vpmaddubsw %%ymm12, %%ymm13, %%ymm\\i\n"
      "   .endr\n"
      "   dec %0\n"
      "   jnz 1b\n"
      "   vzeroupper\n"
      : "+r"(iterations)::PACKQVIT_CLOBBERS);
}

constexpr PeakLoop kLoops[] = {
    {"avx512_vnni", "vpdpbusd zmm", 64, kAccumulators, vpdpbusd_zmm},
    {"avx_vnni", "vpdpbusd ymm", 32, kAccumulators, vpdpbusd_ymm},
    {"avx2", "vpmaddubsw ymm", 32, kAccumulators, vpmaddubsw_ymm},
};

}  // namespace

PeakLoops peak_loops() { return {kLoops, sizeof(kLoops) / sizeof(kLoops[0])}; }

}  // namespace packqvit
