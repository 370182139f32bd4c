#include "bench/peak.h"

#include <algorithm>
#include <cstring>
#include <ctime>

namespace packqvit {
namespace {

double cpu_seconds() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

}  // namespace

Peak measure_peak(const KernelTier& tier) {
  constexpr size_t kIterations = 2'000'000;
  constexpr int kTries = 15;
  for (const PeakLoop& loop : peak_loops()) {
    if (std::strcmp(loop.tier, tier.name) != 0) continue;
    double best = 0;
    for (int i = 0; i < kTries; ++i) {
      const double start = cpu_seconds();
      loop.run(kIterations);
      best = std::max(best, static_cast<double>(kIterations * loop.instructions * loop.macs) / (cpu_seconds() - start));
    }
    return {loop.instruction, best};
  }
  return {"", 0};
}

}  // namespace packqvit
