#pragma once

#include <cstddef>

#include "kernels/tier.h"

namespace packqvit {

// A loop of independent multiply-accumulate instructions on registers: what no kernel of plain dot products can pass.
struct PeakLoop {
  const char* tier;
  const char* instruction;
  size_t macs;                     // of one instruction
  size_t instructions;             // of one iteration
  void (*run)(size_t iterations);  // only where the tier is supported
};

// The loops of this architecture, by the tier whose best dot product instruction they repeat.
struct PeakLoops {
  const PeakLoop* begin_;
  size_t size_;
  const PeakLoop* begin() const { return begin_; }
  const PeakLoop* end() const { return begin_ + size_; }
};
PeakLoops peak_loops();

struct Peak {
  const char* instruction;
  double macs_per_second;  // 0: not known for this tier
};

// The best rate of several tries, on the CPU time of this thread.
Peak measure_peak(const KernelTier& tier);

}  // namespace packqvit
