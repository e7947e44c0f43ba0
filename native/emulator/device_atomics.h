#pragma once

// One thread of the device runs at a time, so an atomic operation is an ordinary one that the race build can
// tell apart. That is why these are functions of the runtime and not inline.

#define ALLMREC_EMULATOR_ATOMICS(T)  \
  T atomicAdd(T* address, T value);  \
  T atomicMin(T* address, T value);  \
  T atomicMax(T* address, T value);  \
  T atomicAnd(T* address, T value);  \
  T atomicOr(T* address, T value);   \
  T atomicXor(T* address, T value);  \
  T atomicExch(T* address, T value); \
  T atomicCAS(T* address, T expected, T value);
ALLMREC_EMULATOR_ATOMICS(int)
ALLMREC_EMULATOR_ATOMICS(unsigned)
ALLMREC_EMULATOR_ATOMICS(unsigned long long)
#undef ALLMREC_EMULATOR_ATOMICS
float atomicAdd(float* address, float value);
double atomicAdd(double* address, double value);
float atomicExch(float* address, float value);
int atomicSub(int* address, int value);
unsigned atomicSub(unsigned* address, unsigned value);
