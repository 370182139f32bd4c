#pragma once

#include <benchmark/benchmark.h>

namespace packqvit {

// One line for each benchmark: the best of its repetitions, in work for each second of CPU time, and its share of the
// peak where there is one. The best is what the code can do; other repetitions were disturbed.
class BestReporter final : public benchmark::BenchmarkReporter {
 public:
  bool ReportContext(const Context&) override;
  void ReportRuns(const std::vector<Run>& repetitions) override;
};

}  // namespace packqvit
