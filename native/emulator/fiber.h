#pragma once

// Fibers: stacks and the switch between them.

#include <cstddef>

namespace allmrec::emulator {

struct Stack {
  char *bottom = nullptr, *top = nullptr;
};

constexpr int kMaxFibers = 1024;

// Stack number `index`, below which an unreadable page stops an overflow.
Stack stack_at(int index);
// All of them, for range checks.
Stack all_stacks();

// A context that starts `entry` on a stack. `entry` never returns.
void* new_context(Stack stack, void (*entry)());

// Saves the running context into *from and goes on with `to`.
extern "C" void allmrec_emulator_switch(void** from, void* to);

}  // namespace allmrec::emulator
