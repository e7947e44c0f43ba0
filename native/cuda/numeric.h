#pragma once

// Loads, stores and conversions over the storage types float, __half and __nv_bfloat16; sums over warps and
// blocks. Arithmetic is float32 throughout.

#include "../cpp/backend/backend.h"
#include "platform.h"

namespace allmrec::cuda {

__device__ __forceinline__ float to_float(float x) {
  return x;
}
__device__ __forceinline__ float to_float(__half x) {
  return __half2float(x);
}
__device__ __forceinline__ float to_float(__nv_bfloat16 x) {
  return __bfloat162float(x);
}

template <typename T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __half from_float<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// Two values in one 32-bit register, the first in the low half: what the matrix fragments hold.
template <typename T>
__device__ __forceinline__ uint32_t pack2(float low, float high);
template <>
__device__ __forceinline__ uint32_t pack2<__half>(float low, float high) {
  const uint32_t a = __half_as_ushort(__float2half_rn(low)), b = __half_as_ushort(__float2half_rn(high));
  return a | b << 16;
}
template <>
__device__ __forceinline__ uint32_t pack2<__nv_bfloat16>(float low, float high) {
  const uint32_t a = __bfloat16_as_ushort(__float2bfloat16_rn(low)),
                 b = __bfloat16_as_ushort(__float2bfloat16_rn(high));
  return a | b << 16;
}

// 16 bytes moved as one: Vector<float>::size = 4 values, of halves 8. The pointer must be 16-byte aligned.
template <typename T>
struct alignas(16) Vector {
  static constexpr int size = 16 / static_cast<int>(sizeof(T));
  T value[size];
};
template <typename T>
__device__ __forceinline__ Vector<T> load_vector(const T* p) {
  union {
    uint4 raw;
    Vector<T> vector;
  } u;
  u.raw = *reinterpret_cast<const uint4*>(p);
  return u.vector;
}
template <typename T>
__device__ __forceinline__ void store_vector(T* p, const Vector<T>& v) {
  union {
    uint4 raw;
    Vector<T> vector;
  } u;
  u.vector = v;
  *reinterpret_cast<uint4*>(p) = u.raw;
}
inline bool aligned_16(const void* p) {
  return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

__device__ __forceinline__ float warp_sum(float x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(kAllLanes, x, offset);
  return x;
}
__device__ __forceinline__ double warp_sum(double x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(kAllLanes, x, offset);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
  for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, offset));
  return x;
}

// The sum over all threads of a one-dimensional block of whole warps, for every thread. `shared` holds one
// value a warp; it must not be written again before the block's next barrier.
template <typename T>
__device__ __forceinline__ T block_sum(T x, T* shared) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  x = warp_sum(x);
  if (warps == 1) return x;
  if (lane == 0) shared[warp] = x;
  __syncthreads();
  return warp_sum(lane < warps ? shared[lane] : T(0));
}
__device__ __forceinline__ float block_max(float x, float* shared) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  x = warp_max(x);
  if (warps == 1) return x;
  if (lane == 0) shared[warp] = x;
  __syncthreads();
  return warp_max(lane < warps ? shared[lane] : shared[0]);
}

// Calls fn with a value of the storage type a dtype names: by_storage(dtype, [&](auto zero) { using T =
// decltype(zero); … }). Any other dtype is the caller's error and calls nothing.
template <typename Fn>
inline void by_storage(int32_t dtype, Fn&& fn) {
  if (dtype == ALLMREC_F32) fn(float{});
  if (dtype == ALLMREC_F16) fn(__half{});
  if (dtype == ALLMREC_BF16) fn(__nv_bfloat16{});
}

}  // namespace allmrec::cuda
