// Damaged plans under a good checksum: the FlatBuffers verifier and the plan checks are all that stands in the way.
// Whatever they let through is executed: under the address and undefined behaviour sanitizers this shows what they
// miss.

#include <gtest/gtest.h>

#include <vector>

#include "tests/support/delegate.h"
#include "tests/support/relative_plan.h"
#include "tests/support/windows_plan.h"

namespace packqvit {
namespace {

using executorch::runtime::Error;

using MakePlan = PlanBuilder (*)(Random&);

class PlanCorruptionTest : public testing::TestWithParam<MakePlan> {
 protected:
  // Loads and, where it loads, runs with the arguments of the intact plan.
  void load_and_run(const std::vector<uint8_t>& plan) {
    TestDelegate delegate;
    if (delegate.load(make_blob(plan), data_) != Error::Ok) {
      ++refused_;
      return;
    }
    ++accepted_;
    std::vector<Argument> arguments = arguments_of(builder_.plan);
    for (uint8_t& byte : arguments[0].data) byte = static_cast<uint8_t>(random_.uniform(0, 255));
    const Error error = delegate.run(arguments);
    EXPECT_TRUE(error == Error::Ok || error == Error::InvalidArgument);
  }

  size_t pick(size_t size) { return static_cast<size_t>(random_.uniform(0, static_cast<int64_t>(size) - 1)); }

  Random random_{7};
  PlanBuilder builder_ = GetParam()(random_);
  std::vector<uint8_t> plan_ = builder_.packed_plan();
  FakeDataMap data_ = builder_.data_map();
  size_t refused_ = 0;
  size_t accepted_ = 0;
};

TEST_P(PlanCorruptionTest, EverySingleByte) {
  for (size_t i = 0; i < plan_.size(); ++i) {
    const uint8_t original = plan_[i];
    plan_[i] = static_cast<uint8_t>(random_.number(0, 255));
    load_and_run(plan_);
    plan_[i] = original;
  }
  EXPECT_GT(refused_, plan_.size() / 4);
  EXPECT_GT(accepted_, 0u);
}

TEST_P(PlanCorruptionTest, RandomBytes) {
  for (int repeat = 0; repeat < 4000; ++repeat) {
    std::vector<uint8_t> damaged = plan_;
    const int64_t count = random_.uniform(1, 8);
    for (int64_t i = 0; i < count; ++i) {
      damaged[static_cast<size_t>(random_.uniform(0, static_cast<int64_t>(plan_.size()) - 1))] =
          static_cast<uint8_t>(random_.number(0, 255));
    }
    load_and_run(damaged);
  }
  EXPECT_GT(refused_, 2000u);
}

TEST_P(PlanCorruptionTest, RandomFieldsOfTheObjects) {
  for (int repeat = 0; repeat < 2000; ++repeat) {
    const auto kind = random_.uniform(0, 2);
    if (kind == 0) {
      plan::ValueT& value = *builder_.plan.values[pick(builder_.plan.values.size())];
      const plan::ValueT saved = value;
      value.type = static_cast<plan::DataType>(random_.uniform(-1, 5));
      value.storage = static_cast<plan::Storage>(random_.uniform(0, 3));
      if (random_.uniform(0, 1)) value.location = static_cast<uint64_t>(random_.uniform(0, 200)) * 32;
      load_and_run(builder_.packed_plan());
      value = saved;
    } else if (kind == 1) {
      plan::ConstantT& constant = *builder_.plan.constants[pick(builder_.plan.constants.size())];
      const plan::ConstantT saved = constant;
      constant.encoding = static_cast<plan::Encoding>(random_.uniform(0, 2));
      if (random_.uniform(0, 1)) constant.offset = static_cast<uint64_t>(random_.number(-64, 1 << 20));
      load_and_run(builder_.packed_plan());
      constant = saved;
    } else {
      plan::ValueT& value = *builder_.plan.values[pick(builder_.plan.values.size())];
      const plan::ValueT saved = value;
      value.shape[pick(value.shape.size())] = static_cast<uint32_t>(random_.number(0, UINT32_MAX));
      load_and_run(builder_.packed_plan());
      value = saved;
    }
  }
  EXPECT_GT(refused_, 500u);
}

constexpr WindowsCase kWindowsCase{2, 4, 9, 2, 4, false, true, false};
constexpr RelativeCase kRelativeCase{2, 2, 4, 2, 3, true, false, true, false};
constexpr MakePlan kPlans[] = {
    [](Random& random) { return tiny_transformer(random, false); },
    [](Random& random) { return tiny_transformer(random, true); },
    [](Random& random) { return tiny_pooling(random, false); },
    [](Random& random) { return tiny_pooling(random, true); },
    [](Random& random) { return windows_plan(random, kWindowsCase, true); },
    [](Random& random) { return relative_plan(random, kRelativeCase, true); },
    [](Random& random) { return relative_plan(random, kRelativeCase, false); },
};

INSTANTIATE_TEST_SUITE_P(Plans, PlanCorruptionTest, testing::ValuesIn(kPlans));

}  // namespace
}  // namespace packqvit
