#pragma once

// The state of the block that runs: its threads, its warps and who waits for what.

#include <string>
#include <vector>

#include "control.h"
#include "device.h"

namespace allmrec::emulator {

constexpr int kLanes = 32;
constexpr int kMaxThreads = 1024;
constexpr int kMaxWarps = kMaxThreads / kLanes;

// A 16-byte copy under way.
struct Copy {
  void* to;
  long group;
  const void* code;
  unsigned char bytes[16];
};

struct MatrixOperands {
  float* d;
  const uint32_t *a, *b;
  bool bfloat16;
};
struct MatrixLoad {
  uint32_t* r;
  const void* row;
  int count;
  bool transposed;
  const void* code;
};

struct Thread {
  void* context = nullptr;  // none before it starts
  int stack = -1;
  bool exited = false, at_barrier = false;
  // What it waits for, or waited for last.
  Op op = Op::barrier;
  uint32_t mask = 0;
  Site site = {nullptr, 0};
  uint64_t value = 0, result = 0;
  int source = 0;  // a shuffle's lane
  const void* operands = nullptr;
  // Its asynchronous copies, oldest first, and the groups it closed.
  std::vector<Copy> copies;
  long groups = 0;
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
#endif
};

struct Warp {
  uint32_t live, ready, waiting;  // waiting: for other lanes
};

struct Block {
  Thread threads[kMaxThreads];
  Warp warps[kMaxWarps];
  uint32_t ready_warps;
  int count, live;
  int current, current_warp;
  // The barrier: how many came, and who came first.
  int arrived, first, sum;
  bool mismatched;
  const Body* body;
  const void* kernel;
  char* shared;
  size_t shared_bytes;
  bool running, broken;
  void* host;  // the host's context
};
extern Block block;

struct Launch {
  dim3 grid, block;
  size_t shared;
  const void* kernel;
  Body body;
};
// False when a fault ended it.
bool run_launch(const Launch& launch);

// The running thread waits; returns when it is ready again and its turn comes.
void wait_for_turn();
void make_ready(int warp, uint32_t lanes);
// All lanes that `lane`'s operation waits for have come, or it is left waiting.
void try_to_complete(int warp, int lane);
// Ends the launch from within a thread.
[[noreturn]] void abandon();

// faults.cpp. A line about the running block; `parties` says who and where.
void report(const std::string& kind, const std::string& parties);
[[noreturn]] void fail(const std::string& kind, const std::string& parties);
// "threads 0-31 at __syncthreads (a.cu:12); threads 32-63 exited": what each thread waits for.
std::string waiting_threads();
std::string describe(Site site);
std::string describe_thread(int thread);
const char* name_of(Op op);

// crash.cpp. Says which kernel and thread a signal came from; the signal itself takes its course.
void watch_signals();

// sites.cpp
bool watches_sites();
extern int skipped_line;
bool is_skipped(Site site);
void note_site(Site site, const char* kind);
// True when this synchronisation is to do nothing.
inline bool skip(Site site, const char* kind) {
  if (__builtin_expect(watches_sites(), 0)) note_site(site, kind);
  return __builtin_expect(site.line == skipped_line, 0) && is_skipped(site);
}

// settings.cpp
struct Settings {
  Schedule schedule = Schedule::forward;
  uint64_t seed = 1;
  Streams streams = Streams::eager;
  Devices devices = Devices::one;
  size_t memory = 0;
  long fail_launch = 0;
  bool quiet = false;
};
extern Settings settings;
extern Statistics counted;

}  // namespace allmrec::emulator
