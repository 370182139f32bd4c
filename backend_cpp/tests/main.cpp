#include <executorch/runtime/platform/runtime.h>
#include <gtest/gtest.h>

#include "tests/support/log.h"

int main(int count, char** words) {
  testing::InitGoogleTest(&count, words);
  packqvit::capture_log();
  executorch::runtime::runtime_init();
  return RUN_ALL_TESTS();
}
