#include "src/thread_choice.h"

#include <executorch/runtime/platform/log.h>

#include <algorithm>
#include <atomic>

#include "src/parallel.h"

namespace packqvit {

using executorch::runtime::Error;

namespace {

std::atomic<int> option{0};

}  // namespace

size_t choose_threads(int load_option) {
  const int limit = load_option > 0 ? load_option : option.load();
  if (limit == 1) return 1;  // asking for the pool would make it
  return limit > 0 ? std::min(static_cast<size_t>(limit), thread_count()) : thread_count();
}

Error set_threads_option(int threads) {
  if (threads < 0) {
    ET_LOG(Error, "packqvit: %d threads: needs 1 or more, or 0 for all of the pool", threads);
    return Error::InvalidArgument;
  }
  option.store(threads);
  return Error::Ok;
}

}  // namespace packqvit
