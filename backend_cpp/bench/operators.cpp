// Everything but matrix products, at the shapes of DeiT-Tiny. Work is counted in elements of the output; for attention
// in scores, each of which also stands for 128 multiply-accumulates.
#include <string>

#include "bench/bench.h"

namespace packqvit {
namespace {

constexpr size_t kTokens = 197;
constexpr size_t kChannels = 192;
constexpr size_t kHidden = 768;
constexpr AttentionShape kAttention = {3, kTokens, kTokens, 64};

// Scores of 8-bit codes have a deviation of some ten thousand: this multiplier brings them to a few octaves.
SoftmaxParameters softmax_parameters(Probabilities format) { return {nullptr, 0, 20000, 3, format}; }

void set_work(benchmark::State& state, size_t elements) {
  using benchmark::Counter;
  state.counters[kWorkRate] = Counter(static_cast<double>(elements), Counter::kIsIterationInvariantRate);
}

void run_softmax(benchmark::State& state, const KernelTier& tier, Probabilities format) {
  const size_t rows = kAttention.heads * kTokens;
  const auto x = random_numbers<int32_t>(rows * kTokens, -30000, 30000);
  std::vector<uint8_t> output(x.size());
  AlignedArray<uint8_t> scratch;
  if (!scratch.allocate(tier.softmax_scratch(kTokens))) return state.SkipWithError("no memory");
  const SoftmaxArguments arguments{x.data(), kTokens, kTokens, softmax_parameters(format), output.data()};
  for (auto _ : state) {
    tier.softmax(arguments, {0, rows}, scratch.data());
    benchmark::ClobberMemory();
  }
  set_work(state, output.size());
}

void run_attention(benchmark::State& state, const KernelTier& tier, Probabilities format) {
  const size_t size = kTokens * kChannels;
  const auto q = random_numbers<int8_t>(size, -100, 100);
  const auto k = random_numbers<int8_t>(size, -101, 101);
  const auto v = random_numbers<int8_t>(size, -102, 102);
  const BenchRequantizer requantizer(kChannels + 128, 19);
  std::vector<int8_t> output(size);
  AlignedArray<uint8_t> scratch;
  if (!scratch.allocate(tier.attention_scratch(kAttention, format))) return state.SkipWithError("no memory");
  const AttentionArguments arguments{kAttention,       q.data(),     k.data(), v.data(), softmax_parameters(format),
                                     requantizer.view, output.data()};
  for (auto _ : state) {
    for (size_t head = 0; head < kAttention.heads; ++head) {
      tier.attention(arguments, head, {0, kTokens}, scratch.data(), nullptr);
    }
    benchmark::ClobberMemory();
  }
  set_work(state, kAttention.heads * kTokens * kTokens);
}

void run_layer_norm(benchmark::State& state, const KernelTier& tier, bool wide) {
  const auto narrow_x = random_numbers<int8_t>(kTokens * kChannels, -128, 127);
  const auto wide_x = random_numbers<int16_t>(kTokens * kChannels, -20000, 20000);
  const std::vector<uint8_t> channel_shift(kChannels, 1);
  const auto weight = random_numbers<int16_t>(kChannels, 500, 1500);
  const auto bias = random_numbers<int32_t>(kChannels, -100000, 100000);
  std::vector<int8_t> output(kTokens * kChannels);
  LayerNormArguments arguments;
  arguments.x = wide ? static_cast<const void*>(wide_x.data()) : narrow_x.data();
  arguments.wide = wide;
  arguments.channels = kChannels;
  arguments.channel_shift = wide ? nullptr : channel_shift.data();
  arguments.weight = weight.data();
  arguments.bias = bias.data();
  arguments.epsilon = 1;
  arguments.output_shift = 16;
  arguments.qmin = INT8_MIN;
  arguments.qmax = INT8_MAX;
  arguments.output = output.data();
  for (auto _ : state) {
    tier.layer_norm(arguments, {0, kTokens});
    benchmark::ClobberMemory();
  }
  set_work(state, output.size());
}

void run_lookup_table(benchmark::State& state, const KernelTier& tier) {
  const auto x = random_numbers<int8_t>(kTokens * kHidden, -128, 127);
  const auto table = random_numbers<int8_t>(256, -128, 127);
  std::vector<int8_t> output(x.size());
  for (auto _ : state) {
    tier.lookup_table(x.data(), table.data(), output.data(), output.size());
    benchmark::ClobberMemory();
  }
  set_work(state, output.size());
}

}  // namespace

void register_operators(const KernelTier& tier) {
  const auto add = [&tier](const char* name, auto run) {
    benchmark::RegisterBenchmark((std::string(tier.name) + "/" + name).c_str(),
                                 [&tier, run](benchmark::State& state) { run(state, tier); });
  };
  using State = benchmark::State;
  using Tier = const KernelTier&;
  add("attention/log2", [](State& state, Tier t) { run_attention(state, t, Probabilities::kLog2); });
  add("attention/linear", [](State& state, Tier t) { run_attention(state, t, Probabilities::kLinear); });
  add("softmax/log2", [](State& state, Tier t) { run_softmax(state, t, Probabilities::kLog2); });
  add("softmax/linear", [](State& state, Tier t) { run_softmax(state, t, Probabilities::kLinear); });
  add("layer_norm/int16", [](State& state, Tier t) { run_layer_norm(state, t, true); });
  add("layer_norm/int8", [](State& state, Tier t) { run_layer_norm(state, t, false); });
  add("lookup_table", run_lookup_table);
}

}  // namespace packqvit
