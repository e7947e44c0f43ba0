#pragma once

// The race build's view of memory: what the scheduler and the runtime tell it. In the other builds nothing.
//
// Each few bytes of shared and device memory have a record of the last write and of two reads: launch and
// block, thread, how many barriers the block had passed, and how often that lane had met others of its warp.
// Two accesses of which one writes must be ordered by a barrier of the block, or within a warp by operations
// of the warp that pass from one lane to the other. Between blocks of a launch nothing orders but a fence and
// an atomic operation on either side.

#include <cstddef>
#include <cstdint>

namespace allmrec::emulator::race {

#if defined(ALLMREC_EMULATOR_RACE)

void begin_launch(const void* arguments, size_t argument_bytes);
void begin_block(unsigned threads, const void* shared, size_t shared_bytes);
void end_block();
// The thread that runs from now; negative: the runtime.
void run_thread(int thread);
void block_barrier();
void warp_met(int warp, uint32_t lanes);
void fence();

void read(const void* address, size_t bytes, const void* code);
void write(const void* address, size_t bytes, const void* code);
void atomic_access(const void* address, size_t bytes, const void* code);
// The running thread's copy to `to` is under way: nobody may touch it. It has landed: as a write.
void copy_begins(const void* to, size_t bytes, const void* code);
void copy_lands(const void* to, size_t bytes, const void* code);

// Device memory that kernels may touch; forgets what was there.
void add_memory(const void* begin, size_t bytes);
void remove_memory(const void* begin, size_t bytes);
// Each race is told once; now again.
void forget_reports();

#else

inline void begin_launch(const void*, size_t) {}
inline void begin_block(unsigned, const void*, size_t) {}
inline void end_block() {}
inline void run_thread(int) {}
inline void block_barrier() {}
inline void warp_met(int, uint32_t) {}
inline void fence() {}
inline void read(const void*, size_t, const void*) {}
inline void write(const void*, size_t, const void*) {}
inline void atomic_access(const void*, size_t, const void*) {}
inline void copy_begins(const void*, size_t, const void*) {}
inline void copy_lands(const void*, size_t, const void*) {}
inline void add_memory(const void*, size_t) {}
inline void remove_memory(const void*, size_t) {}
inline void forget_reports() {}

#endif

}  // namespace allmrec::emulator::race
