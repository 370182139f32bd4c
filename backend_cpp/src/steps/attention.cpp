#include "src/steps/requantizer.h"
#include "src/steps/step.h"

namespace packqvit {

using executorch::runtime::Error;

namespace {

// Cuts [heads of all images] x [queries] into tasks. A head is cut only where there are fewer heads than parts: each
// part of a head prepares the same keys or values again.
template <typename Work>
Error run_heads(size_t heads, size_t queries, size_t threads, ScratchPool& scratch, const Work& work) {
  const size_t parts = divide_up(part_count(heads * queries, threads), heads);
  return parallel_tasks(heads * parts, [&](size_t task) {
    const ScratchPool::Lease lease(scratch);
    work(task / parts, part_of(queries, parts, task % parts), lease.data());
  });
}

class AttentionScoresStep final : public Step {
 public:
  AttentionScoresStep(const BuildContext& context, const plan::AttentionScores& op)
      : tier_(context.tier), threads_(context.threads), q_(op.q()), k_(op.k()), output_(op.output()) {
    const Value& scores = context.plan.value(output_);
    batch_ = scores.dim(0);
    shape_ = {scores.dim(1), scores.dim(2), scores.dim(3), context.plan.value(q_).last() / scores.dim(1)};
  }

  size_t scratch_bytes() const override { return tier_.attention_scratch(shape_); }

  Error run(const Memory& memory) const override {
    const AttentionScoresArguments arguments{shape_, memory.value<const int8_t>(q_), memory.value<const int8_t>(k_),
                                             memory.value<int32_t>(output_)};
    return run_heads(
        batch_ * shape_.heads, shape_.queries, threads_, memory.scratch,
        [&](size_t head, Range queries, void* scratch) { tier_.attention_scores(arguments, head, queries, scratch); });
  }

 private:
  const KernelTier& tier_;
  size_t threads_;
  uint32_t q_;
  uint32_t k_;
  uint32_t output_;
  size_t batch_;
  AttentionShape shape_;
};

class AttentionValuesStep final : public Step {
 public:
  AttentionValuesStep(const BuildContext& context, const plan::AttentionValues& op)
      : tier_(context.tier),
        threads_(context.threads),
        probabilities_(op.probabilities()),
        v_(op.v()),
        output_(op.output()),
        format_(op.format() == plan::ProbabilityFormat::Log2 ? Probabilities::kLog2 : Probabilities::kLinear) {
    const Value& p = context.plan.value(probabilities_);
    batch_ = p.dim(0);
    shape_ = {p.dim(1), p.dim(2), p.dim(3), context.plan.value(v_).last() / p.dim(1)};
  }

  bool init(const CheckedPlan& plan, const plan::AttentionValues& op) {
    return requantizer_.init(plan, *op.requantizer(), shape_.heads * shape_.head_size);
  }

  size_t scratch_bytes() const override { return tier_.attention_scratch(shape_); }

  Error run(const Memory& memory) const override {
    const AttentionValuesArguments arguments{shape_,
                                             format_,
                                             memory.value<const uint8_t>(probabilities_),
                                             memory.value<const int8_t>(v_),
                                             requantizer_.view(),
                                             memory.value<int8_t>(output_)};
    return run_heads(
        batch_ * shape_.heads, shape_.queries, threads_, memory.scratch,
        [&](size_t head, Range queries, void* scratch) { tier_.attention_values(arguments, head, queries, scratch); });
  }

 private:
  const KernelTier& tier_;
  size_t threads_;
  uint32_t probabilities_;
  uint32_t v_;
  uint32_t output_;
  Probabilities format_;
  size_t batch_;
  AttentionShape shape_;
  OwnedRequantizer requantizer_;
};

}  // namespace

StepResult make_step(const BuildContext& context, const plan::AttentionScores& op) {
  return std::unique_ptr<Step>(std::make_unique<AttentionScoresStep>(context, op));
}

StepResult make_step(const BuildContext& context, const plan::AttentionValues& op) {
  auto step = std::make_unique<AttentionValuesStep>(context, op);
  if (!step->init(context.plan, op)) return Error::MemoryAllocationFailed;
  return std::unique_ptr<Step>(std::move(step));
}

}  // namespace packqvit
