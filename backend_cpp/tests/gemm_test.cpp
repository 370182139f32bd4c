#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "tests/support/random.h"
#include "tests/support/tiers.h"
#include "tests/support/weights.h"

namespace packqvit {
namespace {

struct Case {
  size_t rows;
  size_t k;
  size_t n;
  unsigned bits;
  CodeRange range;
};

// All of int8, what the inner product form takes, and 4-bit codes.
const CodeRange kRanges[] = {{-128, 127}, {-121, 120}, {-8, 7}, {0, 15}};

class GemmTest : public TierTest {
 protected:
  // Every epilogue on one shape by every route that takes it, the work cut at random places.
  void check(Random& random, const Case& shape, bool extreme) {
    const int64_t limit = shape.bits == 8 ? 127 : 7;
    auto x = random.numbers<int8_t>(shape.rows * shape.k, shape.range.low, shape.range.high);
    auto weights = random.numbers<int8_t>(shape.n * shape.k, -limit, limit);
    auto bias = random.numbers<int32_t>(shape.n, -(1 << 20), 1 << 20);
    if (extreme) {
      for (int8_t& code : x) code = static_cast<int8_t>(shape.range.low);
      for (size_t i = 0; i < weights.size(); ++i) weights[i] = static_cast<int8_t>(i / shape.k % 2 ? limit : -limit);
      for (size_t c = 0; c < shape.n; ++c) bias[c] = c % 2 ? -(1 << 29) : 1 << 29;
    }
    std::vector<int64_t> acc(shape.rows * shape.n);
    for (size_t i = 0; i < shape.rows; ++i) {
      for (size_t o = 0; o < shape.n; ++o) {
        acc[i * shape.n + o] = bias[o];
        for (size_t k = 0; k < shape.k; ++k) {
          acc[i * shape.n + o] += int64_t{x[i * shape.k + k]} * weights[o * shape.k + k];
        }
      }
    }
    for (size_t i = 0; i < tier().gemm_route_count; ++i) {
      const GemmRoute& route = *tier().gemm_routes[i];
      if (!route.accepts(shape.bits, shape.range)) continue;
      SCOPED_TRACE(std::string(route.name) + ": " + std::to_string(shape.rows) + " x " + std::to_string(shape.k) +
                   " x " + std::to_string(shape.n) + ", " + std::to_string(shape.bits) + " bits");
      check_route(random, route, shape, x, weights, bias, acc);
      if (HasFatalFailure()) return;
    }
  }

  void check_route(Random& random, const GemmRoute& route, const Case& shape, const std::vector<int8_t>& x,
                   const std::vector<int8_t>& weights, const std::vector<int32_t>& bias,
                   const std::vector<int64_t>& acc) {
    int64_t largest = 1;
    for (const int64_t sum : acc) largest = std::max(largest, std::abs(sum));
    const int64_t room = 30 - naive::bitlen(static_cast<uint64_t>(largest));
    const int64_t bits = naive::bitlen(shape.k * 128 * (shape.bits == 8 ? 127 : 7));
    for (const bool wide : {false, true}) {
      // From outputs within an 8-bit grid to ones that only the addend brings back into a 16-bit one.
      const int64_t reach = random.number(0, 16);
      const naive::Requantizer plain = random.requantizer(shape.n, bits - reach, wide ? 0 : random.uniform(0, 6), room);
      const auto residual_multiplier = random.numbers<int16_t>(shape.n, 0, 32767);
      check_sums(random, route, shape, x, weights, bias, acc, plain, residual_multiplier, wide);
      if (HasFatalFailure()) return;
    }
  }

