#pragma once

// What an op of the CUDA back end works with: the stream, the device's properties, scratch memory, and the
// way to fail. Ops are plain functions (ops.h) that enqueue on the context's stream and return; they throw
// allmrec::Error, which the table's entries turn into a status and a sentence.

#include <string>

#include "../cpp/backend/backend.h"
#include "../cpp/core/error.h"
#include "platform.h"

namespace allmrec::cuda {

class CublasLt;
class MemoryPool;

// Throws ErrorCode::device with the call and CUDA's own text.
void check_cuda(cudaError_t status, const char* call);

class Context;

// Device memory for the length of an op. Work on one stream runs in order, so the memory may be handed to the
// next op while kernels that use it still wait.
class Scratch {
 public:
  Scratch(Context& context, size_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  template <typename T>
  T* as() const {
    return static_cast<T*>(memory_);
  }

 private:
  Context& context_;
  void* memory_;
};

class Context {
 public:
  cudaStream_t stream = nullptr;  // compute; everything an op does is ordered on it
  int sm_count = 1;
  int capability = 80;              // 10 · major + minor
  size_t shared_per_block = 49152;  // the most dynamic shared memory a block may ask for
  CublasLt* cublas_lt = nullptr;    // null: our own matrix kernels
  MemoryPool* memory = nullptr;
  void* owner = nullptr;  // the allmrec_device

  // Sends a few bytes of host data (pointer tables of multi-tensor ops) to device memory in stream order; the
  // host array may be reused at once. Works while capturing.
  void send(void* device, const void* host, size_t bytes);
};

[[noreturn]] inline void unsupported(const std::string& what) {
  throw Error(ErrorCode::unsupported, what);
}

inline int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace allmrec::cuda
