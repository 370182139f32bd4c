#pragma once

#include <executorch/runtime/core/error.h>
#include <executorch/runtime/core/function_ref.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/aligned_array.h"
#include "kernels/tier.h"

namespace packqvit {

// Threads of ExecuTorch's pool.
size_t thread_count();

// Part `index` of [0, size) cut into `parts` nearly equal ranges.
Range part_of(size_t size, size_t parts, size_t index);

// How many parts to cut `units` of work into: some for each thread, so that slower cores take fewer.
size_t part_count(size_t units, size_t threads);

// Scratch memory for as many tasks as run at a time.
class ScratchPool {
 public:
  // False when there is no memory.
  [[nodiscard]] bool allocate(size_t slots, size_t bytes_per_slot);

  // A slot of the pool for the life of the lease. Waits while all are taken, which happens only when the thread pool
  // has grown since the pool was allocated.
  class Lease {
   public:
    explicit Lease(ScratchPool& pool) : pool_(pool), slot_(pool.acquire()) {}
    ~Lease() { pool_.taken_[slot_].clear(std::memory_order_release); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    void* data() const { return pool_.data_.data() + slot_ * pool_.bytes_per_slot_; }

   private:
    ScratchPool& pool_;
    size_t slot_;
  };

 private:
  size_t acquire();

  size_t bytes_per_slot_ = 0;
  std::vector<std::atomic_flag> taken_;
  AlignedArray<uint8_t> data_;
};

// Runs task(0) ... task(count - 1) on at most `threads` threads of ExecuTorch's pool, in any order. A thread that is
// done takes the next task, so that fast cores take more of them.
executorch::runtime::Error parallel_tasks(size_t count, size_t threads,
                                          executorch::runtime::FunctionRef<void(size_t)> task);

}  // namespace packqvit
