#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "../backend/backend.h"
#include "../core/error.h"
#include "../core/thread_pool.h"

namespace allmrec::cpu {

class Device;

// Every op for one instruction set. The files of ops/ are compiled once per set, each time into its own
// namespace (ALLMREC_ISA), and the best table the processor can run is chosen when a device is opened.
struct Kernels {
  const char* instruction;
#define ALLMREC_DECLARE(op, args) void (*op)(Device&, const args&);
  ALLMREC_OPS(ALLMREC_DECLARE)
#undef ALLMREC_DECLARE
};

const Kernels& generic_kernels();
const Kernels& avx2_kernels();    // x86-64 only; FMA and F16C with it
const Kernels& avx512_kernels();  // x86-64 only; F, BW, DQ, VL

class Device {
 public:
  Device(int threads, const Kernels& kernels) : pool(threads), kernels(&kernels), scratch_(pool.size()) {}

  // Uninitialised memory of one thread, 64-byte aligned, kept for the next call; valid until the thread asks
  // again with the same slot. Slots (0 … 3) let one op hold several buffers.
  void* scratch(int thread, int slot, size_t bytes);
  // The same for memory that all threads of an op share (packed panels, partial sums): ask before the
  // parallel part.
  void* shared_scratch(int slot, size_t bytes);

  ThreadPool pool;
  const Kernels* kernels;
  std::string last_error;

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
