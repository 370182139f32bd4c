#include "kernels/tier.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "packqvit/backend.h"
#include "src/parallel.h"
#include "src/thread_choice.h"
#include "src/tier_choice.h"
#include "tests/support/delegate.h"
#include "tests/support/log.h"

namespace packqvit {
namespace {

using executorch::runtime::Error;

class TierChoiceTest : public testing::Test {
 protected:
  void TearDown() override {
    unsetenv(kTierEnvironment);
    EXPECT_EQ(set_tier_option(""), Error::Ok);
  }
};

TEST_F(TierChoiceTest, TheReferenceIsLastAndAlwaysThere) {
  const TierList tiers = all_tiers();
  ASSERT_GT(tiers.size_, 0u);
  EXPECT_STREQ(tiers.begin()[tiers.size_ - 1]->name, "reference");
  EXPECT_TRUE(tiers.begin()[tiers.size_ - 1]->is_supported());
  EXPECT_NE(find_tier("reference"), nullptr);
  EXPECT_EQ(find_tier("nonsense"), nullptr);
}

TEST_F(TierChoiceTest, EnvironmentOptionAndLoadOptionInThisOrder) {
  EXPECT_EQ(*choose_tier(), &best_tier());
  setenv(kTierEnvironment, "reference", 1);
  EXPECT_STREQ((*choose_tier())->name, "reference");
  setenv(kTierEnvironment, "nonsense", 1);
  clear_log();
  EXPECT_EQ(choose_tier().error(), Error::InvalidArgument);
  EXPECT_NE(last_log().find("reference"), std::string::npos) << last_log();
  EXPECT_EQ(set_tier_option("reference"), Error::Ok);
  EXPECT_STREQ((*choose_tier())->name, "reference");
  EXPECT_EQ(choose_tier("nonsense").error(), Error::InvalidArgument);
  EXPECT_STREQ((*choose_tier("reference"))->name, "reference");
}

TEST_F(TierChoiceTest, ARefusedOptionChangesNothing) {
  EXPECT_EQ(set_tier_option("nonsense"), Error::InvalidArgument);
  EXPECT_EQ(*choose_tier(), &best_tier());
}

TEST_F(TierChoiceTest, ReachesTheDelegate) {
  Random random(1);
  PlanBuilder plan = tiny_transformer(random, false);
  const FakeDataMap data = plan.data_map();
  TestDelegate delegate;
  EXPECT_EQ(delegate.load(plan.blob(), data, "reference"), Error::Ok);
  EXPECT_EQ(delegate.load(plan.blob(), data, "nonsense"), Error::InvalidArgument);

  PackQViTBackend backend;
  executorch::runtime::BackendOptionContext context;
  executorch::runtime::BackendOptions<1> options;
  ASSERT_EQ(options.set_option(kTierOption, "nonsense"), Error::Ok);
  EXPECT_EQ(backend.set_option(context, options.view()), Error::InvalidArgument);
  ASSERT_EQ(options.set_option(kTierOption, "reference"), Error::Ok);
  EXPECT_EQ(backend.set_option(context, options.view()), Error::Ok);
  ASSERT_EQ(options.set_option(kTierOption, 3), Error::Ok);
  EXPECT_EQ(backend.set_option(context, options.view()), Error::InvalidArgument);
  executorch::runtime::BackendOptions<1> unknown;
  ASSERT_EQ(unknown.set_option("speed", 3), Error::Ok);
  EXPECT_EQ(backend.set_option(context, unknown.view()), Error::InvalidArgument);
}

TEST(Threads, TheOptionLimitsThePool) {
  PackQViTBackend backend;
  executorch::runtime::BackendOptionContext context;
  const auto set = [&](int threads) {
    executorch::runtime::BackendOptions<1> options;
    EXPECT_EQ(options.set_option(kThreadsOption, threads), Error::Ok);
    return backend.set_option(context, options.view());
  };
  EXPECT_EQ(choose_threads(), thread_count());
  EXPECT_EQ(set(1), Error::Ok);
  EXPECT_EQ(choose_threads(), 1u);
  EXPECT_EQ(choose_threads(1000), thread_count());
  EXPECT_EQ(set(-1), Error::InvalidArgument);
  EXPECT_EQ(choose_threads(), 1u);
  EXPECT_EQ(set(0), Error::Ok);
  EXPECT_EQ(choose_threads(), thread_count());
}

}  // namespace
}  // namespace packqvit
