# The compile options that every target of ours shares: packqvit_options.

add_library(packqvit_options INTERFACE)
target_compile_options(
  packqvit_options
  INTERFACE -Wall
            -Wextra
            # A contracted multiply-add rounds once where docs/numerics.md rounds twice.
            -ffp-contract=off
            $<$<CONFIG:Release>:-O3>
            $<$<BOOL:${PACKQVIT_WERROR}>:-Werror>
)
if(PACKQVIT_SANITIZE)
  target_compile_options(
    packqvit_options INTERFACE -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
  )
  target_link_options(packqvit_options INTERFACE -fsanitize=address,undefined)
endif()

# The wheel puts our library beside ExecuTorch's package; a build tree records where that lies.
if(SKBUILD)
  set(CMAKE_INSTALL_RPATH "$ORIGIN/../../executorch/lib" "$ORIGIN/../lib")
else()
  set(CMAKE_INSTALL_RPATH "$ORIGIN" "$ORIGIN/../lib")
  set(CMAKE_INSTALL_RPATH_USE_LINK_PATH ON)
endif()
