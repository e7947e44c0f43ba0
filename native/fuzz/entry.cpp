// The entry that libFuzzer, or driver.cpp where there is none, calls. ALLMREC_FUZZ_TARGET chooses what is
// fuzzed.

#include <atomic>
#include <cstring>
#include <exception>

#include "../cpp/core/error.h"
#include "targets.h"

// Of the sanitizers' run time; not every compiler ships the header that declares them.
extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*malloc_hook)(const volatile void*, size_t),
                                                         void (*free_hook)(const volatile void*));
extern "C" size_t __sanitizer_get_allocated_size(const volatile void* memory);

namespace {

using allmrec::fuzz::Target;

// What reading a file may take: its own scale, and what the limits of the readers add up to.
constexpr size_t kMemoryPerByte = 16, kMemoryBase = size_t{64} << 20;

std::atomic<size_t> live{0}, peak{0};

void count_alloc(const volatile void*, size_t size) {
  const size_t now = live.fetch_add(size, std::memory_order_relaxed) + size;
  if (now > peak.load(std::memory_order_relaxed)) peak.store(now, std::memory_order_relaxed);
}

void count_free(const volatile void* memory) {
  if (memory != nullptr) live.fetch_sub(__sanitizer_get_allocated_size(memory), std::memory_order_relaxed);
}

const Target* chosen = nullptr;

bool is_refusal(allmrec::ErrorCode code) {
  return code == allmrec::ErrorCode::checkpoint || code == allmrec::ErrorCode::unsupported ||
         code == allmrec::ErrorCode::numeric;
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  const char* name = std::getenv("ALLMREC_FUZZ_TARGET");
  for (const Target& target : allmrec::fuzz::kTargets)
    if (name != nullptr && std::strcmp(name, target.name) == 0) chosen = &target;
  if (chosen == nullptr) {
    std::fprintf(stderr, "ALLMREC_FUZZ_TARGET: expected one of");
    for (const Target& target : allmrec::fuzz::kTargets) std::fprintf(stderr, " %s", target.name);
    std::fprintf(stderr, "\n");
    std::exit(2);
  }
  __sanitizer_install_malloc_and_free_hooks(count_alloc, count_free);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using allmrec::fuzz::require;
  const size_t before = live.load();
  peak.store(before);
  try {
    chosen->run(data, size);
  } catch (const allmrec::Error& error) {
    if (!is_refusal(error.code()) || std::strstr(error.what(), allmrec::fuzz::kLabel) == nullptr) {
      std::fprintf(stderr, "refused with code %d: %s\n", static_cast<int>(error.code()), error.what());
      require(false, "a refusal has a code of files and names the file");
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    require(false, "what is thrown is an allmrec::Error");
  }
  const size_t taken = peak.load() - before;
  if (taken > kMemoryBase + kMemoryPerByte * size) {
    std::fprintf(stderr, "%zu bytes of memory for %zu bytes of file\n", taken, size);
    require(false, "memory stays in the scale of the file");
  }
  return 0;
}