  // Every epilogue of a route; `wide`: those with 16-bit outputs.
  void check_sums(Random& random, const GemmRoute& route, const Case& shape, const std::vector<int8_t>& x,
                  const std::vector<int8_t>& weights, std::vector<int32_t> bias, const std::vector<int64_t>& acc,
                  naive::Requantizer plain, std::vector<int16_t> residual_multiplier, bool wide) {
    if (wide) {  // codes of a stream that begins with a linear have no other grid
      plain.zero_point = 0;
      plain.qmin = INT16_MIN;
      plain.qmax = INT16_MAX;
    }
    // Data at odd addresses: nothing may assume more than the element's alignment.
    std::vector<uint8_t> bytes = shape.bits == 8 ? to_bytes(weights) : to_nibbles(weights, shape.k);
    bytes.insert(bytes.begin(), 0);
    WeightMemory memory;
    PackedWeights packed;
    ASSERT_TRUE(pack_weights({bytes.data() + 1, shape.n, shape.k, shape.bits}, route.tile, memory, packed));
    bias.resize(round_up(shape.n, route.tile.nr));
    residual_multiplier.resize(bias.size());

    const PaddedRequantizer requantizer(plain);
    const auto narrow_residual = random.numbers<int8_t>(acc.size(), -128, 127);
    const auto wide_addend = random.numbers<int16_t>(acc.size(), -32768, 32767);
    const auto table = random.numbers<int8_t>(256, -128, 127);

    GemmArguments arguments;
    arguments.x = x.data();
    arguments.weights = &packed;
    arguments.requantizer = requantizer.view;
    arguments.residual_multiplier = residual_multiplier.data();
    arguments.wide = wide;
    if (wide) arguments.requantizer.qmin = arguments.requantizer.qmax = 0;  // a patch embedding has no range of its own

    std::vector<int8_t> narrow(acc.size());
    std::vector<int16_t> shorts(acc.size());
    arguments.output = wide ? static_cast<void*>(shorts.data()) : narrow.data();
    const auto output = [&](size_t i) { return wide ? int64_t{shorts[i]} : int64_t{narrow[i]}; };

    arguments.epilogue = Epilogue::kAddResidual;
    arguments.addend = wide ? static_cast<const void*>(wide_addend.data()) : narrow_residual.data();
    run(random, route, arguments, bias, shape);
    for (size_t i = 0; i < acc.size(); ++i) {
      const int64_t code = wide ? int64_t{wide_addend[i]} : int64_t{narrow_residual[i]};
      const size_t c = i % shape.n;
      ASSERT_EQ(output(i), plain.add_residual(acc[i], c, code, residual_multiplier[c], wide)) << "residual " << i;
    }
    const auto shorts_apart = shorts;
    const auto narrow_apart = narrow;
    shorts = wide_addend;
    narrow = narrow_residual;
    arguments.addend = arguments.output;
    run(random, route, arguments, bias, shape);
    ASSERT_TRUE(wide ? shorts == shorts_apart : narrow == narrow_apart) << "written over the residual";

    arguments.epilogue = Epilogue::kAddPosition;
    arguments.addend = wide_addend.data();
    run(random, route, arguments, bias, shape);
    for (size_t i = 0; i < acc.size(); ++i) {
      ASSERT_EQ(output(i), plain.add_position(acc[i], i % shape.n, wide_addend[i], wide)) << "position " << i;
    }

    arguments.epilogue = Epilogue::kRequantize;
    arguments.addend = nullptr;
    run(random, route, arguments, bias, shape);
    for (size_t i = 0; i < acc.size(); ++i) {
      ASSERT_EQ(output(i), plain.requantize(acc[i], i % shape.n)) << "requantize " << i;
    }

    if (wide) return;
    arguments.table = table.data();
    run(random, route, arguments, bias, shape);
    for (size_t i = 0; i < acc.size(); ++i) {
      ASSERT_EQ(output(i), table[static_cast<size_t>(plain.requantize(acc[i], i % shape.n) + 128)]) << "table " << i;
    }

    std::vector<int32_t> sums(acc.size());
    arguments.epilogue = Epilogue::kAccumulate;
    arguments.table = nullptr;
    arguments.output = sums.data();
    run(random, route, arguments, bias, shape);
    for (size_t i = 0; i < acc.size(); ++i) ASSERT_EQ(sums[i], acc[i]) << "accumulate " << i;
  }

