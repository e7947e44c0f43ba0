#pragma once

// What a kernel asks of its block: where it runs, barriers, warp operations, copies, matrix fragments; and
// the launch itself.

#include <memory>
#include <type_traits>
#include <utility>

#include "runtime_api.h"
#include "types.h"

namespace allmrec::emulator {

// Where the running thread is. Kept up to date by the scheduler.
struct Coordinates {
  uint3 thread, block;
  dim3 block_size, grid_size;
};
extern Coordinates here;

enum class Op : uint8_t {
  barrier,
  barrier_count,
  barrier_and,
  barrier_or,
  sync_warp,
  shuffle,
  ballot,
  any,
  all,
  match_any,
  reduce_add,
  reduce_min,
  reduce_max,
  reduce_min_signed,
  reduce_max_signed,
  reduce_and,
  reduce_or,
  reduce_xor,
  ldmatrix,
  mma,
};

int block_barrier(Op op, int predicate, Site site);
// One value from each lane of `mask`; what each gets back depends on the operation.
uint64_t warp_operation(Op op, uint32_t mask, uint64_t value, Site site);
enum class Shuffle { from, up, down, exclusive_or };
uint64_t shuffle(Shuffle how, uint32_t mask, uint64_t value, int argument, int width, Site site);
void sync_warp(uint32_t mask, Site site);
void fence();
[[noreturn]] void trap(Site site);

void* dynamic_shared();

// A copy lands when its thread waits for its group. Until then the destination holds NaN.
void cp_async_16(void* shared, const void* global, bool valid = true, ALLMREC_EMULATOR_HERE);
void cp_async_commit();
void cp_async_wait(int pending, ALLMREC_EMULATOR_HERE);

// The layouts are those of native/cuda/intrinsics.h.
void ldmatrix(uint32_t* r, int count, bool transposed, const void* shared, ALLMREC_EMULATOR_HERE);
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bool bfloat16,
                  ALLMREC_EMULATOR_HERE);

// A kernel with its arguments. `object` and `size` say where the arguments lie.
struct Body {
  std::shared_ptr<const void> object;
  size_t size;
  void (*call)(const void* object);
};
void launch(dim3 grid, dim3 block, size_t shared, cudaStream_t stream, const void* kernel, Body body);

template <typename Fn>
inline void launch(dim3 grid, dim3 block, size_t shared, cudaStream_t stream, const void* kernel, Fn fn) {
  launch(grid, block, shared, stream, kernel,
         Body{std::make_shared<Fn>(std::move(fn)), sizeof(Fn),
              [](const void* object) { (*static_cast<const Fn*>(object))(); }});
}

