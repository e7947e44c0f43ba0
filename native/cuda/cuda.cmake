# The CUDA back end: one shared library that needs neither libcuda nor cuBLAS to be opened (the runtime is linked
# statically and looks for the driver itself). The cards of ALLMREC_CUDA_ARCHITECTURES get machine code, the last
# one also PTX, for cards that come later.
set(ALLMREC_CUDA_ARCHITECTURES "80-real;86-real;89-real;90-real;100-real;120" CACHE STRING
  "Cards to build for; `native` for those of this machine")
set(CMAKE_CUDA_ARCHITECTURES ${ALLMREC_CUDA_ARCHITECTURES})
enable_language(CUDA)
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)

sources_of(cuda_sources cuda)
add_library(allmrec_cuda SHARED ${cuda_sources})
set_target_properties(allmrec_cuda PROPERTIES PREFIX "" CUDA_VISIBILITY_PRESET hidden
  LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
target_include_directories(allmrec_cuda PRIVATE native/cpp native/cuda)
target_compile_definitions(allmrec_cuda PRIVATE ALLMREC_VERSION="${package_version}")
# g++'s warnings are for g++; --threads compiles the architectures of a file side by side.
target_compile_options(allmrec_cuda PRIVATE
  $<$<COMPILE_LANGUAGE:CUDA>:-O3 --threads 2 -Xcudafe --diag_suppress=177>)
target_link_options(allmrec_cuda PRIVATE -Wl,--exclude-libs,ALL -static-libstdc++ -static-libgcc)
target_link_libraries(allmrec_cuda PRIVATE ${CMAKE_DL_LIBS} Threads::Threads)
