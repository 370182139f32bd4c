#include "src/executor.h"

#include <executorch/runtime/core/event_tracer_hooks_delegate.h>
#include <executorch/runtime/core/exec_aten/util/scalar_type_util.h>
#include <executorch/runtime/core/exec_aten/util/tensor_util.h>
#include <executorch/runtime/platform/log.h>

#include <algorithm>
#include <utility>

#include "src/plan/code_ranges.h"

namespace packqvit {

using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::EventTracer;
using executorch::runtime::Result;
using executorch::runtime::Span;

namespace {

ScalarType scalar_type(plan::DataType type) {
  switch (type) {
    case plan::DataType::Int8:
      return ScalarType::Char;
    case plan::DataType::UInt8:
      return ScalarType::Byte;
    case plan::DataType::Int16:
      return ScalarType::Short;
    case plan::DataType::Int32:
      return ScalarType::Int;
    case plan::DataType::Float32:
      break;
  }
  return ScalarType::Float;
}

bool has_shape(const Tensor& tensor, const Shape& shape) {
  return std::equal(tensor.sizes().begin(), tensor.sizes().end(), shape.begin(), shape.end(),
                    [](auto size, size_t dimension) { return static_cast<size_t>(size) == dimension; });
}

// What the weight matrices take in the plan; packed, they are padded besides.
size_t weight_bytes(const CheckedPlan& plan) {
  size_t bytes = 0;
  const size_t count = plan.plan().constants() != nullptr ? plan.plan().constants()->size() : 0;
  for (size_t i = 0; i < count; ++i) {
    const Constant& constant = plan.constant(static_cast<int32_t>(i));
    if (constant.shape.size() != 2 || constant.type != plan::DataType::Int8) continue;
    bytes += constant.encoding == plan::Encoding::Nibbles ? divide_up(constant.size(), 2) : constant.size();
  }
  return bytes;
}

// The nodes that use each value: [first, last + 1).
std::vector<Range> lives_of(const CheckedPlan& plan) {
  std::vector<Range> lives(plan.values().size(), Range{0, 0});
  const auto use = [&](size_t value, size_t node) {
    lives[value] = {lives[value].end == 0 ? node : lives[value].begin, node + 1};
  };
  for (size_t node = 0; node < plan.uses().size(); ++node) {
    for (const size_t value : plan.uses()[node].reads) use(value, node);
    use(plan.uses()[node].write, node);
  }
  return lives;
}

std::string shape_of(const Tensor& tensor) { return to_string(Shape(tensor.sizes().begin(), tensor.sizes().end())); }

}  // namespace

Result<Executor> Executor::make(CheckedPlan& plan, const KernelTier& tier, size_t threads) {
  Executor executor;
  Error error = executor.build_steps(plan, tier, threads);
  if (error == Error::Ok) error = executor.place_values(plan);
  if (error == Error::Ok) error = executor.allocate_scratch(threads);
  if (error != Error::Ok) return error;
  return executor;
}

Error Executor::place_values(const CheckedPlan& plan) {
  const size_t arena_size = static_cast<size_t>(plan.plan().arena_size());
  if (!arena_.reserve(arena_size)) {
    ET_LOG(Error, "packqvit: no memory for the arena of %zu bytes", arena_size);
    return Error::MemoryAllocationFailed;
  }
  values_.resize(plan.values().size(), nullptr);
  for (size_t i = 0; i < values_.size(); ++i) {
    if (plan.value(i).storage == plan::Storage::Arena) values_[i] = arena_.data() + plan.value(i).location;
  }
  const auto argument = [&](uint32_t index) {
    return Argument{plan.value(index).type, plan.value(index).shape, index};
  };
  if (const auto* inputs = plan.plan().inputs()) {
    for (const uint32_t index : *inputs) inputs_.push_back(argument(index));
  }
  for (const uint32_t index : *plan.plan().outputs()) outputs_.push_back(argument(index));
  return Error::Ok;
}

Error Executor::build_steps(CheckedPlan& plan, const KernelTier& tier, size_t threads) {
  weights_ = std::make_unique<WeightMemory>(weight_bytes(plan));
  WeightPacker packer(*weights_);
  std::vector<CodeRange> ranges(plan.values().size());
  const BuildContext context{plan, tier, threads, ranges, packer};
  const Error error = plan.visit_nodes([&](const plan::Node& node) {
    StepResult step = make_step(context, node);
    if (!step.ok()) {
      ET_LOG(Error, "packqvit: no memory for the constants of '%.64s'",
             node.name() != nullptr ? node.name()->c_str() : "");
      return step.error();
    }
    set_range(plan, node, ranges);
    steps_.push_back({std::move(*step), node.debug_id()});
    return Error::Ok;
  });
  if (error == Error::Ok) group_steps(plan, threads);
  return error;
}

Error Executor::allocate_scratch(size_t threads) {
  size_t bytes = 0;
  for (const TracedStep& traced : steps_) bytes = std::max(bytes, traced.step->scratch_bytes());
  for (const Group& group : groups_) bytes = std::max(bytes, group.chain.scratch_bytes());
  if (scratch_->allocate(threads, bytes)) return Error::Ok;
  ET_LOG(Error, "packqvit: no memory for %zu times %zu bytes of scratch", threads, bytes);
  return Error::MemoryAllocationFailed;
}

void Executor::group_steps(const CheckedPlan& plan, size_t threads) {
  std::vector<const Step*> rest;
  for (const TracedStep& traced : steps_) rest.push_back(traced.step.get());
  const std::vector<Range> lives = lives_of(plan);
  size_t first = 0;
  while (!rest.empty()) {
    RowChain chain(rest, plan, threads, lives, first);
    if (chain.parts() == 1) chain = RowChain({}, plan, threads);
    const size_t length = std::max<size_t>(chain.length(), 1);
    groups_.push_back({first, std::move(chain)});
    first += length;
    rest.erase(rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(length));
  }
}

Error Executor::bind(const Argument& argument, const char* what, size_t index, EValue& value) {
  if (!value.isTensor()) {
    ET_LOG(Error, "packqvit: %s %zu is not a tensor", what, index);
    return Error::InvalidArgument;
  }
  const Tensor& tensor = value.toTensor();
  if (tensor.scalar_type() != scalar_type(argument.type) || !has_shape(tensor, argument.shape)) {
    ET_LOG(Error, "packqvit: %s %zu is %s %s, the model needs %s %s", what, index,
           executorch::runtime::toString(tensor.scalar_type()), shape_of(tensor).c_str(),
           plan::EnumNameDataType(argument.type), to_string(argument.shape).c_str());
    return Error::InvalidArgument;
  }
  if (!executorch::runtime::is_contiguous_dim_order(tensor.dim_order().data(), tensor.dim_order().size())) {
    ET_LOG(Error, "packqvit: %s %zu is not contiguous: copy it to the default dim order first", what, index);
    return Error::InvalidArgument;
  }
  void* data = const_cast<void*>(tensor.const_data_ptr());
  if (data == nullptr) {
    ET_LOG(Error, "packqvit: %s %zu has no data", what, index);
    return Error::InvalidArgument;
  }
  values_[argument.value] = data;
  return Error::Ok;
}

Error Executor::execute(Span<EValue*> arguments, EventTracer* tracer) {
  if (arguments.size() != inputs_.size() + outputs_.size()) {
    ET_LOG(Error, "packqvit: %zu arguments, the plan has %zu inputs and %zu outputs", arguments.size(), inputs_.size(),
           outputs_.size());
    return Error::InvalidArgument;
  }
  for (size_t i = 0; i < inputs_.size(); ++i) {
    const Error error = bind(inputs_[i], "input", i, *arguments[i]);
    if (error != Error::Ok) return error;
  }
  for (size_t i = 0; i < outputs_.size(); ++i) {
    const Error error = bind(outputs_[i], "output", i, *arguments[inputs_.size() + i]);
    if (error != Error::Ok) return error;
  }
  const Memory memory{values_.data(), *scratch_, tracer};
  if (tracer != nullptr) {  // chains would hide the time of their steps
    for (const TracedStep& traced : steps_) {
      if (const Error error = run_step(traced, memory); error != Error::Ok) return error;
    }
    return Error::Ok;
  }
  for (const Group& group : groups_) {
    const Error error = group.chain.length() > 1 ? group.chain.run(memory) : steps_[group.first].step->run(memory);
    if (error != Error::Ok) return error;
  }
  return Error::Ok;
}

Error Executor::run_step(const TracedStep& traced, const Memory& memory) const {
  if (traced.step->traces_itself()) return traced.step->run(memory);
  const auto event =
      executorch::runtime::event_tracer_start_profiling_delegate(memory.tracer, nullptr, traced.debug_id);
  const Error error = traced.step->run(memory);
  executorch::runtime::event_tracer_end_profiling_delegate(memory.tracer, event);
  return error;
}

}  // namespace packqvit