template <typename T>
inline uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "lanes exchange up to 8 bytes");
  uint64_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof value);
  return bits;
}
template <typename T>
inline T from_bits(uint64_t bits) {
  T value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace allmrec::emulator

namespace {
constexpr const uint3& threadIdx = ::allmrec::emulator::here.thread;
constexpr const uint3& blockIdx = ::allmrec::emulator::here.block;
constexpr const dim3& blockDim = ::allmrec::emulator::here.block_size;
constexpr const dim3& gridDim = ::allmrec::emulator::here.grid_size;
constexpr int warpSize = 32;
}  // namespace

inline void __syncthreads(ALLMREC_EMULATOR_HERE) {
  allmrec::emulator::block_barrier(allmrec::emulator::Op::barrier, 0, site);
}
inline int __syncthreads_count(int predicate, ALLMREC_EMULATOR_HERE) {
  return allmrec::emulator::block_barrier(allmrec::emulator::Op::barrier_count, predicate != 0, site);
}
inline int __syncthreads_and(int predicate, ALLMREC_EMULATOR_HERE) {
  return allmrec::emulator::block_barrier(allmrec::emulator::Op::barrier_and, predicate != 0, site);
}
inline int __syncthreads_or(int predicate, ALLMREC_EMULATOR_HERE) {
  return allmrec::emulator::block_barrier(allmrec::emulator::Op::barrier_or, predicate != 0, site);
}
inline void __syncwarp(unsigned mask = 0xffffffffu, ALLMREC_EMULATOR_HERE) {
  allmrec::emulator::sync_warp(mask, site);
}

#define ALLMREC_EMULATOR_SHUFFLE(name, how, Argument)                                                        \
  template <typename T>                                                                                      \
  inline T name(unsigned mask, T value, Argument argument, int width = 32, ALLMREC_EMULATOR_HERE) {          \
    return allmrec::emulator::from_bits<T>(                                                                  \
        allmrec::emulator::shuffle(allmrec::emulator::Shuffle::how, mask, allmrec::emulator::to_bits(value), \
                                   static_cast<int>(argument), width, site));                                \
  }
ALLMREC_EMULATOR_SHUFFLE(__shfl_sync, from, int)
ALLMREC_EMULATOR_SHUFFLE(__shfl_up_sync, up, unsigned)
ALLMREC_EMULATOR_SHUFFLE(__shfl_down_sync, down, unsigned)
ALLMREC_EMULATOR_SHUFFLE(__shfl_xor_sync, exclusive_or, int)
#undef ALLMREC_EMULATOR_SHUFFLE

inline unsigned __ballot_sync(unsigned mask, int predicate, ALLMREC_EMULATOR_HERE) {
  return static_cast<unsigned>(
      allmrec::emulator::warp_operation(allmrec::emulator::Op::ballot, mask, predicate != 0, site));
}
inline int __any_sync(unsigned mask, int predicate, ALLMREC_EMULATOR_HERE) {
  return static_cast<int>(
      allmrec::emulator::warp_operation(allmrec::emulator::Op::any, mask, predicate != 0, site));
}
inline int __all_sync(unsigned mask, int predicate, ALLMREC_EMULATOR_HERE) {
  return static_cast<int>(
      allmrec::emulator::warp_operation(allmrec::emulator::Op::all, mask, predicate != 0, site));
}
template <typename T>
inline unsigned __match_any_sync(unsigned mask, T value, ALLMREC_EMULATOR_HERE) {
  return static_cast<unsigned>(allmrec::emulator::warp_operation(allmrec::emulator::Op::match_any, mask,
                                                                 allmrec::emulator::to_bits(value), site));
}
// No two lanes need be converged at any time, so the caller alone is always a right answer.
inline unsigned __activemask() {
  const auto& at = allmrec::emulator::here;
  const unsigned number = at.thread.x + at.block_size.x * (at.thread.y + at.block_size.y * at.thread.z);
  return 1u << (number % 32);
}

#define ALLMREC_EMULATOR_REDUCE(name, T, op)                                                      \
  inline T name(unsigned mask, T value, ALLMREC_EMULATOR_HERE) {                                  \
    return static_cast<T>(allmrec::emulator::warp_operation(allmrec::emulator::Op::op, mask,      \
                                                            static_cast<uint32_t>(value), site)); \
  }
ALLMREC_EMULATOR_REDUCE(__reduce_add_sync, unsigned, reduce_add)
ALLMREC_EMULATOR_REDUCE(__reduce_add_sync, int, reduce_add)
ALLMREC_EMULATOR_REDUCE(__reduce_min_sync, unsigned, reduce_min)
ALLMREC_EMULATOR_REDUCE(__reduce_max_sync, unsigned, reduce_max)
ALLMREC_EMULATOR_REDUCE(__reduce_min_sync, int, reduce_min_signed)
ALLMREC_EMULATOR_REDUCE(__reduce_max_sync, int, reduce_max_signed)
ALLMREC_EMULATOR_REDUCE(__reduce_and_sync, unsigned, reduce_and)
ALLMREC_EMULATOR_REDUCE(__reduce_or_sync, unsigned, reduce_or)
ALLMREC_EMULATOR_REDUCE(__reduce_xor_sync, unsigned, reduce_xor)
#undef ALLMREC_EMULATOR_REDUCE

inline void __threadfence() {
  allmrec::emulator::fence();
}
inline void __threadfence_block() {}
inline void __threadfence_system() {
  allmrec::emulator::fence();
}
[[noreturn]] inline void __trap(ALLMREC_EMULATOR_HERE) {
  allmrec::emulator::trap(site);
}
inline void __nanosleep(unsigned) {}

template <typename T>
inline T __ldg(const T* p) {
  return *p;
}
template <typename T>
inline T __ldcg(const T* p) {
  return *p;
}
template <typename T>
inline T __ldcs(const T* p) {
  return *p;
}
template <typename T>
inline T __ldca(const T* p) {
  return *p;
}
template <typename T>
inline void __stcs(T* p, T value) {
  *p = value;
}
template <typename T>
inline void __stcg(T* p, T value) {
  *p = value;
}
template <typename T>
inline void __stwt(T* p, T value) {
  *p = value;
}
