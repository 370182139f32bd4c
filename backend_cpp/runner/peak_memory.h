#pragma once

#include <cstddef>

namespace packqvit {

// Largest resident memory of this process so far, in bytes; 0 where the system does not tell.
size_t peak_memory();

}  // namespace packqvit
