// Every kernel of every tier that this CPU supports, on one thread. Takes Google Benchmark's options, for example
//   packqvit_kernel_bench --benchmark_filter='avx512.*/W4A4/' --benchmark_out=kernels.json
// A GEMM's work is multiply-accumulates, against the rate that the tier's dot product instruction reaches on its own,
// measured at the start. See docs/benchmarks.md.

#include <cstdio>
#include <string>
#include <vector>

#include "bench/bench.h"
#include "bench/best_reporter.h"

int main(int count, char** words) {
  std::string min_time = "--benchmark_min_time=0.02";
  std::string repetitions = "--benchmark_repetitions=9";
  std::vector<char*> arguments = {words[0], min_time.data(), repetitions.data()};
  arguments.insert(arguments.end(), words + 1, words + count);  // the last one given counts
  int argument_count = static_cast<int>(arguments.size());
  arguments.push_back(nullptr);
  benchmark::Initialize(&argument_count, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(argument_count, arguments.data())) return 1;

  for (const packqvit::KernelTier* tier : packqvit::all_tiers()) {
    if (!tier->is_supported()) continue;
    const packqvit::Peak peak = packqvit::measure_peak(*tier);
    if (peak.macs_per_second > 0) {
      std::printf("%s: peak %.1f GMAC/s (%s)\n", tier->name, peak.macs_per_second / 1e9, peak.instruction);
    }
    packqvit::register_gemm(*tier, peak);
    packqvit::register_operators(*tier);
  }
  packqvit::BestReporter reporter;
  benchmark::RunSpecifiedBenchmarks(&reporter);
  return 0;
}
