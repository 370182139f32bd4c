#pragma once

#include <executorch/runtime/core/evalue.h>
#include <executorch/runtime/core/event_tracer.h>
#include <executorch/runtime/core/result.h>
#include <executorch/runtime/core/span.h>

#include <memory>
#include <vector>

#include "src/plan/plan.h"
#include "src/row_chain.h"
#include "src/steps/step.h"

namespace packqvit {

// One loaded delegate: its steps, its arena and its scratch memory. execute() allocates nothing.
class Executor {
 public:
  // Checks the nodes of `plan`, packs their constants for `tier` and allocates. Runs on at most `threads` threads.
  // Needs `plan` only while it runs. Error as of CheckedPlan::visit_nodes(), or MemoryAllocationFailed.
  static executorch::runtime::Result<Executor> make(CheckedPlan& plan, const KernelTier& tier, size_t threads);

  // `arguments` are the delegate's inputs, then its outputs, which are read and written in place.
  // Error::InvalidArgument, with the reason in the log, for a tensor of another type or shape than the plan's.
  executorch::runtime::Error execute(executorch::runtime::Span<executorch::runtime::EValue*> arguments,
                                     executorch::runtime::EventTracer* tracer);

 private:
  // What an argument has to look like, and the value that takes its data.
  struct Argument {
    plan::DataType type;
    Shape shape;
    size_t value;
  };
  struct TracedStep {
    std::unique_ptr<Step> step;
    uint32_t debug_id;
  };

  // A step, or a chain of steps from this one on.
  struct Group {
    size_t first;
    RowChain chain;
  };

  Executor() = default;
  executorch::runtime::Error build_steps(CheckedPlan& plan, const KernelTier& tier, size_t threads);
  void group_steps(const CheckedPlan& plan, size_t threads);
  executorch::runtime::Error allocate_scratch(size_t threads);
  executorch::runtime::Error run_step(const TracedStep& traced, const Memory& memory) const;
  executorch::runtime::Error place_values(const CheckedPlan& plan);
  executorch::runtime::Error bind(const Argument& argument, const char* what, size_t index,
                                  executorch::runtime::EValue& tensor);

  std::unique_ptr<WeightMemory> weights_;
  std::vector<TracedStep> steps_;
  std::vector<Group> groups_;
  std::vector<Argument> inputs_;
  std::vector<Argument> outputs_;
  std::vector<void*> values_;
  AlignedArray<uint8_t> arena_;
  std::unique_ptr<ScratchPool> scratch_ = std::make_unique<ScratchPool>();
};

}  // namespace packqvit
