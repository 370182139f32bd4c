#!/usr/bin/env bash
# Runs a program on a phone: pushes it and packqvit_runner, runs it, pulls the ETDump and prints the time of each operator.
#
#   examples/android/run_on_device.sh RUNNER MODEL.pte [IMAGE] [-- RUNNER OPTIONS]
#
# RUNNER is the Android build of packqvit_runner (docs/android.md), IMAGE a .ppm or raw RGB bytes for programs that take
# bytes; without it the input is pseudo-random. Libraries in ../lib beside RUNNER's folder are pushed with it.
# ANDROID_SERIAL picks one of several devices, LIBCXX_SHARED names the NDK's libc++_shared.so where it does not lie beside
# RUNNER, PYTHON a Python that has packqvit_delegate (python3), OUT the folder for the ETDump (.).
set -euo pipefail

DEVICE_DIR=/data/local/tmp/packqvit
OUT=${OUT:-.}
PYTHON=${PYTHON:-python3}

die() {
  echo "run_on_device: $*" >&2
  exit 1
}

[ $# -ge 2 ] || die "usage: $0 RUNNER MODEL.pte [IMAGE] [-- RUNNER OPTIONS]"
runner=$1 model=$2
shift 2
image=
if [ $# -gt 0 ] && [ "$1" != -- ]; then
  image=$1
  shift
fi
if [ $# -gt 0 ]; then
  [ "$1" = -- ] || die "unexpected argument '$1'; options of the runner come behind --"
  shift
fi
options=("$@")
[ ${#options[@]} -gt 0 ] || options=(--warmup 5 --iterations 20)

for file in "$runner" "$model" ${image:+"$image"}; do
  [ -f "$file" ] || die "there is no file $file"
done
[ -d "$OUT" ] || die "there is no folder $OUT for the ETDump"
"$PYTHON" -c 'import importlib.util as u, sys; sys.exit(not (u.find_spec("executorch") and u.find_spec("packqvit_delegate")))' ||
  die "$PYTHON has no packqvit_delegate, which the table of operators needs: name one that has with PYTHON"
command -v adb >/dev/null || die "adb is missing: install the Android SDK platform tools and put them on the PATH"
adb start-server >/dev/null 2>&1 || die "adb does not start"
state=$(adb get-state 2>&1) || die "no device: $state. Connect one with USB debugging on; 'adb devices' lists what is
there, and ANDROID_SERIAL picks one of several"
[ "$state" = device ] || die "the device is '$state': unlock it and allow USB debugging"
abi=$(adb shell getprop ro.product.cpu.abi | tr -d '\r')
[ "$abi" = arm64-v8a ] || die "the device runs $abi, the runner is built for arm64-v8a"

files=("$runner" "$model" ${image:+"$image"})
libcxx=${LIBCXX_SHARED:-$(dirname "$runner")/libc++_shared.so}
for library in "$libcxx" "$(dirname "$runner")"/../lib/*.so; do
  if [ -f "$library" ]; then files+=("$library"); fi
done

adb shell "mkdir -p $DEVICE_DIR"
adb push "${files[@]}" "$DEVICE_DIR/" >/dev/null
arguments=(--model "$(basename "$model")" --etdump model.etdump ${image:+--image "$(basename "$image")"} "${options[@]}")
quoted=$(printf ' %q' "${arguments[@]}")
adb shell "cd $DEVICE_DIR && chmod +x $(printf %q "$(basename "$runner")") && \
  LD_LIBRARY_PATH=. ./$(printf %q "$(basename "$runner")")$quoted"
adb pull "$DEVICE_DIR/model.etdump" "$OUT/model.etdump" >/dev/null
echo "ETDump: $OUT/model.etdump"
"$PYTHON" "$(dirname "$0")/operator_times.py" "$model" "$OUT/model.etdump"
