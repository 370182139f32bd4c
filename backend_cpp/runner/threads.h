#pragma once

#include <cstddef>
#include <cstdint>

// The wheel's libexecutorch_threadpool.so exports these, but the wheel has no header for them.
namespace executorch::extension::threadpool {

class ThreadPool {
 public:
  bool _unsafe_reset_threadpool(uint32_t threads);
};

ThreadPool* get_threadpool();

}  // namespace executorch::extension::threadpool
