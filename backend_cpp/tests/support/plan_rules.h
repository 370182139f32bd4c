// What a plan has to hold to: it is damaged in one place, and refused for the reason that is there.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "tests/support/delegate.h"
#include "tests/support/log.h"

namespace packqvit {

struct Rule {
  const char* name;
  std::function<void(PlanBuilder&)> damage;
  const char* reason;
  executorch::runtime::Error error = executorch::runtime::Error::InvalidProgram;
};

// Loads a plan as it is, and damaged.
inline void expect_checked(PlanBuilder builder, const Rule& rule) {
  {
    TestDelegate delegate;
    ASSERT_EQ(delegate.load(builder), executorch::runtime::Error::Ok) << last_log();
  }
  rule.damage(builder);
  clear_log();
  TestDelegate delegate;
  EXPECT_EQ(delegate.load(builder), rule.error);
  EXPECT_NE(last_log().find(rule.reason), std::string::npos) << last_log();
}

inline std::string rule_name(const testing::TestParamInfo<Rule>& info) { return info.param.name; }

}  // namespace packqvit
