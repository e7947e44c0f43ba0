#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace allmrec::emulator {

namespace {

// Sanitized frames are several times as large. Only touched pages cost memory.
#if defined(__SANITIZE_ADDRESS__) || defined(ALLMREC_EMULATOR_RACE)
constexpr size_t kStackBytes = 256 * 1024;
#else
constexpr size_t kStackBytes = 128 * 1024;
#endif
#if defined(__aarch64__)
constexpr size_t kGuardBytes = 64 * 1024;  // a page is up to that long
#else
constexpr size_t kGuardBytes = 4096;
#endif

char* pool() {
  static char* const base = [] {
    const size_t bytes = kStackBytes * kMaxFibers;
    void* p =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
      std::fprintf(stderr, "emulator: no memory for %zu bytes of stacks\n", bytes);
      std::abort();
    }
    for (int i = 0; i < kMaxFibers; ++i)
      mprotect(static_cast<char*>(p) + static_cast<size_t>(i) * kStackBytes, kGuardBytes, PROT_NONE);
    return static_cast<char*>(p);
  }();
  return base;
}

}  // namespace

Stack stack_at(int index) {
  char* const base = pool() + static_cast<size_t>(index) * kStackBytes;
  // Tops at one distance from each other would share their few lines of the cache.
  const size_t stagger = static_cast<size_t>(index * 9 % 64) * 64;
  return {base + kGuardBytes, base + kStackBytes - stagger};
}

Stack all_stacks() {
  return {pool(), pool() + kStackBytes * kMaxFibers};
}

#if defined(__x86_64__)

// The registers a called function keeps. The first switch to a new context returns into its entry.
__asm__(R"(
.text
.globl allmrec_emulator_switch
.hidden allmrec_emulator_switch
.type allmrec_emulator_switch, @function
.p2align 4
allmrec_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size allmrec_emulator_switch, .-allmrec_emulator_switch
)");

void* new_context(Stack stack, void (*entry)()) {
  auto* top = reinterpret_cast<uint64_t*>(stack.top);
  *--top = 0;  // where entry would return to; its frame starts as after a call
  *--top = reinterpret_cast<uint64_t>(entry);
  for (int i = 0; i < 6; ++i) *--top = 0;
  return top;
}

#elif defined(__aarch64__)

__asm__(R"(
.text
.globl allmrec_emulator_switch
.hidden allmrec_emulator_switch
.type allmrec_emulator_switch, %function
.p2align 4
allmrec_emulator_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size allmrec_emulator_switch, .-allmrec_emulator_switch
)");

void* new_context(Stack stack, void (*entry)()) {
  auto* top = reinterpret_cast<uint64_t*>(stack.top) - 20;
  for (int i = 0; i < 20; ++i) top[i] = 0;
  top[11] = reinterpret_cast<uint64_t>(entry);  // x30
  return top;
}

#else
#error "The emulator switches fibers on x86-64 and aarch64 only."
#endif

}  // namespace allmrec::emulator
