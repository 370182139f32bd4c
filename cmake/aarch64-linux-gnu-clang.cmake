# As aarch64-linux-gnu.cmake, with Debian's clang-19 in front of the same libraries: Android's NDK compiles with clang, so
# that what is counted and modelled for phones has to be clang's code.
include("${CMAKE_CURRENT_LIST_DIR}/aarch64-linux-gnu.cmake")
set(CMAKE_C_COMPILER clang-19)
set(CMAKE_CXX_COMPILER clang++-19)
set(CMAKE_C_COMPILER_TARGET aarch64-linux-gnu)
set(CMAKE_CXX_COMPILER_TARGET aarch64-linux-gnu)
