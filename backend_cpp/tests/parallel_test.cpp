#include "src/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

namespace packqvit {
namespace {

using executorch::runtime::Error;

TEST(Parallel, PartsCoverTheWholeOnce) {
  for (const size_t size : {0, 1, 5, 64, 197}) {
    for (size_t parts = 1; parts <= 9; ++parts) {
      size_t end = 0;
      for (size_t i = 0; i < parts; ++i) {
        const Range range = part_of(size, parts, i);
        EXPECT_EQ(range.begin, end);
        EXPECT_LE(range.end - range.begin, size / parts + 1);
        end = range.end;
      }
      EXPECT_EQ(end, size);
    }
  }
}

TEST(Parallel, PartCountFollowsUnitsAndThreads) {
  EXPECT_EQ(part_count(100, 1), 1u);
  EXPECT_EQ(part_count(3, 4), 3u);
  EXPECT_EQ(part_count(1000, 4), 8u);
  EXPECT_EQ(part_count(0, 4), 1u);
}

TEST(Parallel, EveryTaskRunsOnceOnScratchOfItsOwn) {
  ScratchPool pool;
  ASSERT_TRUE(pool.allocate(2, sizeof(size_t)));
  std::vector<std::atomic<int>> runs(500);
  const Error error = parallel_tasks(runs.size(), 2, [&](size_t task) {
    const ScratchPool::Lease lease(pool);
    volatile size_t* slot = static_cast<size_t*>(lease.data());
    *slot = task;
    for (int i = 0; i < 100; ++i) ASSERT_EQ(*slot, task);
    ++runs[task];
  });
  EXPECT_EQ(error, Error::Ok);
  for (const auto& count : runs) EXPECT_EQ(count, 1);
}

TEST(Parallel, NoMoreThanTheGivenThreadsRunAtATime) {
  std::atomic<int> running{0};
  std::atomic<int> most{0};
  const auto task = [&](size_t) {
    const int now = ++running;
    int before = most;
    while (before < now && !most.compare_exchange_weak(before, now)) {
    }
    std::this_thread::sleep_for(std::chrono::microseconds(200));
    --running;
  };
  for (const size_t threads : {1, 2}) {
    most = 0;
    ASSERT_EQ(parallel_tasks(20, threads, task), Error::Ok);
    EXPECT_LE(most, static_cast<int>(threads));
  }
}

}  // namespace
}  // namespace packqvit
