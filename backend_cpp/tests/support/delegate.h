#pragma once

#include <executorch/runtime/core/error.h>

#include <array>
#include <vector>

#include "src/backend.h"
#include "tests/support/plan_builder.h"

namespace packqvit {

// An argument of a delegate: type, shape and raw elements.
struct Argument {
  executorch::aten::ScalarType type;
  std::vector<executorch::aten::SizesType> shape;
  std::vector<uint8_t> data;
};

// A delegate loaded as ExecuTorch loads it.
class TestDelegate {
 public:
  TestDelegate() = default;
  ~TestDelegate();
  TestDelegate(const TestDelegate&) = delete;
  TestDelegate& operator=(const TestDelegate&) = delete;

  executorch::runtime::Error load(const std::vector<uint8_t>& blob, const FakeDataMap& data,
                                  const char* tier_option = nullptr);
  executorch::runtime::Error load(PlanBuilder& plan) { return load(plan.blob(), plan.data_map()); }
  executorch::runtime::Error run(std::vector<Argument>& arguments);

 private:
  PackQViTBackend backend_;
  std::array<uint8_t, 4096> memory_{};
  executorch::runtime::DelegateHandle* handle_ = nullptr;
};

// Zeroed arguments of the plan: its inputs, then its outputs.
std::vector<Argument> arguments_of(const plan::PlanT& plan);

}  // namespace packqvit
