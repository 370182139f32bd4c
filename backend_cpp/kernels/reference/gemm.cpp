#include <algorithm>
#include <limits>

#include "kernels/reference/dot_tile.h"
#include "kernels/reference/reference.h"

namespace packqvit::reference {
namespace {

constexpr size_t kRowBlock = 32;  // amortises widening a panel to int16

// One panel's codes as int16 rows [nr][padded_k], undoing the interleaving by kr.
void widen_panel(const PackedWeights& weights, size_t panel, int16_t* out) {
  constexpr size_t kGroup = 16;
  const uint8_t* in = weights.panel(panel);
  const size_t stride = weights.padded_k;
  if (weights.bits == 8) {
    for (size_t k = 0; k < stride; k += kGroup) {
      for (size_t j = 0; j < kTileColumns; ++j, in += kGroup) {
        for (size_t i = 0; i < kGroup; ++i) out[j * stride + k + i] = static_cast<int8_t>(in[i]);
      }
    }
  } else {
    for (size_t k = 0; k < stride; k += 2 * kGroup) {
      for (size_t j = 0; j < kTileColumns; ++j, in += kGroup) {
        int16_t* row = out + j * stride + k;
        for (size_t i = 0; i < kGroup; ++i) {
          row[i] = static_cast<int16_t>(static_cast<int8_t>(in[i] << 4) >> 4);
          row[kGroup + i] = static_cast<int16_t>(static_cast<int8_t>(in[i]) >> 4);
        }
      }
    }
  }
}

void widen_row(const int8_t* in, size_t k, size_t padded_k, int16_t* out) {
  for (size_t i = 0; i < k; ++i) out[i] = in[i];
  std::fill(out + k, out + padded_k, int16_t{0});
}

template <Epilogue kEpilogue, typename Code>
void store_row(const GemmArguments& arguments, size_t row, size_t column, const int32_t* acc) {
  const Requantizer& requantizer = arguments.requantizer;
  const size_t n = arguments.weights->n;
  const size_t columns = std::min(kTileColumns, n - column);
  Code* output = static_cast<Code*>(arguments.output) + row * n + column;
  for (size_t j = 0; j < columns; ++j) {
    const size_t c = column + j;
    const int32_t sum = acc[j] + arguments.bias[c];
    if constexpr (kEpilogue == Epilogue::kAccumulate) {
      output[j] = sum;
    } else if constexpr (kEpilogue == Epilogue::kRequantize && sizeof(Code) == 1) {
      const int32_t code = requantizer(sum, c);
      output[j] = arguments.table != nullptr ? arguments.table[code + 128] : static_cast<Code>(code);
    } else {
      int32_t base = 0;  // of wide codes: the sum with no position
      if constexpr (kEpilogue == Epilogue::kAddResidual) {
        const int32_t code = static_cast<const Code*>(arguments.addend)[row * n + c];
        base = scale_residual(sizeof(Code) == 1 ? code * 256 : code, arguments.residual_multiplier[c]);
      } else if constexpr (kEpilogue == Epilogue::kAddPosition) {
        base = static_cast<const int16_t*>(arguments.addend)[row * n + c];
      }
      using Limits = std::numeric_limits<Code>;
      const int32_t steps = base + requantizer.scale(sum, c);
      output[j] = static_cast<Code>(requantizer.round(steps, Limits::min(), Limits::max()));
    }
  }
}

using StoreRow = void (*)(const GemmArguments&, size_t row, size_t column, const int32_t* acc);

StoreRow choose_store(const GemmArguments& arguments) {
  switch (arguments.epilogue) {
    case Epilogue::kAccumulate:
      return store_row<Epilogue::kAccumulate, int32_t>;
    case Epilogue::kAddResidual:
      return arguments.wide ? store_row<Epilogue::kAddResidual, int16_t> : store_row<Epilogue::kAddResidual, int8_t>;
    case Epilogue::kAddPosition:
      return arguments.wide ? store_row<Epilogue::kAddPosition, int16_t> : store_row<Epilogue::kAddPosition, int8_t>;
    case Epilogue::kRequantize:
      break;
  }
  return arguments.wide ? store_row<Epilogue::kRequantize, int16_t> : store_row<Epilogue::kRequantize, int8_t>;
}

size_t scratch_bytes(const PackedWeights& weights, size_t) {
  return (kRowBlock + kTileColumns) * weights.padded_k * sizeof(int16_t);
}

void run(const GemmArguments& arguments, Range rows, Range panels, void* scratch) {
  const PackedWeights& weights = *arguments.weights;
  const size_t stride = weights.padded_k;
  int16_t* a = static_cast<int16_t*>(scratch);
  int16_t* b = a + kRowBlock * stride;
  const StoreRow store = choose_store(arguments);
  for (size_t first = rows.begin; first < rows.end; first += kRowBlock) {
    const size_t count = std::min(kRowBlock, rows.end - first);
    for (size_t i = 0; i < count; ++i) {
      widen_row(arguments.x + (first + i) * weights.k, weights.k, stride, a + i * stride);
    }
    for (size_t panel = panels.begin; panel < panels.end; ++panel) {
      widen_panel(weights, panel, b);
      dot_panel(a, count, b, stride, stride,
                [&](size_t row, const int32_t* acc) { store(arguments, first + row, panel * kTileColumns, acc); });
    }
  }
}

}  // namespace

const GemmRoute& gemm_route() {
  static constexpr GemmRoute kRoute = {
      "portable",
      [](unsigned, CodeRange) { return true; },
      [] { return true; },
      {kTileRows, kTileColumns, /*kr=*/16},
      nullptr,
      scratch_bytes,
      run,
  };
  return kRoute;
}

}  // namespace packqvit::reference