  void run(Random& random, const GemmRoute& route, GemmArguments arguments, std::vector<int32_t> bias,
           const Case& shape) {
    const PackedWeights& weights = *arguments.weights;
    AlignedArray<int32_t> folded;
    ASSERT_TRUE(folded.allocate(bias.size()));
    std::copy(bias.begin(), bias.end(), folded.data());
    if (route.fold_bias != nullptr) {
      route.fold_bias(weights, arguments.epilogue, arguments.requantizer, folded.data());
    }
    arguments.bias = folded.data();
    const size_t row_tiles = divide_up(shape.rows, route.tile.mr);
    const size_t row =
        std::min(route.tile.mr * static_cast<size_t>(random.uniform(0, static_cast<int64_t>(row_tiles))), shape.rows);
    const size_t panel = static_cast<size_t>(random.uniform(0, static_cast<int64_t>(weights.panels())));
    for (const Range rows : {Range{row, shape.rows}, Range{0, row}}) {
      if (rows.begin == rows.end) continue;
      Scratch scratch(route.scratch(weights, rows.end - rows.begin));
      for (const Range columns : {Range{0, panel}, Range{panel, weights.panels()}}) {
        route.run(arguments, rows, columns, scratch.data());
      }
    }
  }
};

TEST_P(GemmTest, AgreesWithTheDefinitionAtOddShapes) {
  Random random(1);
  size_t next = 0;
  for (const size_t rows : {1, 2, 3, 31, 33, 67}) {
    for (const size_t k : {1, 3, 16, 17, 48, 95}) {
      for (const size_t n : {1, 3, 5, 12, 65}) {
        for (const unsigned bits : {4u, 8u}) check(random, {rows, k, n, bits, kRanges[next++ % 4]}, false);
      }
    }
  }
}

TEST_P(GemmTest, AgreesWithTheDefinitionAtEveryNumberOfRows) {
  Random random(4);
  for (size_t rows = 1; rows <= 26; ++rows) {
    for (const CodeRange& range : kRanges) {
      for (const unsigned bits : {4u, 8u}) check(random, {rows, 40, 70, bits, range}, false);
    }
  }
}

TEST_P(GemmTest, AgreesWithTheDefinitionAtModelShapes) {
  Random random(2);
  for (const unsigned bits : {4u, 8u}) {
    for (const CodeRange& range : kRanges) {
      check(random, {197, 192, 60, bits, range}, false);
      check(random, {9, 3072, 40, bits, range}, false);
    }
  }
}

TEST_P(GemmTest, TheLongestSumsOfExtremeCodesAreExact) {
  Random random(3);
  for (const unsigned bits : {4u, 8u}) {
    for (const CodeRange& range : kRanges) {
      for (const size_t k : {4096, 16384}) {
        check(random, {3, k, 9, bits, range}, true);
        check(random, {3, k, 9, bits, {-range.high - 1, range.high}}, true);
      }
    }
  }
}

// Accumulators of any size, which come from the bias, beside residuals and positions of the other sign.
TEST_P(GemmTest, OnlyTheSumSaturates) {
  Random random(5);
  const std::vector<int64_t> sums = {0, 1, 16384, 32766, 32767, 32768, 40000, 65535, 65536, 131071, 131072, 1 << 29};
  const std::vector<int16_t> multipliers = {1 << 14, 23170, (1 << 15) - 1};
  const std::vector<int16_t> residual_multipliers = {32767, 32766, 32765, 16384, 1, 0};
  const Case shape = {7, 5, 71, 8, {-128, 127}};
  for (int repeat = 0; repeat < 40; ++repeat) {
    std::vector<int32_t> bias(shape.n);
    naive::Requantizer plain = random.requantizer(shape.n, 0, 0);
    for (size_t c = 0; c < shape.n; ++c) {
      const int64_t sum = sums[static_cast<size_t>(random.uniform(0, 11))] * (random.uniform(0, 1) == 0 ? 1 : -1);
      bias[c] = static_cast<int32_t>(sum);
      plain.multiplier[c] = multipliers[static_cast<size_t>(random.uniform(0, 2))];
      plain.shift[c] = static_cast<uint8_t>(std::abs(sum) > 1 << 17 ? random.uniform(12, 15) : random.uniform(0, 1));
    }
    std::vector<int64_t> acc;
    for (size_t i = 0; i < shape.rows; ++i) acc.insert(acc.end(), bias.begin(), bias.end());
    const std::vector<int8_t> x(shape.rows * shape.k);
    const auto weights = random.numbers<int8_t>(shape.n * shape.k, -127, 127);
    std::vector<int16_t> residual_multiplier(shape.n);
    for (int16_t& m : residual_multiplier) m = residual_multipliers[static_cast<size_t>(random.uniform(0, 5))];
    for (size_t i = 0; i < tier().gemm_route_count; ++i) {
      const GemmRoute& route = *tier().gemm_routes[i];
      if (!route.accepts(shape.bits, shape.range)) continue;
      SCOPED_TRACE(route.name);
      for (const bool wide : {false, true}) {
        plain.fraction_bits = wide ? 0 : random.number(0, 6);
        check_sums(random, route, shape, x, weights, bias, acc, plain, residual_multiplier, wide);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(GemmTest, TheLastRouteTakesEverything) {
  const GemmRoute& last = *tier().gemm_routes[tier().gemm_route_count - 1];
  EXPECT_TRUE(last.pays());
  for (const unsigned bits : {4u, 8u}) EXPECT_TRUE(last.accepts(bits, {-128, 127}));
}

INSTANTIATE_TEST_SUITE_P(Tiers, GemmTest, every_kernel_tier(), tier_name);

}  // namespace
}  // namespace packqvit
