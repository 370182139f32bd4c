# NOT ExecuTorch's own package: a stand-in for what `cmake --install` of its sources gives, which are not at hand here.
# The same bare target names, over the libraries and headers of the Python package in EXECUTORCH_PACKAGE.
function(standin_library name file)
  add_library(${name} SHARED IMPORTED GLOBAL)
  set_target_properties(${name} PROPERTIES IMPORTED_LOCATION "${EXECUTORCH_PACKAGE}/lib/${file}")
endfunction()

standin_library(executorch_core libexecutorch.so)
target_include_directories(
  executorch_core SYSTEM
  INTERFACE "${EXECUTORCH_PACKAGE}/include" "${EXECUTORCH_PACKAGE}/include/executorch/runtime/core/portable_type/c10"
)
target_compile_definitions(executorch_core INTERFACE C10_USING_CUSTOM_GENERATED_MACROS ET_EVENT_TRACER_ENABLED)
standin_library(extension_threadpool libexecutorch_threadpool.so)
target_compile_definitions(extension_threadpool INTERFACE ET_USE_THREADPOOL)
target_link_libraries(extension_threadpool INTERFACE executorch_core)
