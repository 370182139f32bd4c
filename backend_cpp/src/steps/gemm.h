#pragma once

#include "src/steps/requantizer.h"
#include "src/steps/step.h"

namespace packqvit {

// Packed weights with their channel vectors, and the way the work is cut: what linear and patch embedding share.
class Gemm {
 public:
  explicit Gemm(const BuildContext& context) : tier_(context.tier), threads_(context.threads) {}

  // Packs the constants. False when there is no memory. `requantizer` may be nullptr (accumulate only), and
  // `residual_multiplier` is -1 where there is no residual.
  [[nodiscard]] bool init(const CheckedPlan& plan, int32_t weight, int32_t bias, const plan::Requantizer* requantizer,
                          int32_t residual_multiplier, Epilogue epilogue, bool wide);

  size_t scratch_bytes() const { return tier_.gemm_scratch(weights_); }

  // output[rows, n] = epilogue(x[rows, k] * weights + bias, addend[rows, n]).
  executorch::runtime::Error run(const int8_t* x, size_t rows, const void* addend, void* output,
                                 ScratchPool& scratch) const;

 private:
  const KernelTier& tier_;
  size_t threads_;
  Epilogue epilogue_ = Epilogue::kRequantize;
  bool wide_ = false;
  PackedWeights weights_;
  AlignedArray<int32_t> bias_;
  OwnedRequantizer requantizer_;
  AlignedArray<int16_t> residual_multiplier_;
};

}  // namespace packqvit
