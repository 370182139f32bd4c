#include "src/steps/gemm.h"

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

class LinearStep final : public Step {
 public:
  LinearStep(const BuildContext& context, const plan::Linear& op)
      : gemm_(context), x_(op.x()), output_(op.output()), residual_(op.residual()), range_(context.ranges[x_]) {
    const Value& x = context.plan.value(x_);
    rows_ = x.size() / x.last();
  }

  bool init(const CheckedPlan& plan, const plan::Linear& op) {
    const Epilogue epilogue = epilogue_of(op);
    const auto* requantizer = epilogue == Epilogue::kAccumulate ? nullptr : op.requantizer();
    const bool wide = plan.value(output_).type == plan::DataType::Int16;
    return gemm_.init(
        plan, {op.weight(), op.bias(), requantizer, op.residual_multiplier(), op.table(), epilogue, wide, range_},
        rows_);
  }

  size_t scratch_bytes() const override { return gemm_.scratch_bytes(); }

  Error run(const Memory& memory) const override {
    const void* addend = residual_ < 0 ? nullptr : memory.value<const void>(static_cast<uint32_t>(residual_));
    return gemm_.run(memory.value<const int8_t>(x_), rows_, addend, memory.value<void>(output_), memory.scratch);
  }

 private:
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
  if (!step->init(context.plan, op)) return Error::MemoryAllocationFailed;
  return std::unique_ptr<Step>(std::move(step));
}

}  // namespace packqvit
