#pragma once

#include "src/steps/requantizer.h"
#include "src/steps/step.h"

namespace packqvit {

// Packed weights with their channel vectors, and the way the work is cut: what linear and patch embedding share.
class Gemm {
 public:
  explicit Gemm(const BuildContext& context) : tier_(context.tier), threads_(context.threads) {}

  // Constants of the plan, -1 or nullptr where there is none, and what x can hold.
  struct Operands {
    int32_t weight;
    int32_t bias;
    const plan::Requantizer* requantizer;
    int32_t residual_multiplier;
    int32_t table;
    Epilogue epilogue;
    bool wide;
    CodeRange x;
  };

  // Packs the constants for products of up to `rows` rows. False when there is no memory.
  [[nodiscard]] bool init(const BuildContext& context, const Operands& operands, size_t rows);

  size_t scratch_bytes() const;
  size_t scratch_bytes(size_t rows) const { return route_->scratch(weights_, rows); }  // of run_rows()
  size_t row_multiple() const { return route_->tile.mr; }
  size_t weight_bytes() const { return weights_.bytes(); }

  // x [rows, k], addend [rows, n] or nullptr, output [rows, n] = epilogue(x * weights + bias, addend).
  struct Matrices {
    const int8_t* x;
    const void* addend;
    void* output;
  };

  // All rows, on the thread pool.
  executorch::runtime::Error run(const Matrices& matrices, size_t rows, ScratchPool& scratch) const;

  // Some rows, from a multiple of row_multiple() on, on this thread.
  void run_rows(const Matrices& matrices, Range rows, void* scratch) const {
    route_->run(arguments(matrices), rows, {0, weights_.panels()}, scratch);
  }

 private:
  // How the work is cut: `row_parts` times `panel_parts` tasks.
  struct Cut {
    size_t row_tiles;
    size_t row_parts;
    size_t panel_parts;
  };
  Cut cut(size_t rows) const;
  GemmArguments arguments(const Matrices& matrices) const;

  const KernelTier& tier_;
  size_t threads_;
  const GemmRoute* route_ = nullptr;
  size_t rows_ = 0;
  Epilogue epilogue_ = Epilogue::kRequantize;
  bool wide_ = false;
  PackedWeights weights_;
  AlignedArray<int32_t> bias_;
  OwnedRequantizer requantizer_;
  AlignedArray<int16_t> residual_multiplier_;
  AlignedArray<int8_t> table_;
};

}  // namespace packqvit
