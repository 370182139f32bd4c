#include "runner/peak_memory.h"

#include <fstream>
#include <string>

namespace packqvit {

// Not getrusage: Linux counts into ru_maxrss what the process was before exec, a copy of its parent.
size_t peak_memory() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    size_t kibibytes = 0;
    if (word == "VmHWM:" && status >> kibibytes) return kibibytes * 1024;
  }
  return 0;
}

}  // namespace packqvit
