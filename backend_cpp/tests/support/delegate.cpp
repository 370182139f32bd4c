#include "tests/support/delegate.h"

#include <executorch/extension/tensor/tensor.h>

#include "packqvit/backend.h"

namespace packqvit {

using executorch::aten::ScalarType;
using executorch::runtime::Error;
using executorch::runtime::EValue;

TestDelegate::~TestDelegate() { backend_.destroy(handle_); }

Error TestDelegate::load(const std::vector<uint8_t>& blob, const FakeDataMap& data, const char* tier_option) {
  backend_.destroy(handle_);
  handle_ = nullptr;
  executorch::runtime::BackendOptions<1> options;
  if (tier_option != nullptr && options.set_option(kTierOption, tier_option) != Error::Ok) return Error::Internal;
  executorch::runtime::MemoryAllocator allocator(static_cast<uint32_t>(memory_.size()), memory_.data());
  const auto view = options.view();
  executorch::runtime::BackendInitContext context(&allocator, nullptr, "forward", &data, {view.data(), view.size()});
  executorch::runtime::FreeableBuffer processed(blob.data(), blob.size(), nullptr);
  const auto handle = backend_.init(context, &processed, {});
  if (!handle.ok()) return handle.error();
  handle_ = *handle;
  return Error::Ok;
}

Error TestDelegate::run(std::vector<Argument>& arguments) {
  std::vector<executorch::extension::TensorPtr> tensors;
  std::vector<EValue> values;
  for (Argument& argument : arguments) {
    tensors.push_back(executorch::extension::from_blob(argument.data.data(), argument.shape, argument.type));
    values.emplace_back(tensors.back());
  }
  std::vector<EValue*> pointers;
  for (EValue& value : values) pointers.push_back(&value);
  executorch::runtime::BackendExecutionContext context;
  return backend_.execute(context, handle_, {pointers.data(), pointers.size()});
}

std::vector<Argument> arguments_of(const plan::PlanT& plan) {
  constexpr ScalarType kTypes[] = {ScalarType::Char, ScalarType::Byte, ScalarType::Short, ScalarType::Int,
                                   ScalarType::Float};
  std::vector<Argument> arguments;
  for (const auto* list : {&plan.inputs, &plan.outputs}) {
    for (const uint32_t index : *list) {
      const plan::ValueT& value = *plan.values[index];
      const Shape shape(value.shape.begin(), value.shape.end());
      arguments.push_back({kTypes[static_cast<size_t>(value.type)],
                           {shape.begin(), shape.end()},
                           std::vector<uint8_t>(element_count(shape) * element_size(value.type))});
    }
  }
  return arguments;
}

}  // namespace packqvit
