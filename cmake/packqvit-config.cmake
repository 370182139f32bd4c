# Finds an installed packqvit_backend and the ExecuTorch that it belongs to (PackQViTExecuTorch.cmake: executorch_DIR; the
# Python package's is the one that is installed beside it).
#
#   packqvit::backend         linking it registers the backend: a shared library, or where it was built with a static
#                             ExecuTorch, the static one
#   packqvit::backend_static  static library, linked whole: its registration is not dropped; not in the Python package
if(CMAKE_VERSION VERSION_LESS 3.28)
  set(packqvit_FOUND FALSE)
  set(packqvit_NOT_FOUND_MESSAGE "CMake 3.28 or later is needed")
  return()
endif()
set(packqvit_executorch_beside "${CMAKE_CURRENT_LIST_DIR}/../../../../executorch/share/cmake")
if(NOT executorch_DIR AND EXISTS "${packqvit_executorch_beside}/executorch-config.cmake")
  file(REAL_PATH "${packqvit_executorch_beside}" executorch_DIR)
endif()
include("${CMAKE_CURRENT_LIST_DIR}/PackQViTExecuTorch.cmake")
include("${CMAKE_CURRENT_LIST_DIR}/packqvit-targets.cmake")
if(TARGET packqvit::backend_archive)
  target_link_libraries(packqvit::backend_archive INTERFACE packqvit_executorch)
endif()
if(NOT TARGET packqvit::backend)
  add_library(packqvit::backend ALIAS packqvit::backend_static)
endif()
