# `cmake --install`: libraries, header, package config and, where it is built, the runner.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(packqvit_package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/packqvit")
set(packqvit_libraries packqvit_backend_archive packqvit_backend_static)
if(TARGET packqvit_backend)
  list(APPEND packqvit_libraries packqvit_backend)
endif()
install(
  TARGETS ${packqvit_libraries}
  EXPORT packqvit-targets
  LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}"
  ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}"
)
install(DIRECTORY backend_cpp/include/packqvit DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(EXPORT packqvit-targets NAMESPACE packqvit:: DESTINATION "${packqvit_package_dir}")
write_basic_package_version_file(
  "${CMAKE_CURRENT_BINARY_DIR}/packqvit-config-version.cmake" COMPATIBILITY SameMinorVersion
)
install(FILES cmake/packqvit-config.cmake cmake/PackQViTExecuTorch.cmake
              "${CMAKE_CURRENT_BINARY_DIR}/packqvit-config-version.cmake" DESTINATION "${packqvit_package_dir}"
)
if(TARGET packqvit_runner)
  install(TARGETS packqvit_runner RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
endif()
