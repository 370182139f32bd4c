// What the kernel benchmarks share. Each register_* adds the benchmarks of one tier to Google Benchmark's list.
#pragma once

#include <benchmark/benchmark.h>

#include <cstdint>
#include <random>
#include <vector>

#include "bench/peak.h"
#include "kernels/tier.h"

namespace packqvit {

// Counters of a benchmark that BestReporter prints; the JSON output has them too.
inline constexpr char kWorkRate[] = "work_per_second";
inline constexpr char kPeakRate[] = "peak_per_second";

void register_gemm(const KernelTier& tier, const Peak& peak);
void register_operators(const KernelTier& tier);

// Uniform and the same in every run.
template <typename T>
std::vector<T> random_numbers(size_t size, int32_t low, int32_t high) {
  std::mt19937 engine(1);
  std::uniform_int_distribution<int32_t> number(low, high);
  std::vector<T> result(size);
  for (T& element : result) element = static_cast<T>(number(engine));
  return result;
}

// A requantiser of `channels` channels from accumulators of about 2^`bits` to 8-bit codes.
class BenchRequantizer {
 public:
  BenchRequantizer(size_t channels, unsigned bits)
      : multiplier_(channels, 20000), shift_(channels, static_cast<uint8_t>(bits - 13)) {
    view.multiplier = multiplier_.data();
    view.shift = shift_.data();
    view.fraction_bits = 6;
    view.qmin = INT8_MIN;
    view.qmax = INT8_MAX;
  }
  BenchRequantizer(const BenchRequantizer&) = delete;
  BenchRequantizer& operator=(const BenchRequantizer&) = delete;

  Requantizer view;

 private:
  std::vector<int16_t> multiplier_;
  std::vector<uint8_t> shift_;
};

}  // namespace packqvit
