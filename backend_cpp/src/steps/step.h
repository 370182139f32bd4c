// A step executes one node of the plan: everything that depends on the plan alone is done when it is made.
#pragma once

#include <executorch/runtime/core/error.h>
#include <executorch/runtime/core/event_tracer.h>
#include <executorch/runtime/core/result.h>

#include <memory>
#include <vector>

#include "kernels/tier.h"
#include "src/parallel.h"
#include "src/plan/plan.h"
#include "src/steps/weight_packer.h"

namespace packqvit {

struct BuildContext {
  const CheckedPlan& plan;
  const KernelTier& tier;
  size_t threads;
  const std::vector<CodeRange>& ranges;  // of the plan's values, as far as nodes in front write them
  WeightPacker& packer;                  // into memory that outlives the steps
};

// Where the values lie during one execution.
struct Memory {
  void* const* values;
  ScratchPool& scratch;
  executorch::runtime::EventTracer* tracer;  // nullptr where nothing is traced

  template <typename T>
  T* value(uint32_t index) const {
    return static_cast<T*>(values[index]);
  }
};

class RowStep;

class Step {
 public:
  virtual ~Step() = default;

  virtual const RowStep* as_row_step() const { return nullptr; }

  // Scratch memory for one task.
  virtual size_t scratch_bytes() const { return 0; }

  virtual executorch::runtime::Error run(const Memory& memory) const = 0;

  // Whether run() itself logs the events of its operators.
  virtual bool traces_itself() const { return false; }
};

using StepResult = executorch::runtime::Result<std::unique_ptr<Step>>;

StepResult make_step(const BuildContext& context, const plan::Quantize& op);
StepResult make_step(const BuildContext& context, const plan::Dequantize& op);
StepResult make_step(const BuildContext& context, const plan::Linear& op);
StepResult make_step(const BuildContext& context, const plan::PatchEmbedding& op);
StepResult make_step(const BuildContext& context, const plan::AttentionScores& op);
StepResult make_step(const BuildContext& context, const plan::Softmax& op);
StepResult make_step(const BuildContext& context, const plan::AttentionValues& op);
StepResult make_step(const BuildContext& context, const plan::Attention& op, const plan::Node& node);
StepResult make_step(const BuildContext& context, const plan::LayerNorm& op);
StepResult make_step(const BuildContext& context, const plan::LookupTable& op);
StepResult make_step(const BuildContext& context, const plan::SelectTokens& op);
StepResult make_step(const BuildContext& context, const plan::MeanTokens& op);
StepResult make_step(const BuildContext& context, const plan::PixelCodes& op);
StepResult make_step(const BuildContext& context, const plan::TopK& op);
StepResult make_step(const BuildContext& context, const plan::TakeScores& op);
StepResult make_step(const BuildContext& context, const plan::HeadNorm& op);
StepResult make_step(const BuildContext& context, const plan::Rotate& op);
StepResult make_step(const BuildContext& context, const plan::Multiply& op);
StepResult make_step(const BuildContext& context, const plan::AddRelativeBias& op);
StepResult make_step(const BuildContext& context, const plan::Requantize& op);
StepResult make_step(const BuildContext& context, const plan::MaxTokens& op);
StepResult make_step(const BuildContext& context, const plan::RequantizeAdd& op);
StepResult make_step(const BuildContext& context, const plan::RepeatTokens& op);
StepResult make_step(const BuildContext& context, const plan::JoinTokens& op);

// The step of a node, whatever its operator.
StepResult make_step(const BuildContext& context, const plan::Node& node);

}  // namespace packqvit
