# Compiles for Android's target without an NDK, to check that it can be done: clang 19, libc++ in the NDK's namespace
# __ndk1, and musl's headers in the place of bionic's. What comes out cannot be shipped (docs/android.md).
#
# PACKQVIT_ANDROID_SYSROOT: made by scripts/android_check.py: include/c++config, include/musl-arch, include/musl.
set(CMAKE_SYSTEM_NAME Linux) # CMake's own "Android" asks for an NDK
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER clang++-19)
set(CMAKE_CXX_COMPILER_TARGET aarch64-linux-android26)
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES PACKQVIT_ANDROID_SYSROOT)

set(root "${PACKQVIT_ANDROID_SYSROOT}/include")
string(
  JOIN " " CMAKE_CXX_FLAGS_INIT
  -nostdinc++ -nostdlibinc
  "-isystem ${root}/c++config" "-isystem /usr/lib/llvm-19/include/c++/v1"
  "-isystem ${CMAKE_CURRENT_LIST_DIR}/include" "-isystem ${root}/musl-arch" "-isystem ${root}/musl"
  -fPIC -ffunction-sections -fdata-sections -funwind-tables -fstack-protector-strong -DANDROID # as the NDK's
)
set(CMAKE_SHARED_LINKER_FLAGS_INIT "-fuse-ld=lld -nostdlib -Wl,--gc-sections -Wl,-z,max-page-size=16384 -Wl,-z,noexecstack")
