#include "src/steps/relative_bias.h"
#include "src/steps/step.h"

namespace packqvit {

using executorch::runtime::Error;

namespace {

class AddRelativeBiasStep final : public Step {
 public:
  AddRelativeBiasStep(const BuildContext& context, const plan::AddRelativeBias& op)
      : threads_(context.threads), x_(op.x()), q_(op.q()), output_(op.output()) {
    const Value& scores = context.plan.value(x_);
    batch_ = scores.dim(0);
    shape_ = {scores.dim(1), scores.dim(2), scores.dim(3), context.plan.value(q_).last() / scores.dim(1)};
  }

  bool init(const BuildContext& context, const plan::AddRelativeBias& op) {
    return relative_.init(context.plan, *op.relative(), context.tier, shape_);
  }

  size_t scratch_bytes() const override { return relative_.scratch_bytes(); }

  Error run(const Memory& memory) const override {
    const size_t parts = divide_up(shape_.queries, relative_.block());
    const size_t matrix = shape_.queries * shape_.keys;
    return parallel_tasks(batch_ * shape_.heads * parts, threads_, [&](size_t task) {
      const ScratchPool::Lease lease(memory.scratch);
      const size_t head = task / parts;
      const Range queries = part_of(shape_.queries, parts, task % parts);
      const int8_t* q =
          memory.value<const int8_t>(q_) + head / shape_.heads * shape_.queries * shape_.heads * shape_.head_size;
      const ScoreBias scores = memory.value<const int32_t>(x_) + head * matrix;
      relative_.write(q, head % shape_.heads, queries, scores,
                      memory.value<int32_t>(output_) + head * matrix + queries.begin * shape_.keys, lease.data());
    });
  }

 private:
  size_t threads_;
  uint32_t x_;
  uint32_t q_;
  uint32_t output_;
  size_t batch_;
  AttentionShape shape_;
  RelativeBias relative_;
};

}  // namespace

StepResult make_step(const BuildContext& context, const plan::AddRelativeBias& op) {
  auto step = std::make_unique<AddRelativeBiasStep>(context, op);
  if (!step->init(context, op)) return Error::MemoryAllocationFailed;
  return std::unique_ptr<Step>(std::move(step));
}

}  // namespace packqvit
