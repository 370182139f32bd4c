#include "kernels/neon_dotprod/cpu.h"

#include <cstdio>

namespace packqvit::neon_dotprod {
namespace {

// MIDR_EL1 can be read by a program, but only that of the core that it happens to run on.
bool read_cpuinfo() {
  std::FILE* file = std::fopen("/proc/cpuinfo", "r");
  if (file == nullptr) return false;
  constexpr unsigned kArm = 0x41;
  constexpr unsigned kCortexA55 = 0xD05;
  char line[256];
  bool found = false;
  bool only = true;
  while (std::fgets(line, sizeof(line), file) != nullptr) {
    unsigned value = 0;
    if (std::sscanf(line, "CPU implementer : %x", &value) == 1) only = only && value == kArm;
    if (std::sscanf(line, "CPU part : %x", &value) == 1) {
      found = true;
      only = only && value == kCortexA55;
    }
  }
  std::fclose(file);
  return found && only;
}

}  // namespace

bool all_cores_are_cortex_a55() {
  static const bool kResult = read_cpuinfo();
  return kResult;
}

}  // namespace packqvit::neon_dotprod
