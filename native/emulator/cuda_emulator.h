#pragma once

// CUDA C++ for a plain C++ compiler: the keywords, types, functions and runtime calls that the kernels of
// native/cuda use. Every thread of a block is a fiber on the calling host thread; blocks run one after
// another, and one launch at a time in the process.
//
// Its limits: no weak memory order, no grid-wide waits, no timing. A thread that spins on memory until
// another one writes it hangs.

#if !defined(ALLMREC_EMULATOR)
#error "The emulator's header stands in for CUDA's only under ALLMREC_EMULATOR."
#endif

#include "types.h"

#include "control.h"
#include "device.h"
#include "device_atomics.h"
#include "device_math.h"
#include "half.h"
#include "runtime_api.h"

#define __global__
#define __device__
#define __host__
#define __constant__ const
// One launch runs at a time, so one copy per variable is enough. It has to be found by the linker's name of
// the kernel around it, which is why it is no thread_local: see symbols.h.
#define __shared__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
