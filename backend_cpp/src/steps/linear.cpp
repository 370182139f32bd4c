#include "src/steps/gemm.h"
#include "src/steps/row_step.h"

namespace packqvit {

using executorch::runtime::Error;

namespace {

Epilogue epilogue_of(const plan::Linear& op) {
  switch (op.epilogue()) {
    case plan::Epilogue::AddResidual:
      return Epilogue::kAddResidual;
    case plan::Epilogue::Accumulate:
      return Epilogue::kAccumulate;
    case plan::Epilogue::Requantize:
      break;
  }
  return Epilogue::kRequantize;
}

class LinearStep final : public RowStep {
 public:
  LinearStep(const BuildContext& context, const plan::Linear& op)
      : gemm_(context), x_(op.x()), output_(op.output()), residual_(op.residual()), range_(context.ranges[x_]) {
    const Value& x = context.plan.value(x_);
    rows_ = x.size() / x.last();
  }

  bool init(const BuildContext& context, const plan::Linear& op) {
    const Epilogue epilogue = epilogue_of(op);
    const auto* requantizer = epilogue == Epilogue::kAccumulate ? nullptr : op.requantizer();
    const bool wide = context.plan.value(output_).type == plan::DataType::Int16;
    return gemm_.init(
        context, {op.weight(), op.bias(), requantizer, op.residual_multiplier(), op.table(), epilogue, wide, range_},
        rows_);
  }

  size_t scratch_bytes() const override { return gemm_.scratch_bytes(); }

  Error run(const Memory& memory) const override { return gemm_.run(matrices(memory), rows_, memory.scratch); }

  size_t rows() const override { return rows_; }
  size_t row_multiple() const override { return gemm_.row_multiple(); }
  std::vector<uint32_t> operands() const override {
    if (residual_ < 0) return {x_, output_};
    return {x_, static_cast<uint32_t>(residual_), output_};
  }
  size_t weight_bytes() const override { return gemm_.weight_bytes(); }
  size_t row_scratch_bytes(size_t rows) const override { return gemm_.scratch_bytes(rows); }
  void run_rows(const Memory& memory, Range rows, void* scratch) const override {
    gemm_.run_rows(matrices(memory), rows, scratch);
  }

 private:
  Gemm::Matrices matrices(const Memory& memory) const {
    const void* residual = residual_ < 0 ? nullptr : memory.value<const void>(static_cast<uint32_t>(residual_));
    return {memory.value<const int8_t>(x_), residual, memory.value<void>(output_)};
  }

  Gemm gemm_;
  uint32_t x_;
  uint32_t output_;
  int32_t residual_;
  CodeRange range_;
  size_t rows_;
};

}  // namespace

StepResult make_step(const BuildContext& context, const plan::Linear& op) {
  auto step = std::make_unique<LinearStep>(context, op);
  if (!step->init(context, op)) return Error::MemoryAllocationFailed;
  return std::unique_ptr<Step>(std::move(step));
}

}  // namespace packqvit
