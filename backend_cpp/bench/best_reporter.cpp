#include "bench/best_reporter.h"

#include <algorithm>
#include <cstdio>

#include "bench/bench.h"

namespace packqvit {

bool BestReporter::ReportContext(const Context&) {
  std::printf("%-48s %12s %10s\n", "kernel", "10^9/s", "% of peak");
  return true;
}

void BestReporter::ReportRuns(const std::vector<Run>& repetitions) {
  double best = 0;
  double peak = 0;
  for (const Run& run : repetitions) {
    if (run.error_occurred) {
      std::printf("%-48s %s\n", run.benchmark_name().c_str(), run.error_message.c_str());
      return;
    }
    if (run.run_type != Run::RT_Iteration) return;  // Google Benchmark's own means and medians come apart
    best = std::max(best, run.counters.at(kWorkRate).value);
    if (const auto found = run.counters.find(kPeakRate); found != run.counters.end()) peak = found->second.value;
  }
  std::printf("%-48s %12.2f", repetitions.front().run_name.function_name.c_str(), best / 1e9);
  if (peak > 0) std::printf(" %10.1f", 100 * best / peak);
  std::printf("\n");
  std::fflush(stdout);
}

}  // namespace packqvit
