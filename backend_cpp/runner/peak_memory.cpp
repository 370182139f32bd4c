#include "runner/peak_memory.h"

#include <cstdlib>
#include <exception>
#include <string>

#include "runner/files.h"

namespace packqvit {

// Not getrusage: Linux counts into ru_maxrss what the process was before exec, a copy of its parent.
size_t peak_memory() {
  const std::string name = "VmHWM:";
  try {
    for (const std::string& line : read_lines("/proc/self/status")) {
      if (line.compare(0, name.size(), name) == 0) return std::strtoull(line.c_str() + name.size(), nullptr, 10) * 1024;
    }
  } catch (const std::exception&) {
    // a system without /proc
  }
  return 0;
}

}  // namespace packqvit
