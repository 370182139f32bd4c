#pragma once

#include <executorch/runtime/backend/interface.h>

namespace packqvit {

// The delegate's face towards ExecuTorch. Stateless: what is loaded lives in the handle.
class PackQViTBackend final : public executorch::runtime::BackendInterface {
 public:
  bool is_available() const override { return true; }

  // Load-time option "tier" (string): see packqvit/backend.h.
  executorch::runtime::Result<executorch::runtime::DelegateHandle*> init(
      executorch::runtime::BackendInitContext& context, executorch::runtime::FreeableBuffer* processed,
      executorch::runtime::ArrayRef<executorch::runtime::CompileSpec> compile_specs) const override;

  executorch::runtime::Error execute(executorch::runtime::BackendExecutionContext& context,
                                     executorch::runtime::DelegateHandle* handle,
                                     executorch::runtime::Span<executorch::runtime::EValue*> arguments) const override;

  // Backend option "tier" (string). Error::InvalidArgument for anything else.
  executorch::runtime::Error set_option(
      executorch::runtime::BackendOptionContext& context,
      const executorch::runtime::Span<executorch::runtime::BackendOption>& options) override;

  void destroy(executorch::runtime::DelegateHandle* handle) const override;
};

}  // namespace packqvit
