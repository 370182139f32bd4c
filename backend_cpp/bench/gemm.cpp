#include <memory>
#include <string>

#include "bench/bench.h"
#if defined(__aarch64__)
#include "comparison/two_in_lane.h"
#include "kernels/neon/neon.h"
#endif

namespace packqvit {
namespace {

constexpr size_t kRows = 197;  // tokens of a 224 x 224 image in patches of 16 x 16, and the class token

struct Shape {
  size_t k;
  size_t n;
};

// qkv, one of its thirds, and the two layers of the MLP, of DeiT-Tiny, Small and Base.
constexpr Shape kShapes[] = {{192, 576},  {192, 192},  {192, 768},  {768, 192},  {384, 1152},
                             {384, 1536}, {1536, 384}, {768, 2304}, {768, 3072}, {3072, 768}};

struct Preset {
  const char* name;
  unsigned weight_bits;
  CodeRange x;
};

constexpr Preset kPresets[] = {{"W8A8", 8, {-128, 127}}, {"W4A8", 4, {-121, 120}}, {"W4A4", 4, {-8, 7}}};

std::vector<uint8_t> random_weights(const Shape& shape, unsigned bits) {
  if (bits == 8) return random_numbers<uint8_t>(shape.n * shape.k, -127, 127);
  const auto low = random_numbers<uint8_t>(shape.n * shape.k / 2, -7, 7);
  const auto high = random_numbers<uint8_t>(low.size(), -7, 7);
  std::vector<uint8_t> bytes(low.size());
  for (size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = static_cast<uint8_t>((low[i] & 15) | high[low.size() - 1 - i] << 4);
  return bytes;
}

// One call with its requantising epilogue, as a delegate of one thread makes it.
void run_gemm(benchmark::State& state, const GemmRoute& route, const Preset& preset, const Shape& shape,
              double peak_macs_per_second) {
  const std::vector<uint8_t> codes = random_weights(shape, preset.weight_bits);
  const auto x = random_numbers<int8_t>(kRows * shape.k, preset.x.low, preset.x.high);
  const size_t channels = round_up(shape.n, route.tile.nr);
  const BenchRequantizer requantizer(channels, preset.weight_bits + (preset.x.high > 7 ? 12u : 8u));
  std::vector<int8_t> output(kRows * shape.n);
  WeightMemory memory(codes.size());
  PackedWeights weights;
  AlignedArray<int32_t> bias;
  AlignedArray<uint8_t> scratch;
  if (!pack_weights({codes.data(), shape.n, shape.k, preset.weight_bits}, route.tile, memory, weights) ||
      !bias.allocate(channels) || !scratch.allocate(route.scratch(weights, kRows))) {
    state.SkipWithError("no memory");
    return;
  }
  std::fill_n(bias.data(), channels, 0);
  if (route.fold_bias != nullptr) route.fold_bias(weights, Epilogue::kRequantize, requantizer.view, bias.data());

  GemmArguments arguments;
  arguments.x = x.data();
  arguments.weights = &weights;
  arguments.bias = bias.data();
  arguments.requantizer = requantizer.view;
  arguments.output = output.data();
  for (auto _ : state) {
    route.run(arguments, {0, kRows}, {0, weights.panels()}, scratch.data());
    benchmark::ClobberMemory();
  }
  using benchmark::Counter;
  const double macs = static_cast<double>(kRows * shape.k * shape.n);
  state.counters[kWorkRate] = Counter(macs, Counter::kIsIterationInvariantRate);
  if (peak_macs_per_second > 0) state.counters[kPeakRate] = Counter(peak_macs_per_second);
}

// The routes of a tier, and those to compare them with.
std::vector<const GemmRoute*> routes_of(const KernelTier& tier) {
  std::vector<const GemmRoute*> routes(tier.gemm_routes, tier.gemm_routes + tier.gemm_route_count);
#if defined(__aarch64__)
  if (&tier == &neon::tier()) routes.push_back(&comparison::two_in_lane_route());
#endif
  return routes;
}

}  // namespace

void register_gemm(const KernelTier& tier, const Peak& peak) {
  for (const Preset& preset : kPresets) {
    for (const GemmRoute* one : routes_of(tier)) {
      const GemmRoute& route = *one;
      if (!route.accepts(preset.weight_bits, preset.x)) continue;
      for (const Shape& shape : kShapes) {
        const std::string name = std::string(tier.name) + "/gemm " + route.name + "/" + preset.name + "/" +
                                 std::to_string(shape.k) + "x" + std::to_string(shape.n);
        benchmark::RegisterBenchmark(name.c_str(), [&route, &preset, &shape, peak](benchmark::State& state) {
          run_gemm(state, route, preset, shape, peak.macs_per_second);
        });
      }
    }
  }
}

}  // namespace packqvit
