# Libraries, header, package config and, where it is built, the runner: for `cmake --install`, and inside the wheel's
# package, which has no static library: its ExecuTorch is a shared one.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

if(SKBUILD)
  set(packqvit_library_dir packqvit_delegate/lib)
  set(packqvit_binary_dir packqvit_delegate/bin)
  set(packqvit_include_dir packqvit_delegate/include)
  set(packqvit_package_dir packqvit_delegate/share/cmake/packqvit)
  set(packqvit_libraries packqvit_backend)
  set(packqvit_programs packqvit_runner packqvit_conformance)
else()
  set(packqvit_library_dir "${CMAKE_INSTALL_LIBDIR}")
  set(packqvit_binary_dir "${CMAKE_INSTALL_BINDIR}")
  set(packqvit_include_dir "${CMAKE_INSTALL_INCLUDEDIR}")
  set(packqvit_package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/packqvit")
  set(packqvit_libraries packqvit_backend_archive packqvit_backend_static)
  if(TARGET packqvit_backend)
    list(APPEND packqvit_libraries packqvit_backend)
  endif()
  set(packqvit_programs packqvit_runner)
endif()

install(
  TARGETS ${packqvit_libraries}
  EXPORT packqvit-targets
  LIBRARY DESTINATION "${packqvit_library_dir}"
  ARCHIVE DESTINATION "${packqvit_library_dir}"
  INCLUDES
  DESTINATION "${packqvit_include_dir}"
)
install(DIRECTORY backend_cpp/include/packqvit DESTINATION "${packqvit_include_dir}")
install(EXPORT packqvit-targets NAMESPACE packqvit:: DESTINATION "${packqvit_package_dir}")
write_basic_package_version_file(
  "${CMAKE_CURRENT_BINARY_DIR}/packqvit-config-version.cmake" COMPATIBILITY SameMinorVersion
)
install(FILES cmake/packqvit-config.cmake cmake/PackQViTExecuTorch.cmake
              "${CMAKE_CURRENT_BINARY_DIR}/packqvit-config-version.cmake" DESTINATION "${packqvit_package_dir}"
)
foreach(program IN LISTS packqvit_programs)
  if(TARGET ${program})
    install(TARGETS ${program} RUNTIME DESTINATION "${packqvit_binary_dir}")
  endif()
endforeach()
if(SKBUILD)
  install(PROGRAMS backend_cpp/runner/on_path.py DESTINATION "${SKBUILD_SCRIPTS_DIR}" RENAME packqvit_runner)
endif()
