#pragma once

// The emulator's tests, in three files: what kernels get, what faults are named, and the runtime's calls.

#include <string>
#include <vector>

#include "../cuda/intrinsics.h"
#include "../cuda/platform.h"
#include "check.h"

namespace allmrec::test {

void test_primitives();
void test_faults();
void test_runtime();

// Device memory for the length of a test.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t count) : count_(count) { cudaMalloc(&data_, count * sizeof(T)); }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) {
    cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice);
  }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  T* get() const { return data_; }
  std::vector<T> values() const {
    std::vector<T> result(count_);
    cudaMemcpy(result.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost);
    return result;
  }

 private:
  T* data_ = nullptr;
  size_t count_;
};

// fn under each order of threads and blocks.
template <typename Fn>
void in_every_schedule(Fn fn) {
  emulator::set_schedule(emulator::Schedule::forward);
  fn();
  emulator::set_schedule(emulator::Schedule::reverse);
  fn();
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    emulator::set_schedule(emulator::Schedule::random, seed);
    fn();
  }
  emulator::set_schedule(emulator::Schedule::forward);
}

inline bool is_build(const char* kind) {
  return std::string(emulator::build_kind()) == kind;
}

}  // namespace allmrec::test
