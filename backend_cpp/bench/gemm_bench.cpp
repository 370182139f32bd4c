// Multiply-accumulates per second of every tier's GEMM, with its requantising epilogue, on one thread.
// usage: packqvit_gemm_bench [ROWS K N]...      without arguments: the shapes of DeiT-tiny, small and base

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <vector>

#include "kernels/tier.h"

namespace packqvit {
namespace {

struct Shape {
  size_t rows;
  size_t k;
  size_t n;
};

// CPU time, which other processes of the machine do not count into.
double seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

// Best of several repetitions, in 1e9 multiply-accumulates per second.
double measure(const KernelTier& tier, const Shape& shape, unsigned bits) {
  const std::vector<uint8_t> codes(shape.n * ((shape.k * bits + 7) / 8), 0x31);
  const std::vector<int8_t> x(shape.rows * shape.k, 77);
  const size_t channels = round_up(shape.n, tier.tile.nr);
  const std::vector<int32_t> bias(channels, 1234);
  const std::vector<int16_t> multiplier(channels, 20000);
  const std::vector<uint8_t> shift(channels, 9);
  std::vector<int8_t> output(shape.rows * shape.n);
  PackedWeights weights;
  AlignedArray<uint8_t> scratch;
  if (!pack_weights({codes.data(), shape.n, shape.k, bits}, tier.tile, weights) ||
      !scratch.allocate(tier.gemm_scratch(weights))) {
    return 0;
  }
  GemmArguments arguments;
  arguments.x = x.data();
  arguments.weights = &weights;
  arguments.bias = bias.data();
  arguments.requantizer = {multiplier.data(), shift.data(), 6, 3, -128, 127};
  arguments.output = output.data();
  double best = 0;
  for (int repeat = 0; repeat < 7; ++repeat) {
    const double start = seconds();
    size_t runs = 0;
    do {
      tier.gemm(arguments, {0, shape.rows}, {0, weights.panels()}, scratch.data());
      ++runs;
    } while (seconds() - start < 0.02);
    const double macs = static_cast<double>(runs * shape.rows * shape.k * shape.n);
    best = std::max(best, macs / (seconds() - start) / 1e9);
  }
  return best;
}

}  // namespace
}  // namespace packqvit

int main(int count, char** words) {
  std::vector<packqvit::Shape> shapes;
  for (int i = 1; i + 2 < count; i += 3) {
    shapes.push_back({std::strtoull(words[i], nullptr, 10), std::strtoull(words[i + 1], nullptr, 10),
                      std::strtoull(words[i + 2], nullptr, 10)});
  }
  if (shapes.empty())
    shapes = {{197, 192, 576}, {197, 192, 768}, {197, 768, 192}, {197, 384, 1536}, {197, 768, 3072}, {197, 3072, 768}};
  for (const packqvit::KernelTier* tier : packqvit::all_tiers()) {
    if (!tier->is_supported()) continue;
    for (const packqvit::Shape& shape : shapes) {
      std::printf("%-12s %4zu x %4zu x %4zu  %6.1f GMAC/s 8 bits  %6.1f GMAC/s 4 bits\n", tier->name, shape.rows,
                  shape.k, shape.n, packqvit::measure(*tier, shape, 8), packqvit::measure(*tier, shape, 4));
    }
  }
  return 0;
}
