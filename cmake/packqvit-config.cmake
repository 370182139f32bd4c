# Finds an installed packqvit_backend and the ExecuTorch that it belongs to (PackQViTExecuTorch.cmake: executorch_DIR).
#
#   packqvit::backend         linking it registers the backend: a shared library, or where it was built with a static
#                             ExecuTorch, the static one
#   packqvit::backend_static  static library, linked whole: its registration is not dropped
if(CMAKE_VERSION VERSION_LESS 3.28)
  set(packqvit_FOUND FALSE)
  set(packqvit_NOT_FOUND_MESSAGE "CMake 3.28 or later is needed")
  return()
endif()
include("${CMAKE_CURRENT_LIST_DIR}/PackQViTExecuTorch.cmake")
include("${CMAKE_CURRENT_LIST_DIR}/packqvit-targets.cmake")
target_link_libraries(packqvit::backend_archive INTERFACE packqvit_executorch)
if(NOT TARGET packqvit::backend)
  add_library(packqvit::backend ALIAS packqvit::backend_static)
endif()
