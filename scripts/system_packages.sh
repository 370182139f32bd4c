#!/usr/bin/env bash
# Sees to the system packages that make's targets need: build (the default), test, bench or bench-aarch64.
# Installs what is missing through apt when run as root; otherwise names it and stops. What tests can be without is
# installed likewise, but never asked for.
set -euo pipefail

missing=()
wanted=()

needs() { # needs PACKAGE COMMAND...: the package is missing unless the command succeeds
  local package=$1
  shift
  "$@" >/dev/null 2>&1 || missing+=("$package")
}

python=${PYTHON:-python3}
needs python3 command -v "$python"
needs python3-venv "$python" -c 'import ensurepip, venv'
needs g++ command -v "${CXX:-g++}"
purpose=${1:-build}
if [ "$purpose" = test ]; then
  needs libgtest-dev test -f /usr/include/gtest/gtest.h
fi
if [ "$purpose" = test ] || [ "$purpose" = bench-aarch64 ]; then
  needs g++-aarch64-linux-gnu command -v aarch64-linux-gnu-g++
  needs qemu-user command -v qemu-aarch64
fi
if [ "$purpose" = bench ]; then
  needs libbenchmark-dev test -f /usr/include/benchmark/benchmark.h
fi
if [ "$purpose" = test ] || [ "$purpose" = bench-aarch64 ]; then
  needs clang-19 command -v clang++-19
  needs llvm-19 command -v llvm-mca-19
fi
if [ "$purpose" = test ]; then
  needs lld-19 command -v ld.lld-19
  needs libc++-19-dev test -f /usr/lib/llvm-19/include/c++/v1/__config_site
  command -v chromium >/dev/null || wanted+=(chromium) # 30 s; tests/report_page look at a page in it
fi

if [ $((${#missing[@]} + ${#wanted[@]})) -gt 0 ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Installing system packages: ${missing[*]} ${wanted[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq || [ ${#missing[@]} -eq 0 ]
    if [ ${#missing[@]} -gt 0 ]; then
      apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
    fi
    for package in "${wanted[@]}"; do
      apt-get install -qq -y --no-install-recommends "$package" >/dev/null 2>&1 ||
        echo "There is no package $package here: the tests that need it are skipped"
    done
  elif [ ${#missing[@]} -gt 0 ]; then
    echo "These system packages are missing: ${missing[*]}" >&2
    echo "Install them, on Debian or Ubuntu with:" >&2
    echo "    sudo apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
  fi
fi

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
  echo "$("$python" --version) is too old: Python 3.10 or later is needed. Name one with: make PYTHON=python3.11 ..." >&2
  exit 1
fi
