// Marks what benchmarks/qemu/instruction_counter.c counts, with hints that every AArch64 CPU executes as NOP.
#pragma once

namespace packqvit {

class CountedRegion {
 public:
#if defined(__aarch64__)
  CountedRegion() { __asm volatile("hint #96" ::: "memory"); }
  ~CountedRegion() { __asm volatile("hint #97" ::: "memory"); }
#else
  CountedRegion() {}
#endif
  CountedRegion(const CountedRegion&) = delete;
  CountedRegion& operator=(const CountedRegion&) = delete;
};

}  // namespace packqvit
