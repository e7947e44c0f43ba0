#pragma once

// Device memory that is kept for the next request. cudaMalloc takes tens of microseconds and cudaFree waits
// for the device, so a step that allocated afresh would never run ahead of it. All work goes to one stream,
// in order: a freed block may be handed out again while kernels that use it still wait in that stream.
//
// While a graph is being recorded, freed blocks are set aside for it: the graph will use them at every
// launch.

#include <map>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "../cpp/backend/backend.h"
#include "platform.h"

namespace allmrec::cuda {

class MemoryPool {
 public:
  MemoryPool() = default;
  ~MemoryPool();
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  // 256-byte aligned, uninitialised. Throws ErrorCode::out_of_memory with the numbers.
  void* alloc(size_t bytes);
  void free(void* memory) noexcept;
  // Gives every kept block back to the device.
  void trim();
  allmrec_memory_info info();

  // From begin to end, blocks that this thread frees are collected instead of reused by anyone but the
  // recording itself; end hands them to the graph's owner, who gives them back with `restore`.
  void begin_recording();
  std::vector<void*> end_recording();
  void restore(const std::vector<void*>& blocks);

 private:
  void* take(std::multimap<size_t, void*>& kept, size_t bytes);

  std::mutex mutex_;
  std::unordered_map<void*, size_t> sizes_;  // of every block, handed out or kept
  std::multimap<size_t, void*> kept_;        // by size
  std::multimap<size_t, void*> recorded_;    // freed while recording
  bool recording_here() const { return recorder_ == std::this_thread::get_id(); }
  std::thread::id recorder_;  // the thread that is recording, if any
  int64_t in_use_ = 0, cached_ = 0, peak_ = 0;
};

}  // namespace allmrec::cuda
