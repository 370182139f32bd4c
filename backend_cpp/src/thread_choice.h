#pragma once

#include <executorch/runtime/core/error.h>

#include <cstddef>

namespace packqvit {

// Threads for a delegate that loads now: its load-time option, else the backend option, else all of ExecuTorch's pool;
// never more than the pool has. 0 leaves the choice to the next in line.
size_t choose_threads(int load_option = 0);

// Sets the backend option. Error::InvalidArgument, and no change, for a negative number.
executorch::runtime::Error set_threads_option(int threads);

}  // namespace packqvit
