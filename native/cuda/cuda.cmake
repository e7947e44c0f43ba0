# The CUDA back end: one shared library that needs neither libcuda nor cuBLAS to be opened (the runtime is linked
# statically and looks for the driver itself).
#
# By default every kernel is translated once, for the oldest card, and assembled for each of six generations; the
# translation travels along as PTX, for cards that come later. No kernel asks which card it is compiled for, and a
# translation for each would take most of the build.
set(ALLMREC_CUDA_ARCHITECTURES "" CACHE STRING
  "Cards to build for, as CMAKE_CUDA_ARCHITECTURES (`native`, `90-real`); empty for all")
if(ALLMREC_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES ${ALLMREC_CUDA_ARCHITECTURES})
  set(cuda_cards)
else()
  set(CMAKE_CUDA_ARCHITECTURES OFF)
  set(cuda_cards "SHELL:-gencode arch=compute_80,code=[compute_80,sm_80,sm_86,sm_89,sm_90,sm_100,sm_120]")
endif()
enable_language(CUDA)
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)

if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
  list(APPEND cuda_cards -compress-mode=size)  # a fifth of the size
endif()

sources_of(cuda_sources cuda)
add_library(allmrec_cuda SHARED ${cuda_sources})
set_target_properties(allmrec_cuda PROPERTIES PREFIX "" CUDA_VISIBILITY_PRESET hidden
  LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
target_include_directories(allmrec_cuda PRIVATE native/cpp native/cuda)
target_compile_definitions(allmrec_cuda PRIVATE ALLMREC_VERSION="${package_version}")
target_compile_options(allmrec_cuda PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:-O3>" "$<$<COMPILE_LANGUAGE:CUDA>:${cuda_cards}>")
# Nothing but the entry points is seen from outside, the standard library's templates neither.
target_link_options(allmrec_cuda PRIVATE -Wl,--version-script=${CMAKE_CURRENT_SOURCE_DIR}/native/cuda/exports.map
  -static-libstdc++ -static-libgcc)
target_link_libraries(allmrec_cuda PRIVATE ${CMAKE_DL_LIBS} Threads::Threads)
