// Twenty-four accumulators cover latency times throughput of every AArch64 core up to four pipes.
#include "bench/peak.h"

#define PACKQVIT_CLOBBERS                                                                                            \
  "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15", "v16", \
      "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25"
#define PACKQVIT_ACCUMULATORS "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23"

namespace packqvit {
namespace {

constexpr size_t kAccumulators = 24;

void smmla(size_t iterations) {
  __asm volatile(
      "   .arch armv8.2-a+i8mm\n"
      "1: .irp i," PACKQVIT_ACCUMULATORS
      "\n"
      "   smmla v\\i\\().4s, v24.16b, v25.16b\n"
      "   .endr\n"
      "   subs %0, %0, #1\n"
      "   b.ne 1b\n"
      : "+r"(iterations)::PACKQVIT_CLOBBERS);
}

void sdot(size_t iterations) {
  __asm volatile(
      "   .arch armv8.2-a+dotprod\n"
      "1: .irp i," PACKQVIT_ACCUMULATORS
      "\n"
      "   sdot v\\i\\().4s, v24.16b, v25.16b\n"
      "   .endr\n"
      "   subs %0, %0, #1\n"
      "   b.ne 1b\n"
      : "+r"(iterations)::PACKQVIT_CLOBBERS);
}

// The products of 8-bit codes as 16-bit lanes; draining them into 32 bits comes on top.
void smlal(size_t iterations) {
  __asm volatile("1: .irp i," PACKQVIT_ACCUMULATORS
                 "\n"
                 "   smlal v\\i\\().8h, v24.8b, v25.8b\n"
                 "   .endr\n"
                 "   subs %0, %0, #1\n"
                 "   b.ne 1b\n"
                 : "+r"(iterations)::PACKQVIT_CLOBBERS);
}

constexpr PeakLoop kLoops[] = {
    {"neon_i8mm", "smmla", 32, kAccumulators, smmla},
    {"neon_dotprod", "sdot", 16, kAccumulators, sdot},
    {"neon", "smlal", 8, kAccumulators, smlal},
};

}  // namespace

PeakLoops peak_loops() { return {kLoops, sizeof(kLoops) / sizeof(kLoops[0])}; }

}  // namespace packqvit
