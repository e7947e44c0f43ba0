#pragma once

// The one place where kernels meet their compiler. Under nvcc this is CUDA; with ALLMREC_EMULATOR the same
// sources are C++ for g++ and every thread of a block is a fiber (native/emulator). Kernels include this
// header, intrinsics.h and numeric.h, and use nothing of CUDA that the emulator does not have.

#if defined(ALLMREC_EMULATOR)
#include "../emulator/cuda_emulator.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

#include <cstddef>
#include <cstdint>

namespace allmrec::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr size_t kDefaultShared = 48 * 1024;  // what a block may use without being asked for

#if !defined(ALLMREC_EMULATOR)
// kernel<<<grid, block, shared, stream>>>(args…). An empty grid launches nothing.
template <typename... Params, typename... Args>
inline void launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                   Args... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  if (shared > kDefaultShared)
    cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                         static_cast<int>(shared));
  kernel<<<grid, block, shared, stream>>>(static_cast<Params>(args)...);
}

// The block's dynamic shared memory, 16-byte aligned.
__device__ __forceinline__ void* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char allmrec_dynamic_shared[];
  return allmrec_dynamic_shared;
}
#else
template <typename... Params, typename... Args>
inline void launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                   Args... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  if (shared > kDefaultShared)
    cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                         static_cast<int>(shared));
  emulator::launch(grid, block, shared, stream, reinterpret_cast<const void*>(kernel),
                   [=] { kernel(static_cast<Params>(args)...); });
}

inline void* dynamic_shared() {
  return emulator::dynamic_shared();
}
#endif

}  // namespace allmrec::cuda
