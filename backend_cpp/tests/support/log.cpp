#include "tests/support/log.h"

#include <executorch/runtime/platform/platform.h>

#include <mutex>

namespace packqvit {
namespace {

std::mutex mutex;
std::string last;

void emit(et_timestamp_t, et_pal_log_level_t, const char*, const char*, size_t, const char* message, size_t length) {
  const std::lock_guard<std::mutex> lock(mutex);
  last.assign(message, length);
}

}  // namespace

void capture_log() { executorch::runtime::register_pal(executorch::runtime::PalImpl::create(emit, __FILE__)); }

std::string last_log() {
  const std::lock_guard<std::mutex> lock(mutex);
  return last;
}

void clear_log() {
  const std::lock_guard<std::mutex> lock(mutex);
  last.clear();
}

}  // namespace packqvit
