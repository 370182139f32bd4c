#include "src/parallel.h"

#include <executorch/runtime/kernel/thread_parallel_interface.h>
#include <executorch/runtime/platform/log.h>

#include <algorithm>
#include <thread>

namespace packqvit {

using executorch::runtime::Error;
using executorch::runtime::FunctionRef;

size_t thread_count() { return static_cast<size_t>(std::max<int64_t>(executorch::extension::get_thread_count(), 1)); }

Range part_of(size_t size, size_t parts, size_t index) { return {size * index / parts, size * (index + 1) / parts}; }

size_t part_count(size_t units, size_t threads) {
  constexpr size_t kPartsPerThread = 2;
  return threads == 1 ? 1 : std::max<size_t>(std::min(units, threads * kPartsPerThread), 1);
}

bool ScratchPool::allocate(size_t slots, size_t bytes_per_slot) {
  bytes_per_slot_ = round_up(bytes_per_slot, kAlignment);
  taken_ = std::vector<std::atomic_flag>(slots);
  for (std::atomic_flag& flag : taken_) flag.clear();
  return data_.reserve(slots * bytes_per_slot_);
}

size_t ScratchPool::acquire() {
  for (size_t slot = 0;; slot = (slot + 1) % taken_.size()) {
    if (!taken_[slot].test_and_set(std::memory_order_acquire)) return slot;
    if (slot + 1 == taken_.size()) std::this_thread::yield();
  }
}

Error parallel_tasks(size_t count, size_t threads, FunctionRef<void(size_t)> task) {
  const size_t workers = std::min(count, threads);
  if (workers <= 1) {
    for (size_t i = 0; i < count; ++i) task(i);
    return Error::Ok;
  }
  std::atomic<size_t> next{0};
  const bool done = executorch::extension::parallel_for(0, static_cast<int64_t>(workers), 1, [&](int64_t, int64_t) {
    for (size_t i = next++; i < count; i = next++) task(i);
  });
  if (done) return Error::Ok;
  ET_LOG(Error, "packqvit: the thread pool did not run %zu tasks", count);
  return Error::Internal;
}

}  // namespace packqvit
