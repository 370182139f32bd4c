#include <algorithm>

#include "kernels/reference/reference.h"

namespace packqvit::reference {
namespace {

// Octaves below the row's maximum, 10 fraction bits.
int32_t octaves(uint32_t distance, int32_t multiplier, int32_t shift) {
  const uint32_t t = shift >= 0 ? rshr(distance, static_cast<unsigned>(shift))
                                : std::min<uint32_t>(distance, 32768u >> -shift) << -shift;
  return mulhrs(static_cast<int32_t>(std::min<uint32_t>(t, 32767)), multiplier);
}

// Scores and biases of a model stay within int32; a delegate that is handed wilder scores must not trap on them.
int32_t wrapping_add(int32_t a, int32_t b) {
  return static_cast<int32_t>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
}

uint8_t log2_code(int32_t e, int32_t normaliser) {
  return static_cast<uint8_t>(std::min((e + normaliser + 512) >> 10, 15));
}

uint8_t linear_code(int32_t e) {
  const Exp2 x = split_exp2(std::min(e + kLargestCodeExponent, 32767));
  return x.n + 6 <= 15 ? static_cast<uint8_t>(rshr(x.mantissa, x.n + 6)) : uint8_t{0};
}

}  // namespace

// A row of biased scores and a row of octaves.
size_t softmax_scratch(size_t columns) { return columns * (sizeof(int32_t) + sizeof(int16_t)); }

void softmax_row(const SoftmaxParameters& parameters, const int32_t* x, const ScoreBias& bias, size_t columns,
                 uint8_t* output, void* scratch) {
  int32_t* biased = static_cast<int32_t*>(scratch);
  int16_t* e = reinterpret_cast<int16_t*>(biased + columns);
  if (bias) {
    for (size_t j = 0; j < columns; ++j) biased[j] = wrapping_add(x[j], bias[j]);
    x = biased;
  }
  int32_t maximum = x[0];
  for (size_t j = 1; j < columns; ++j) maximum = std::max(maximum, x[j]);
  for (size_t j = 0; j < columns; ++j) {
    const uint32_t distance = static_cast<uint32_t>(maximum) - static_cast<uint32_t>(x[j]);
    e[j] = static_cast<int16_t>(octaves(distance, parameters.multiplier, parameters.shift));
  }
  if (parameters.format == Probabilities::kLinear) {
    for (size_t j = 0; j < columns; ++j) output[j] = linear_code(e[j]);
    return;
  }
  uint32_t sum = 0;
  for (size_t j = 0; j < columns; ++j) sum += static_cast<uint32_t>(exp2_weight(e[j]));
  const int32_t normaliser = log2_of_sum(sum);
  for (size_t j = 0; j < columns; ++j) output[j] = log2_code(e[j], normaliser);
}

void softmax(const SoftmaxArguments& arguments, Range rows, void* scratch) {
  const size_t columns = arguments.columns;
  for (size_t row = rows.begin; row < rows.end; ++row) {
    const size_t head = row / arguments.rows_per_head;
    const ScoreBias bias =
        softmax_bias(arguments.softmax, head, row % arguments.rows_per_head, arguments.rows_per_head, columns);
    softmax_row(arguments.softmax, arguments.x + row * columns, bias, columns, arguments.output + row * columns,
                scratch);
  }
}

}  // namespace packqvit::reference
