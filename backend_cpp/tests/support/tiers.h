#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/tier.h"

namespace packqvit {

// A fixture that runs once for each tier of this build; tiers that the CPU lacks are skipped.
class TierTest : public testing::TestWithParam<const KernelTier*> {
 protected:
  void SetUp() override {
    if (!GetParam()->is_supported()) GTEST_SKIP() << GetParam()->name << " is not supported by this CPU";
  }
  const KernelTier& tier() const { return *GetParam(); }
};

inline std::string tier_name(const testing::TestParamInfo<const KernelTier*>& info) { return info.param->name; }

inline auto every_tier() {
  const TierList tiers = all_tiers();
  return testing::ValuesIn(tiers.begin(), tiers.end());
}

// The same and what only the tests compile: for tests that call the kernels themselves.
std::vector<const KernelTier*> kernel_tiers();
inline auto every_kernel_tier() { return testing::ValuesIn(kernel_tiers()); }

// Scratch memory of exactly the size that a kernel asked for, so that the address sanitizer sees what is beyond.
class Scratch {
 public:
  explicit Scratch(size_t bytes) { allocated_ = memory_.allocate(bytes); }
  void* data() {
    EXPECT_TRUE(allocated_);
    return memory_.data();
  }

 private:
  AlignedArray<uint8_t> memory_;
  bool allocated_;
};

}  // namespace packqvit
