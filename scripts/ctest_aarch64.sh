#!/usr/bin/env bash
# Runs the C++ tests of an aarch64 build under qemu on a CPU with each set of features that a kernel tier asks for:
# ARMv8.0 alone, dotprod, and i8mm with all before it. A tier that a CPU lacks is skipped by its tests, and one that
# used an instruction of another tier would stop with SIGILL.
set -euo pipefail

tests=$1/backend_cpp/tests
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for cpu in cortex-a72 cortex-a76 max,sme=off; do # sme=off: qemu 7.2 computes wrongly with SME
  for program in "$tests"/packqvit_*_test; do
    if ! qemu-aarch64 -L /usr/aarch64-linux-gnu -cpu "$cpu" "$program" >"$log" 2>&1; then
      cat "$log"
      echo "$(basename "$program") failed on $cpu" >&2
      exit 1
    fi
  done
  echo "$cpu: $(ls "$tests"/packqvit_*_test | wc -l) C++ test programs passed"
done
