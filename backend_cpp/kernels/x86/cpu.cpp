#include "kernels/x86/cpu.h"

#include <cpuid.h>

namespace packqvit::x86 {
namespace {

struct Registers {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf = 0) {
  Registers r;
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
}

bool bit(unsigned word, unsigned index) { return (word >> index & 1) != 0; }

// The register states that the operating system saves.
unsigned saved_states() {
  unsigned low;
  unsigned high;
  __asm("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

Cpu detect() {
  Cpu cpu{};
  const Registers leaf1 = cpuid(1);
  const bool os_saves = bit(leaf1.ecx, 27);
  const unsigned states = os_saves ? saved_states() : 0;
  const bool ymm = (states & 0x6) == 0x6;
  const bool zmm = (states & 0xE6) == 0xE6;
  const Registers leaf7 = cpuid(7);
  const Registers leaf7_1 = cpuid(7, 1);
  cpu.avx2 = ymm && bit(leaf7.ebx, 5);
  cpu.avx_vnni = cpu.avx2 && bit(leaf7_1.eax, 4);
  const bool f_dq = bit(leaf7.ebx, 16) && bit(leaf7.ebx, 17);
  const bool cd_bw_vl = bit(leaf7.ebx, 28) && bit(leaf7.ebx, 30) && bit(leaf7.ebx, 31);
  cpu.avx512_vnni = zmm && f_dq && cd_bw_vl && bit(leaf7.ecx, 1) && bit(leaf7.ecx, 11);

  const Registers vendor = cpuid(0);
  const bool amd = vendor.ebx == signature_AMD_ebx && vendor.ecx == signature_AMD_ecx;
  const unsigned family = (leaf1.eax >> 8 & 15) + (leaf1.eax >> 20 & 255);
  cpu.adds_beside_products = amd && family >= 0x19;
  return cpu;
}

}  // namespace

const Cpu& cpu() {
  static const Cpu detected = detect();
  return detected;
}

}  // namespace packqvit::x86
