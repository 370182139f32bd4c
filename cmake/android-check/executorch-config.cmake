# Stands in for an installed source build of ExecuTorch for Android: its bare target names over a libexecutorch.so that
# the NDK built, with the headers of the release that we build for and the definitions of ExecuTorch's Android build.
#
# PACKQVIT_ANDROID_LIBEXECUTORCH, PACKQVIT_ANDROID_EXECUTORCH_INCLUDE: given by scripts/android_check.py.
add_library(executorch_core SHARED IMPORTED)
set_target_properties(executorch_core PROPERTIES IMPORTED_LOCATION "${PACKQVIT_ANDROID_LIBEXECUTORCH}")
target_compile_definitions(executorch_core INTERFACE C10_USING_CUSTOM_GENERATED_MACROS ET_USE_THREADPOOL)
target_include_directories(
  executorch_core SYSTEM
  INTERFACE "${PACKQVIT_ANDROID_EXECUTORCH_INCLUDE}"
            "${PACKQVIT_ANDROID_EXECUTORCH_INCLUDE}/executorch/runtime/core/portable_type/c10"
)
