#include "src/backend.h"

#include <executorch/runtime/platform/log.h>

#include <cstring>
#include <new>
#include <utility>

#include "packqvit/backend.h"
#include "src/blob.h"
#include "src/executor.h"
#include "src/thread_choice.h"
#include "src/tier_choice.h"

namespace packqvit {

using executorch::runtime::ArrayRef;
using executorch::runtime::BackendExecutionContext;
using executorch::runtime::BackendInitContext;
using executorch::runtime::BackendOption;
using executorch::runtime::BackendOptionContext;
using executorch::runtime::CompileSpec;
using executorch::runtime::DelegateHandle;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::FreeableBuffer;
using executorch::runtime::Result;
using executorch::runtime::Span;

namespace {

Result<const KernelTier*> tier_for(const BackendInitContext& context) {
  const Result<const char*> name = context.get_runtime_spec<const char*>(kTierOption);
  if (name.ok()) return choose_tier(*name);
  if (name.error() == Error::NotFound) return choose_tier();
  ET_LOG(Error, "packqvit: the option '%s' is a string", kTierOption);
  return name.error();
}

Result<size_t> threads_for(const BackendInitContext& context) {
  const Result<int> threads = context.get_runtime_spec<int>(kThreadsOption);
  if (threads.error() == Error::NotFound) return choose_threads();
  if (threads.ok() && *threads >= 0) return choose_threads(*threads);
  ET_LOG(Error, "packqvit: the option '%s' is an int, 1 or more, or 0 for all of the pool", kThreadsOption);
  return threads.ok() ? Error::InvalidArgument : threads.error();
}

Result<Executor> load(const BackendInitContext& context, const FreeableBuffer& processed) {
  const Result<const KernelTier*> tier = tier_for(context);
  if (!tier.ok()) return tier.error();
  const Result<size_t> threads = threads_for(context);
  if (!threads.ok()) return threads.error();
  ET_LOG(Info, "packqvit: kernel tier %s, %zu threads", (*tier)->name, *threads);
  Result<PlanBuffer> buffer = read_blob(processed.data(), processed.size());
  if (!buffer.ok()) return buffer.error();
  Result<CheckedPlan> plan = CheckedPlan::make(buffer->plan(), context.get_named_data_map());
  if (!plan.ok()) return plan.error();
  return Executor::make(*plan, **tier, *threads);
}

Error set_option_value(const BackendOption& option) {
  const auto* name = std::get_if<std::array<char, executorch::runtime::kMaxOptionValueLength>>(&option.value);
  if (std::strcmp(option.key, kTierOption) == 0 && name != nullptr) return set_tier_option(name->data());
  const auto* threads = std::get_if<int>(&option.value);
  if (std::strcmp(option.key, kThreadsOption) == 0 && threads != nullptr) return set_threads_option(*threads);
  ET_LOG(Error, "packqvit: unknown option '%.64s'; there are '%s', a string, and '%s', an int", option.key, kTierOption,
         kThreadsOption);
  return Error::InvalidArgument;
}

}  // namespace

Result<DelegateHandle*> PackQViTBackend::init(BackendInitContext& context, FreeableBuffer* processed,
                                              ArrayRef<CompileSpec>) const {
  Result<Executor> executor = load(context, *processed);
  if (!executor.ok()) return executor.error();
  void* memory = context.get_runtime_allocator()->allocate(sizeof(Executor), alignof(Executor));
  if (memory == nullptr) return Error::MemoryAllocationFailed;
  processed->Free();
  return static_cast<DelegateHandle*>(new (memory) Executor(std::move(*executor)));
}

Error PackQViTBackend::execute(BackendExecutionContext& context, DelegateHandle* handle,
                               Span<EValue*> arguments) const {
  return static_cast<Executor*>(handle)->execute(arguments, context.event_tracer());
}

Error PackQViTBackend::set_option(BackendOptionContext&, const Span<BackendOption>& options) {
  for (const BackendOption& option : options) {
    const Error error = set_option_value(option);
    if (error != Error::Ok) return error;
  }
  return Error::Ok;
}

void PackQViTBackend::destroy(DelegateHandle* handle) const {
  if (handle != nullptr) static_cast<Executor*>(handle)->~Executor();
}

}  // namespace packqvit
