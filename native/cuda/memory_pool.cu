#include "memory_pool.h"

#include <algorithm>
#include <new>
#include <string>

#include "context.h"

namespace allmrec::cuda {
namespace {

constexpr size_t kStep = 512;               // sizes are rounded up to this, so that near sizes share blocks
constexpr size_t kSlack = size_t{1} << 20;  // a kept block may be larger than asked for by this, or by half

std::string megabytes(double bytes) {
  char text[40];
  std::snprintf(text, sizeof text, bytes < 10e6 ? "%.2f MB" : "%.0f MB", bytes / 1e6);
  return text;
}

}  // namespace

MemoryPool::~MemoryPool() {
  for (const auto& [memory, bytes] : sizes_) cudaFree(memory);
}

void* MemoryPool::take(std::multimap<size_t, void*>& kept, size_t bytes) {
  const auto found = kept.lower_bound(bytes);
  if (found == kept.end() || found->first > std::max(bytes + kSlack, bytes + bytes / 2)) return nullptr;
  void* memory = found->second;
  cached_ -= static_cast<int64_t>(found->first);
  kept.erase(found);
  return memory;
}

void* MemoryPool::alloc(size_t bytes) {
  if (bytes > SIZE_MAX / 2)
    throw Error(ErrorCode::out_of_memory, "A request of " + std::to_string(bytes) + " bytes makes no sense.");
  const size_t size = std::max(kStep, (bytes + kStep - 1) / kStep * kStep);
  std::lock_guard<std::mutex> lock(mutex_);
  void* memory = recording_here() ? take(recorded_, size) : nullptr;
  if (memory == nullptr) memory = take(kept_, size);
  if (memory == nullptr) {
    cudaError_t status = cudaMalloc(&memory, size);
    if (status == cudaErrorMemoryAllocation && !kept_.empty()) {
      // What is kept may be what is missing. cudaFree waits for the kernels that still use it.
      cudaGetLastError();
      for (const auto& [kept_size, block] : kept_) {
        cudaFree(block);
        sizes_.erase(block);
        cached_ -= static_cast<int64_t>(kept_size);
      }
      kept_.clear();
      status = cudaMalloc(&memory, size);
    }
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // not sticky
      size_t free_bytes = 0, total_bytes = 0;
      cudaMemGetInfo(&free_bytes, &total_bytes);
      throw Error(ErrorCode::out_of_memory,
                  "The device has no room for " + megabytes(static_cast<double>(size)) + ": " +
                      megabytes(static_cast<double>(in_use_)) + " are in use here, " +
                      megabytes(static_cast<double>(free_bytes)) + " free of " +
                      megabytes(static_cast<double>(total_bytes)) +
                      ". A smaller batch, or a language model in int8 or int4, needs less.");
    }
    check_cuda(status, "cudaMalloc");
    try {
      sizes_[memory] = size;
    } catch (...) {
      cudaFree(memory);
      throw;
    }
  }
  in_use_ += static_cast<int64_t>(sizes_[memory]);
  peak_ = std::max(peak_, in_use_);
  return memory;
}

void MemoryPool::free(void* memory) noexcept {
  if (memory == nullptr) return;
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = sizes_.find(memory);
  if (found == sizes_.end()) return;
  in_use_ -= static_cast<int64_t>(found->second);
  try {
    (recording_here() ? recorded_ : kept_).emplace(found->second, memory);
    cached_ += static_cast<int64_t>(found->second);
  } catch (const std::bad_alloc&) {
    // No memory of the host to keep it by: it lies idle until the device is closed.
  }
}

void MemoryPool::trim() {
  std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& [size, memory] : kept_) {
    check_cuda(cudaFree(memory), "cudaFree");
    sizes_.erase(memory);
    cached_ -= static_cast<int64_t>(size);
  }
  kept_.clear();
}

allmrec_memory_info MemoryPool::info() {
  size_t free_bytes = 0, total_bytes = 0;
  check_cuda(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
  std::lock_guard<std::mutex> lock(mutex_);
  return {in_use_, cached_, peak_, static_cast<int64_t>(free_bytes), static_cast<int64_t>(total_bytes)};
}

void MemoryPool::begin_recording() {
  std::lock_guard<std::mutex> lock(mutex_);
  recorder_ = std::this_thread::get_id();
}

std::vector<void*> MemoryPool::end_recording() {
  std::lock_guard<std::mutex> lock(mutex_);
  recorder_ = std::thread::id();
  std::vector<void*> blocks;
  for (const auto& entry : recorded_) blocks.push_back(entry.second);
  recorded_.clear();
  return blocks;
}

void MemoryPool::restore(const std::vector<void*>& blocks) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (void* memory : blocks) kept_.emplace(sizes_[memory], memory);
}

}  // namespace allmrec::cuda
