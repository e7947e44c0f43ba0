#include "device.h"

#include "../core/memory_limit.h"

#include <algorithm>
#include <cstdint>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace allmrec::cpu {

namespace {
constexpr size_t kAlignment = 64;

unsigned char* aligned(unsigned char* p) {
  const auto address = reinterpret_cast<uintptr_t>(p);
  return p + ((kAlignment - address % kAlignment) % kAlignment);
}

constexpr size_t kSmallestKept = 64 << 10;  // malloc keeps smaller blocks itself
constexpr size_t kLeastLimit = size_t{2}
                               << 30;  // an encoder's step of 2,048 tokens takes 0.7 GB in blocks of 1.1
constexpr size_t kHugePage = 2 << 20;
constexpr size_t kHugeFrom = 2 * kHugePage;
constexpr size_t kLooksFrom = size_t{256} << 20;  // a block this large is held against what there is

// Eight sizes per power of two: at most an eighth is wasted.
size_t size_class(size_t bytes) {
  size_t step = kSmallestKept / 8;
  while (step * 16 <= bytes) step *= 2;
  return (bytes + step - 1) / step * step;
}

std::align_val_t alignment_of(size_t bytes) {
  return std::align_val_t{bytes >= kHugeFrom ? kHugePage : kAlignment};
}
}  // namespace

struct alignas(kAlignment) MemoryCache::Header {
  size_t bytes;   // with the header
  Header* older;  // while it is kept
  Header* newer;
};

void* MemoryCache::alloc(size_t bytes) {
  if (bytes > SIZE_MAX / 4) return nullptr;  // beyond any address space; size_class could not count so far
  bytes += sizeof(Header);
  const bool keeps = bytes >= kSmallestKept;
  if (keeps) bytes = size_class(bytes);
  std::lock_guard<std::mutex> lock(mutex_);
  Header* best = nullptr;
  for (Header* block = keeps ? newest_ : nullptr; block; block = block->older) {
    if (block->bytes >= bytes && block->bytes / 2 <= bytes && (!best || block->bytes < best->bytes))
      best = block;
  }
  if (best) {
    (best->older ? best->older->newer : oldest_) = best->newer;
    (best->newer ? best->newer->older : newest_) = best->older;
    kept_ -= best->bytes;
  } else {
    if (bytes >= kLooksFrom) {
      // More than there is in the machine or its container is refused, though the system may hand it out: it
      // would kill the process when that is used.
      const auto existing = static_cast<size_t>(memory_limits().existing());
      if (in_use_ + kept_ + bytes > existing) trim(0);
      if (in_use_ + bytes > existing) return nullptr;
    }
    void* memory = ::operator new(bytes, alignment_of(bytes), std::nothrow);
    if (!memory) {
      trim(0);
      memory = ::operator new(bytes, alignment_of(bytes), std::nothrow);
      if (!memory) return nullptr;
    }
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (bytes >= kHugeFrom) madvise(memory, bytes, MADV_HUGEPAGE);  // advice: a refusal changes nothing
#endif
    best = new (memory) Header{bytes, nullptr, nullptr};
  }
  in_use_ += best->bytes;
  if (in_use_ > peak_) peak_ = in_use_;
  return best + 1;
}

void MemoryCache::free(void* memory) noexcept {
  if (!memory) return;
  Header* block = static_cast<Header*>(memory) - 1;
  std::lock_guard<std::mutex> lock(mutex_);
  if (block->bytes < kSmallestKept) {
    in_use_ -= block->bytes;
    ::operator delete(block, alignment_of(block->bytes));
    return;
  }
  const size_t limit = std::max(kLeastLimit, in_use_ / 4);
  in_use_ -= block->bytes;
  block->older = newest_;
  block->newer = nullptr;
  (newest_ ? newest_->newer : oldest_) = block;
  newest_ = block;
  kept_ += block->bytes;
  trim(limit);
}

void MemoryCache::trim() noexcept {
  std::lock_guard<std::mutex> lock(mutex_);
  trim(0);
}

MemoryCache::Usage MemoryCache::usage() {
  std::lock_guard<std::mutex> lock(mutex_);
  return {in_use_, kept_, peak_};
}

void MemoryCache::trim(size_t limit) noexcept {
  while (kept_ > limit) {
    Header* block = oldest_;
    oldest_ = block->newer;
    (oldest_ ? oldest_->older : newest_) = nullptr;
    kept_ -= block->bytes;
    ::operator delete(block, alignment_of(block->bytes));
  }
}

void* Device::Buffer::ensure(size_t wanted) {
  if (wanted > bytes) {
    memory.reset();  // give the old one back first: growing must not need both
    bytes = 0;
    memory.reset(new (std::nothrow) unsigned char[wanted + kAlignment]);
    if (!memory)
      throw Error(ErrorCode::out_of_memory, "Out of memory: " + bytes_text(static_cast<int64_t>(wanted)) +
                                                " are not to be had for what the op packs. " + memory_text() +
                                                ".");
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

void Device::trim() {
  memory.trim();
  for (Slots& slots : scratch_) slots = Slots{};
  shared_ = Slots{};
}

}  // namespace allmrec::cpu
