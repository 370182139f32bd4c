#pragma once

namespace packqvit::x86 {

// What this CPU and its operating system offer.
struct Cpu {
  bool avx2;
  bool avx_vnni;
  bool avx512_vnni;  // F, CD, BW, DQ, VL, VNNI and VBMI
  // Whether byte additions issue beside vpdpbusd without taking its ports: AMD Zen 4 and later.
  bool adds_beside_products;
};

const Cpu& cpu();

}  // namespace packqvit::x86
