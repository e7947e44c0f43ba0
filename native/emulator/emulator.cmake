# The CUDA back end compiled by the C++ compiler: a library for device `cudaemu`, and the op table's tests in three
# builds. The kernels are the same files; -x c++ makes them C++.
#   fast  three schedules; wrong results and impossible synchronisation
#   asan  out-of-bounds and undefined behaviour
#   race  instrumented by -fsanitize=thread, whose hooks are the emulator's own
sources_of(cuda_sources cuda)
sources_of(emulator_sources emulator)
sources_of(op_test_sources tests op_test)
sources_of(emulator_test_sources emulator_tests emulator_test)
foreach(file IN LISTS cuda_sources)
  if(file MATCHES "\\.cu$")
    set_source_files_properties(${file} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-x;c++")
  endif()
endforeach()

set(emulator_flags_fast -O2)
set(emulator_flags_asan -O1 -g1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined)
set(emulator_flags_race -O1 -g1)
set(kernel_flags_race -fsanitize=thread)
set(kernel_flags_asan -O0)  # compiles much faster than -O1
set(link_flags_asan -fsanitize=address,undefined)

add_library(emulated_op_tests OBJECT ${op_test_sources} native/emulator/linked_backend.cpp)
target_include_directories(emulated_op_tests PRIVATE native/cpp)
target_compile_options(emulated_op_tests PRIVATE -O1)

foreach(build fast asan race)
  add_library(emulator_runtime_${build} OBJECT ${emulator_sources})
  add_library(emulated_kernels_${build} OBJECT ${cuda_sources})
  add_library(emulator_test_${build}_objects OBJECT ${emulator_test_sources})
  foreach(target emulator_runtime_${build} emulated_kernels_${build} emulator_test_${build}_objects)
    target_include_directories(${target} PRIVATE native native/cpp native/cuda native/emulator)
    target_compile_definitions(${target} PRIVATE ALLMREC_EMULATOR $<$<STREQUAL:${build},race>:ALLMREC_EMULATOR_RACE>
      ALLMREC_VERSION="${package_version}")
    target_compile_options(${target} PRIVATE ${emulator_flags_${build}} -Wno-unknown-pragmas)
  endforeach()
  target_compile_options(emulated_kernels_${build} PRIVATE ${kernel_flags_${build}})
  target_compile_options(emulator_test_${build}_objects PRIVATE ${kernel_flags_${build}})

  # The runtime comes first: where an inline function has a copy in each, the linker keeps the first, and the
  # hooks of the race build must not call an instrumented one.
  add_executable(op_test_${build} $<TARGET_OBJECTS:emulator_runtime_${build}> $<TARGET_OBJECTS:emulated_op_tests>
    $<TARGET_OBJECTS:emulated_kernels_${build}>)
  add_executable(emulator_test_${build} $<TARGET_OBJECTS:emulator_runtime_${build}>
    $<TARGET_OBJECTS:emulator_test_${build}_objects>)
  foreach(program op_test_${build} emulator_test_${build})
    target_link_options(${program} PRIVATE ${link_flags_${build}} -rdynamic)
    target_link_libraries(${program} PRIVATE Threads::Threads ${CMAKE_DL_LIBS})
  endforeach()
endforeach()

add_library(allmrec_cudaemu SHARED $<TARGET_OBJECTS:emulated_kernels_fast> $<TARGET_OBJECTS:emulator_runtime_fast>)
set_target_properties(allmrec_cudaemu PROPERTIES PREFIX "" LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
target_link_libraries(allmrec_cudaemu PRIVATE Threads::Threads ${CMAKE_DL_LIBS})

# A stand-in for cuBLASLt with its entry points: the library's part of every matrix product, checked without it.
add_library(fake_cublaslt SHARED native/emulator/fake_cublaslt.cpp)
set_target_properties(fake_cublaslt PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR} CXX_VISIBILITY_PRESET default)

foreach(program cublaslt_test cuda_backend_test)
  sources_of(program_sources emulator_tests ${program})
  add_executable(${program} $<TARGET_OBJECTS:emulated_kernels_fast> $<TARGET_OBJECTS:emulator_runtime_fast>
    ${program_sources})
  target_include_directories(${program} PRIVATE native/cpp native/cuda native/emulator)
  target_compile_definitions(${program} PRIVATE ALLMREC_EMULATOR)
  target_link_options(${program} PRIVATE -rdynamic)
  target_link_libraries(${program} PRIVATE Threads::Threads ${CMAKE_DL_LIBS})
endforeach()

# A library of an older op table, for the message about it.
sources_of(old_backend_sources emulator_tests old_backend)
add_library(old_backend SHARED ${old_backend_sources})
set_target_properties(old_backend PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
