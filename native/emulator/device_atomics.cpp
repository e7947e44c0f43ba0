#include "device_atomics.h"

#include "race.h"

namespace {

// Integers wrap.
int sum(int a, int b) {
  return static_cast<int>(static_cast<unsigned>(a) + static_cast<unsigned>(b));
}
template <typename T>
T sum(T a, T b) {
  return a + b;
}

}  // namespace

#define ALLMREC_EMULATOR_ATOMIC(name, T, result)                                             \
  T name(T* address, T value) {                                                              \
    allmrec::emulator::race::atomic_access(address, sizeof(T), __builtin_return_address(0)); \
    const T old = *address;                                                                  \
    *address = result;                                                                       \
    return old;                                                                              \
  }
#define ALLMREC_EMULATOR_INTEGER_ATOMICS(T)                                                  \
  ALLMREC_EMULATOR_ATOMIC(atomicAdd, T, sum(old, value))                                     \
  ALLMREC_EMULATOR_ATOMIC(atomicMin, T, value < old ? value : old)                           \
  ALLMREC_EMULATOR_ATOMIC(atomicMax, T, old < value ? value : old)                           \
  ALLMREC_EMULATOR_ATOMIC(atomicAnd, T, old& value)                                          \
  ALLMREC_EMULATOR_ATOMIC(atomicOr, T, old | value)                                          \
  ALLMREC_EMULATOR_ATOMIC(atomicXor, T, old ^ value)                                         \
  ALLMREC_EMULATOR_ATOMIC(atomicExch, T, value)                                              \
  T atomicCAS(T* address, T expected, T value) {                                             \
    allmrec::emulator::race::atomic_access(address, sizeof(T), __builtin_return_address(0)); \
    const T old = *address;                                                                  \
    if (old == expected) *address = value;                                                   \
    return old;                                                                              \
  }
ALLMREC_EMULATOR_INTEGER_ATOMICS(int)
ALLMREC_EMULATOR_INTEGER_ATOMICS(unsigned)
ALLMREC_EMULATOR_INTEGER_ATOMICS(unsigned long long)
ALLMREC_EMULATOR_ATOMIC(atomicAdd, float, old + value)
ALLMREC_EMULATOR_ATOMIC(atomicAdd, double, old + value)
ALLMREC_EMULATOR_ATOMIC(atomicExch, float, value)
ALLMREC_EMULATOR_ATOMIC(atomicSub, int, sum(old, sum(~value, 1)))
ALLMREC_EMULATOR_ATOMIC(atomicSub, unsigned, old - value)
