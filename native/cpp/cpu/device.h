#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "../backend/backend.h"
#include "../core/error.h"
#include "../core/thread_pool.h"

namespace allmrec::cpu {

class Device;

// A matrix converted between F32, F16 and BF16.
struct CastRows {
  int64_t rows, cols;
  const void* x;
  int64_t ldx;
  int32_t x_dtype;
  void* y;
  int64_t ldy;
  int32_t y_dtype;
};

// Instructions beside the set's own, which not every processor with the set has.
constexpr int32_t kDotInt8 = 1;  // AVX512_VNNI: sums of four products of bytes
constexpr int32_t kDotBf16 = 2;  // AVX512_BF16: sums of two products of bfloat16

// Every op for one instruction set. The files of ops/ are compiled once per set, each time into its own
// namespace (ALLMREC_ISA), and the best table the processor can run is chosen when a device is opened.
struct Kernels {
  const char* instruction;  // with the names of the extras
  int32_t extras;           // bits of the above
  void (*cast_rows)(Device&, const CastRows&);
#define ALLMREC_DECLARE(op, args) void (*op)(Device&, const args&);
  ALLMREC_OPS(ALLMREC_DECLARE)
#undef ALLMREC_DECLARE
};

const Kernels& generic_kernels();
const Kernels& avx2_kernels();    // x86-64 only; FMA and F16C with it
const Kernels& avx512_kernels();  // x86-64 only; F, BW, DQ, VL

// Device memory. A freed block is kept for the next request of about its size, because a fresh one costs a
// page fault for every 4 KB when it is first written: with an arena per call that was more than half of an
// evaluation's time. Large blocks ask for huge pages. What is kept is bounded and goes back when the device
// is closed.
class MemoryCache {
 public:
  MemoryCache() = default;
  MemoryCache(const MemoryCache&) = delete;
  MemoryCache& operator=(const MemoryCache&) = delete;
  ~MemoryCache() { trim(0); }

  void* alloc(size_t bytes);  // uninitialised, 64-byte aligned; null when there is none to be had
  void free(void* memory) noexcept;
  void trim() noexcept;  // gives all kept blocks back

  struct Usage {
    size_t in_use, kept, peak;  // bytes
  };
  Usage usage();

 private:
  struct Header;
  // Gives back the blocks that have lain longest until `limit` bytes are kept.
  void trim(size_t limit) noexcept;

  std::mutex mutex_;
  Header* oldest_ = nullptr;  // kept blocks, in the order in which they were freed
  Header* newest_ = nullptr;
  size_t kept_ = 0;    // bytes in kept blocks
  size_t in_use_ = 0;  // bytes handed out
  size_t peak_ = 0;    // the most ever handed out
};

class Device {
 public:
  Device(int threads, const Kernels& kernels) : pool(threads), kernels(&kernels), scratch_(pool.size()) {}

  // Uninitialised memory of one thread, 64-byte aligned, kept for the next call; valid until the thread asks
  // again with the same slot. Slots (0 … 3) let one op hold several buffers.
  void* scratch(int thread, int slot, size_t bytes);
  // The same for memory that all threads of an op share (packed panels, partial sums): ask before the
  // parallel part.
  void* shared_scratch(int slot, size_t bytes);
  // Gives cached and scratch memory back.
  void trim();

  ThreadPool pool;
  const Kernels* kernels;
  MemoryCache memory;

 private:
  struct Buffer {
    std::unique_ptr<unsigned char[]> memory;
    size_t bytes = 0;
    void* ensure(size_t wanted);
  };
  struct Slots {
    Buffer buffers[4];
  };
  std::vector<Slots> scratch_;
  Slots shared_;
};

}  // namespace allmrec::cpu
