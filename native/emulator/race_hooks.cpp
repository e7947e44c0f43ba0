// What GCC's -fsanitize=thread calls in instrumented code. Its run-time library is not linked: these take its
// place, and pass on the accesses that kernels make.

#include "race.h"

#if defined(ALLMREC_EMULATOR_RACE)

#define ALLMREC_HOOK extern "C" __attribute__((visibility("default")))
#define ALLMREC_CALLER __builtin_return_address(0)

namespace race = allmrec::emulator::race;

ALLMREC_HOOK void __tsan_init() {}
ALLMREC_HOOK void __tsan_func_entry(void*) {}
ALLMREC_HOOK void __tsan_func_exit() {}
ALLMREC_HOOK void __tsan_vptr_update(void**, void*) {}
ALLMREC_HOOK void __tsan_vptr_read(void**) {}
ALLMREC_HOOK void __tsan_read_range(void* p, unsigned long bytes) {
  race::read(p, bytes, ALLMREC_CALLER);
}
ALLMREC_HOOK void __tsan_write_range(void* p, unsigned long bytes) {
  race::write(p, bytes, ALLMREC_CALLER);
}

#define ALLMREC_ACCESS(bytes)                                                                         \
  ALLMREC_HOOK void __tsan_read##bytes(void* p) { race::read(p, bytes, ALLMREC_CALLER); }             \
  ALLMREC_HOOK void __tsan_write##bytes(void* p) { race::write(p, bytes, ALLMREC_CALLER); }           \
  ALLMREC_HOOK void __tsan_unaligned_read##bytes(void* p) { race::read(p, bytes, ALLMREC_CALLER); }   \
  ALLMREC_HOOK void __tsan_unaligned_write##bytes(void* p) { race::write(p, bytes, ALLMREC_CALLER); } \
  ALLMREC_HOOK void __tsan_volatile_read##bytes(void* p) { race::read(p, bytes, ALLMREC_CALLER); }    \
  ALLMREC_HOOK void __tsan_volatile_write##bytes(void* p) { race::write(p, bytes, ALLMREC_CALLER); }
ALLMREC_ACCESS(1)
ALLMREC_ACCESS(2)
ALLMREC_ACCESS(4)
ALLMREC_ACCESS(8)
ALLMREC_ACCESS(16)

// Host code's atomics. Kernels have CUDA's, which are functions of the emulator.
#define ALLMREC_FETCH(bits, T, name)                                               \
  ALLMREC_HOOK T __tsan_atomic##bits##_fetch_##name(volatile T* p, T value, int) { \
    return __atomic_fetch_##name(p, value, __ATOMIC_SEQ_CST);                      \
  }
#define ALLMREC_COMPARE(bits, T, name)                                                                     \
  ALLMREC_HOOK int __tsan_atomic##bits##_compare_exchange_##name(volatile T* p, T* expected, T value, int, \
                                                                 int) {                                    \
    return __atomic_compare_exchange_n(p, expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);     \
  }
#define ALLMREC_ATOMICS(bits, T)                                                                            \
  ALLMREC_HOOK T __tsan_atomic##bits##_load(const volatile T* p, int) {                                     \
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                                            \
  }                                                                                                         \
  ALLMREC_HOOK void __tsan_atomic##bits##_store(volatile T* p, T value, int) {                              \
    __atomic_store_n(p, value, __ATOMIC_SEQ_CST);                                                           \
  }                                                                                                         \
  ALLMREC_HOOK T __tsan_atomic##bits##_exchange(volatile T* p, T value, int) {                              \
    return __atomic_exchange_n(p, value, __ATOMIC_SEQ_CST);                                                 \
  }                                                                                                         \
  ALLMREC_FETCH(bits, T, add)                                                                               \
  ALLMREC_FETCH(bits, T, sub)                                                                               \
  ALLMREC_FETCH(bits, T, and)                                                                               \
  ALLMREC_FETCH(bits, T, or)                                                                                \
  ALLMREC_FETCH(bits, T, xor)                                                                               \
  ALLMREC_FETCH(bits, T, nand)                                                                              \
  ALLMREC_COMPARE(bits, T, strong)                                                                          \
  ALLMREC_COMPARE(bits, T, weak)                                                                            \
  ALLMREC_HOOK T __tsan_atomic##bits##_compare_exchange_val(volatile T* p, T expected, T value, int, int) { \
    __atomic_compare_exchange_n(p, &expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);            \
    return expected;                                                                                        \
  }
ALLMREC_ATOMICS(8, unsigned char)
ALLMREC_ATOMICS(16, unsigned short)
ALLMREC_ATOMICS(32, unsigned)
ALLMREC_ATOMICS(64, unsigned long)
ALLMREC_HOOK void __tsan_atomic_thread_fence(int) {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
ALLMREC_HOOK void __tsan_atomic_signal_fence(int) {}

#endif
