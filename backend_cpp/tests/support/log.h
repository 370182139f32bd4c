#pragma once

#include <string>

namespace packqvit {

// From here on ExecuTorch's log goes to last_log() instead of stderr.
void capture_log();

// The last message, empty after clear_log().
std::string last_log();
void clear_log();

}  // namespace packqvit
