#include "device.h"

#include <cstdint>

namespace allmrec::cpu {

namespace {
constexpr size_t kAlignment = 64;

unsigned char* aligned(unsigned char* p) {
  const auto address = reinterpret_cast<uintptr_t>(p);
  return p + ((kAlignment - address % kAlignment) % kAlignment);
}
}  // namespace

void* Device::Buffer::ensure(size_t wanted) {
  if (wanted > bytes) {
    memory.reset();  // give the old one back first: growing must not need both
    bytes = 0;
    memory.reset(new unsigned char[wanted + kAlignment]);
    bytes = wanted;
  }
  return memory ? aligned(memory.get()) : nullptr;
}

void* Device::scratch(int thread, int slot, size_t bytes) {
  return scratch_.at(static_cast<size_t>(thread)).buffers[slot].ensure(bytes);
}

void* Device::shared_scratch(int slot, size_t bytes) {
  return shared_.buffers[slot].ensure(bytes);
}

}  // namespace allmrec::cpu
