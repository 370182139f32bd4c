# NOT ExecuTorch's own package: a stand-in for what `cmake --install` of its sources gives, which are not at hand here.
# The same bare target names, over the libraries and headers of the Python package in EXECUTORCH_PACKAGE. As there, the
# core is a static library (here an empty one, in front of the shared one), and executorch-shared comes with
# EXECUTORCH_BUILD_SHARED.
add_library(executorch_core STATIC IMPORTED)
file(WRITE "${CMAKE_BINARY_DIR}/libexecutorch_core.a" "!<arch>\n")
set_target_properties(executorch_core PROPERTIES IMPORTED_LOCATION "${CMAKE_BINARY_DIR}/libexecutorch_core.a")
target_link_libraries(executorch_core INTERFACE "${EXECUTORCH_PACKAGE}/lib/libexecutorch.so")
set(runtimes executorch_core)
if(EXECUTORCH_BUILD_SHARED)
  add_library(executorch-shared SHARED IMPORTED)
  set_target_properties(
    executorch-shared PROPERTIES IMPORTED_LOCATION "${EXECUTORCH_PACKAGE}/lib/libexecutorch.so"
  )
  list(APPEND runtimes executorch-shared)
endif()
foreach(runtime IN LISTS runtimes)
  target_include_directories(
    ${runtime} SYSTEM
    INTERFACE "${EXECUTORCH_PACKAGE}/include" "${EXECUTORCH_PACKAGE}/include/executorch/runtime/core/portable_type/c10"
  )
  target_compile_definitions(${runtime} INTERFACE C10_USING_CUSTOM_GENERATED_MACROS ET_EVENT_TRACER_ENABLED)
endforeach()

add_library(extension_threadpool SHARED IMPORTED)
set_target_properties(
  extension_threadpool PROPERTIES IMPORTED_LOCATION "${EXECUTORCH_PACKAGE}/lib/libexecutorch_threadpool.so"
)
target_compile_definitions(extension_threadpool INTERFACE ET_USE_THREADPOOL)

add_library(etdump STATIC IMPORTED) # without headers, as there
set_target_properties(etdump PROPERTIES IMPORTED_LOCATION "${CMAKE_BINARY_DIR}/libexecutorch_core.a")
