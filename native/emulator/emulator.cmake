# The CUDA back end compiled by the C++ compiler: a library for device `cudaemu`, and the op table's tests in three
# builds. The kernels are the same files; -x c++ makes them C++.
sources_of(cuda_sources cuda)
sources_of(emulator_sources emulator)
sources_of(op_test_sources tests op_test)
foreach(file IN LISTS cuda_sources)
  if(file MATCHES "\\.cu$")
    set_source_files_properties(${file} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-x;c++")
  endif()
endforeach()

set(emulator_flags_fast -O2)
set(emulator_flags_asan -O1 -g1 -fno-omit-frame-pointer -fsanitize=address,undefined
  -fno-sanitize-recover=undefined)
set(emulator_flags_race -O1 -g1)
set(kernel_flags_race -fsanitize=thread)

# What all three share, on each side of the table: the emulator with the back end, and the test program.
foreach(build fast asan race)
  add_library(emulator_runtime_${build} OBJECT ${emulator_sources})
  add_library(emulator_kernels_${build} OBJECT ${cuda_sources})
  foreach(target emulator_runtime_${build} emulator_kernels_${build})
    target_include_directories(${target} PRIVATE native/cpp native/cuda native/emulator)
    target_compile_definitions(${target} PRIVATE ALLMREC_EMULATOR ALLMREC_EMULATOR_BUILD="${build}"
      ALLMREC_VERSION="${package_version}")
    target_compile_options(${target} PRIVATE ${emulator_flags_${build}} -Wno-unknown-pragmas)
  endforeach()
  target_compile_options(emulator_kernels_${build} PRIVATE ${kernel_flags_${build}})
endforeach()
