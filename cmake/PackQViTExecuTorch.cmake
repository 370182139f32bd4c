# Provides the interface target packqvit_executorch: whatever ExecuTorch this build is given.
#
#   1. ExecuTorch is part of the same CMake build (add_subdirectory before ours): executorch_shared where it is built with
#      EXECUTORCH_BUILD_SHARED, else executorch_core.
#   2. An installed source build (`cmake --install` of ExecuTorch): executorch-shared or executorch_core of its package.
#   3. The Python package: executorch::runtime of the wheel, 1.5 or later in 1.x.
#
# Sets PACKQVIT_EXECUTORCH_IS_STATIC where the runtime, and with it the registry of backends, is copied into every binary
# that links it: a shared library of ours would then register with a copy that nobody asks.
#
# For 2 and 3 set executorch_DIR to the folder of executorch-config.cmake; without it, the Python package is looked for.
# Also installed beside our package config, for which it does the same.

if(TARGET packqvit_executorch)
  return()
endif()
add_library(packqvit_executorch INTERFACE)

if(NOT TARGET executorch_core AND NOT TARGET executorch_shared AND NOT TARGET executorch::runtime)
  if(NOT executorch_DIR)
    find_package(Python REQUIRED COMPONENTS Interpreter)
    execute_process(
      COMMAND "${Python_EXECUTABLE}" -c
              "import importlib.util as u; print(list(u.find_spec('executorch').submodule_search_locations)[0])"
      OUTPUT_VARIABLE packqvit_executorch_root
      OUTPUT_STRIP_TRAILING_WHITESPACE
      RESULT_VARIABLE packqvit_executorch_status
      ERROR_QUIET
    )
    if(NOT packqvit_executorch_status EQUAL 0)
      message(FATAL_ERROR "${Python_EXECUTABLE} has no executorch package. Install executorch 1.5.1, or pass "
                          "-Dexecutorch_DIR=<executorch package>/share/cmake.")
    endif()
    if(CMAKE_CROSSCOMPILING)
      message(FATAL_ERROR "Cross compiling: pass -Dexecutorch_DIR=<where the target's ExecuTorch is installed>"
                          "/lib/cmake/ExecuTorch, or unpack the target's executorch wheel and pass "
                          "-Dexecutorch_DIR=<unpacked>/executorch/share/cmake.")
    endif()
    set(executorch_DIR "${packqvit_executorch_root}/share/cmake" CACHE PATH "ExecuTorch's CMake package")
  endif()
  # The package of a source build has neither a version file nor components.
  find_package(executorch REQUIRED PATHS "${executorch_DIR}" NO_CMAKE_FIND_ROOT_PATH)
  if(EXECUTORCH_BUILD_VERSION AND (EXECUTORCH_BUILD_VERSION VERSION_LESS 1.5 OR EXECUTORCH_BUILD_VERSION
                                                                                VERSION_GREATER_EQUAL 2))
    message(FATAL_ERROR "ExecuTorch ${EXECUTORCH_BUILD_VERSION} in ${executorch_DIR}: 1.5 or later in 1.x is needed")
  endif()
  message(STATUS "ExecuTorch ${EXECUTORCH_BUILD_VERSION} in ${executorch_DIR}")
endif()

set(PACKQVIT_EXECUTORCH_IS_STATIC OFF)
if(TARGET executorch_shared)
  target_link_libraries(packqvit_executorch INTERFACE executorch_shared)
elseif(TARGET executorch-shared)
  target_link_libraries(packqvit_executorch INTERFACE executorch-shared)
elseif(TARGET executorch_core)
  target_link_libraries(packqvit_executorch INTERFACE executorch_core)
  get_target_property(packqvit_executorch_type executorch_core TYPE)
  if(packqvit_executorch_type STREQUAL "STATIC_LIBRARY")
    set(PACKQVIT_EXECUTORCH_IS_STATIC ON)
  endif()
elseif(TARGET executorch::runtime)
  target_link_libraries(packqvit_executorch INTERFACE executorch::runtime)
  if(SKBUILD)
    # The wheel finds the runtime relative to itself: the absolute path of the build's own ExecuTorch has no place in it.
    foreach(component runtime threadpool kernels_optimized kernels_quantized backend_xnnpack etdump)
      if(TARGET executorch::${component})
        get_target_property(options executorch::${component} INTERFACE_LINK_OPTIONS)
        list(FILTER options EXCLUDE REGEX "-rpath,/")
        set_target_properties(executorch::${component} PROPERTIES INTERFACE_LINK_OPTIONS "${options}")
      endif()
    endforeach()
  endif()
else()
  message(FATAL_ERROR "The ExecuTorch package in ${executorch_DIR} has neither executorch_core nor executorch::runtime")
endif()
if(TARGET extension_threadpool)
  target_link_libraries(packqvit_executorch INTERFACE extension_threadpool)
endif()
