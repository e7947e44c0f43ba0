#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "fiber.h"
#include "scheduler.h"
#include "symbols.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace allmrec::emulator {

#if defined(__SANITIZE_ADDRESS__)

namespace {

// A sanitizer has told what and where; this is who.
void on_death() {
  if (block.running) report("sanitizer error", describe_thread(block.current));
}

}  // namespace

void watch_signals() {
  __sanitizer_set_death_callback(on_death);
}

#else

namespace {

constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
struct sigaction previous[sizeof kSignals / sizeof kSignals[0]];

bool is_on_a_stack(const void* address) {
  const Stack all = all_stacks();
  return address >= all.bottom && address < all.top;
}

void on_signal(int signal, siginfo_t* info, void*) {
  for (size_t i = 0; i < sizeof kSignals / sizeof kSignals[0]; ++i) {
    if (kSignals[i] == signal) sigaction(signal, &previous[i], nullptr);
  }
  // From here the instruction runs again, and whoever was to get the signal gets it.
  if (!block.running) return;
  block.running = false;
  const char* const what = signal == SIGFPE               ? "arithmetic error"
                           : signal == SIGILL             ? "illegal instruction"
                           : is_on_a_stack(info->si_addr) ? "stack overflow"
                                                          : "illegal or misaligned address";
  char text[200];
  std::snprintf(text, sizeof text, "%s, address %p", describe_thread(block.current).c_str(), info->si_addr);
  report(what, text);
}

}  // namespace

void watch_signals() {
  // A fiber's stack may be what ran out, and every host thread needs a stack of its own for that.
  static thread_local char* stack = nullptr;
  if (stack != nullptr) return;
  constexpr size_t kBytes = 256 * 1024;
  static thread_local struct Owner {
    char* bytes = nullptr;
    ~Owner() {
      stack_t none = {};
      none.ss_flags = SS_DISABLE;
      sigaltstack(&none, nullptr);
      std::free(bytes);
    }
  } owner;
  stack = owner.bytes = static_cast<char*>(std::malloc(kBytes));
  stack_t alternative = {};
  alternative.ss_sp = stack;
  alternative.ss_size = kBytes;
  sigaltstack(&alternative, nullptr);
  static bool installed = false;
  if (installed) return;
  installed = true;
  struct sigaction action = {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  for (size_t i = 0; i < sizeof kSignals / sizeof kSignals[0]; ++i)
    sigaction(kSignals[i], &action, &previous[i]);
}

#endif

}  // namespace allmrec::emulator
