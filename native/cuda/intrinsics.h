#pragma once

// The instructions kernels use beyond CUDA C++: asynchronous copies, matrix fragments, the integer dot
// product. PTX under nvcc; under the emulator a rendezvous of the warp with the documented fragment layouts.
// No kernel writes PTX of its own.
//
// Fragment layouts (PTX ISA, "Matrix multiply-accumulate"), lane l, g = l / 4, t = l % 4:
//   m16n8k16  A (16×16, row-major): a[0] = rows g,   columns 2t, 2t+1;  a[1] = row g+8, same columns;
//                                   a[2] = row g, columns 2t+8, 2t+9;   a[3] = row g+8, columns 2t+8, 2t+9
//             B (16×8):             b[0] = rows 2t, 2t+1 of column g;   b[1] = rows 2t+8, 2t+9 of column g
//             D (16×8, float):      d[0], d[1] = row g, columns 2t, 2t+1;  d[2], d[3] = row g+8
//   ldmatrix: lane i gives the address of row i % 8 of matrix i / 8 (8 rows of 16 bytes); register m of lane
//   l
//             holds elements 2t, 2t+1 of row g of matrix m; transposed: elements (2t, g) and (2t+1, g).

#include "platform.h"

namespace allmrec::cuda {

#if !defined(ALLMREC_EMULATOR)

// Copies 16 bytes from global to shared memory without passing a register; they are there after the wait for
// their group and a barrier. valid = false writes 16 zero bytes and reads nothing. Both 16-byte aligned.
__device__ __forceinline__ void cp_async_16(void* shared, const void* global, bool valid = true) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(address), "l"(global), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void cp_async_commit() {
  asm volatile("cp.async.commit_group;\n" ::: "memory");
}
// Waits until at most `Pending` of this thread's latest groups are under way.
template <int Pending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(Pending) : "memory");
}

__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* shared) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* shared) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], const void* shared) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];\n"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x2_trans(uint32_t (&r)[2], const void* shared) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];\n"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(address)
               : "memory");
}

// d += A · B of one 16×8×16 tile; T = __half or __nv_bfloat16.
template <typename T>
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
template <>
__device__ __forceinline__ void mma_m16n8k16<__half>(float (&d)[4], const uint32_t (&a)[4],
                                                     const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
__device__ __forceinline__ void mma_m16n8k16<__nv_bfloat16>(float (&d)[4], const uint32_t (&a)[4],
                                                            const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// 2 to the power of x, to two units in the last place; below 2^-126 it is zero, which spares exp2f's scaling.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

// c + the dot product of four signed bytes in a with four in b.
__device__ __forceinline__ int dot4(int a, int b, int c) {
  return __dp4a(a, b, c);
}

#else

// The default arguments pass on the kernel's own file and line.
inline void cp_async_16(void* shared, const void* global, bool valid = true, ALLMREC_EMULATOR_HERE) {
  emulator::cp_async_16(shared, global, valid, site);
}
inline void cp_async_commit() {
  emulator::cp_async_commit();
}
template <int Pending>
inline void cp_async_wait(ALLMREC_EMULATOR_HERE) {
  emulator::cp_async_wait(Pending, site);
}
inline void ldmatrix_x4(uint32_t (&r)[4], const void* shared, ALLMREC_EMULATOR_HERE) {
  emulator::ldmatrix(r, 4, false, shared, site);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* shared, ALLMREC_EMULATOR_HERE) {
  emulator::ldmatrix(r, 4, true, shared, site);
}
inline void ldmatrix_x2(uint32_t (&r)[2], const void* shared, ALLMREC_EMULATOR_HERE) {
  emulator::ldmatrix(r, 2, false, shared, site);
}
inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void* shared, ALLMREC_EMULATOR_HERE) {
  emulator::ldmatrix(r, 2, true, shared, site);
}
template <typename T>
inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                         ALLMREC_EMULATOR_HERE) {
  emulator::mma_m16n8k16(d, a, b, emulator::IsBfloat16<T>::value, site);
}
inline float exp2_fast(float x) {
  return exp2f(x);
}
inline int dot4(int a, int b, int c) {
  return __dp4a(a, b, c);
}

#endif

}  // namespace allmrec::cuda
