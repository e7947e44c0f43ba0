#include "scheduler.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <numeric>

#include "fiber.h"
#include "race.h"
#include "symbols.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace allmrec::emulator {

Coordinates here;
Block block;

namespace {

uint64_t random_state = 1;
uint32_t random_bits() {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return static_cast<uint32_t>(random_state >> 32);
}

int lowest(uint32_t bits) {
  return __builtin_ctz(bits);
}
int highest(uint32_t bits) {
  return 31 - __builtin_clz(bits);
}
int any_of(uint32_t bits) {
  uint32_t skip = random_bits() % static_cast<uint32_t>(__builtin_popcount(bits));
  while (skip-- > 0) bits &= bits - 1;
  return lowest(bits);
}

// Stacks that no thread is on.
int free_stacks[kMaxFibers];
int free_count = 0;

// The thread whose turn it is, no longer ready; -1 when nobody is. A warp goes on for as long as it can: that
// is quick, and it runs ahead of the others when a barrier is missing.
int next_thread() {
  if (block.ready_warps == 0) return -1;
  int warp = block.current_warp, lane;
  const bool stays = block.ready_warps >> warp & 1;
  switch (settings.schedule) {
    case Schedule::forward:
      if (!stays) warp = lowest(block.ready_warps);
      lane = lowest(block.warps[warp].ready);
      break;
    case Schedule::reverse:
      if (!stays) warp = highest(block.ready_warps);
      lane = highest(block.warps[warp].ready);
      break;
    default:
      if (!stays || random_bits() % 4 == 0) warp = any_of(block.ready_warps);
      lane = any_of(block.warps[warp].ready);
      break;
  }
  block.warps[warp].ready &= ~(1u << lane);
  if (block.warps[warp].ready == 0) block.ready_warps &= ~(1u << warp);
  block.current_warp = warp;
  return warp * kLanes + lane;
}

void become(int thread) {
  block.current = thread;
  const auto number = static_cast<unsigned>(thread);
  const dim3& size = here.block_size;
  if (size.y == 1 && size.z == 1) {
    here.thread = {number, 0, 0};
  } else {
    here.thread = {number % size.x, number / size.x % size.y, number / (size.x * size.y)};
  }
  race::run_thread(thread);
}

// Address sanitizer has to know which stack is in use.
#if defined(__SANITIZE_ADDRESS__)
const void* host_bottom;
size_t host_bytes;
bool from_host;
void leaving(void** fake_stack, int stack) {
  if (stack < 0) {
    __sanitizer_start_switch_fiber(fake_stack, host_bottom, host_bytes);
  } else {
    const Stack to = stack_at(stack);
    __sanitizer_start_switch_fiber(fake_stack, to.bottom, static_cast<size_t>(to.top - to.bottom));
  }
}
void arrived(void* fake_stack) {
  if (from_host) {
    from_host = false;
    __sanitizer_finish_switch_fiber(fake_stack, &host_bottom, &host_bytes);
  } else {
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
  }
}
// A frame that is left for good must not leave marks on a stack that others get.
#define ALLMREC_NEVER_RETURNS __attribute__((no_sanitize("address")))
#define ALLMREC_LEAVING(fake_stack, stack) leaving(fake_stack, stack)
#define ALLMREC_ARRIVED(fake_stack) arrived(fake_stack)
#else
#define ALLMREC_NEVER_RETURNS
#define ALLMREC_LEAVING(fake_stack, stack)
#define ALLMREC_ARRIVED(fake_stack)
#endif

void fiber_main();

// Where to go on with a thread. One that has not started gets a stack.
void* context_of(Thread& thread) {
  if (thread.context == nullptr) {
    thread.stack = free_stacks[--free_count];
    thread.context = new_context(stack_at(thread.stack), fiber_main);
  }
  return thread.context;
}

[[noreturn]] ALLMREC_NEVER_RETURNS void to_host() {
  void* dead;
  ALLMREC_LEAVING(nullptr, -1);
  allmrec_emulator_switch(&dead, block.host);
  __builtin_unreachable();
}

void exit_thread() {
  Thread& self = block.threads[block.current];
  const int warp = block.current / kLanes;
  self.exited = true;
  self.copies.clear();
  --block.live;
  if (block.arrived > 0) fail("threads exited before a barrier", waiting_threads());
  Warp& lanes = block.warps[warp];
  lanes.live &= ~(1u << block.current % kLanes);
  // Its warp no longer waits for it.
  for (uint32_t left = lanes.waiting; left != 0; left &= left - 1) {
    const int lane = lowest(left);
    if (lanes.waiting >> lane & 1) try_to_complete(warp, lane);
  }
}

struct Abandoned {};

// False when a fault came up in it.
bool run_thread() {
  try {
    block.body->call(block.body->object.get());
    exit_thread();
    if (block.ready_warps == 0 && block.live > 0) fail("deadlock", waiting_threads());
    return true;
  } catch (const Abandoned&) {
    return false;
  }
}

// Runs threads on one stack: after the end of one, one that has not started can have it without a switch.
ALLMREC_NEVER_RETURNS void fiber_main() {
  ALLMREC_ARRIVED(nullptr);
  for (;;) {
    const int stack = block.threads[block.current].stack;
    if (!run_thread()) {
      block.broken = true;
      to_host();
    }
    const int next = next_thread();
    if (next < 0) to_host();
    become(next);
    Thread& thread = block.threads[next];
    if (thread.context == nullptr) {
      thread.stack = stack;
      thread.context = stack_at(stack).top;  // anything: it has started
      continue;
    }
    free_stacks[free_count++] = stack;
    ++counted.switches;
    void* dead;
    ALLMREC_LEAVING(nullptr, thread.stack);
    allmrec_emulator_switch(&dead, thread.context);
  }
}

// Beyond the block's dynamic shared memory, to notice writes where nothing else does.
constexpr size_t kCanaryBytes = 256;
constexpr size_t kMaxSharedBytes = 256 * 1024;
constexpr unsigned char kCanary = 0xc5, kPoison = 0xff;

struct SharedMemory {
  char* shared;
  size_t bytes;
#if defined(__SANITIZE_ADDRESS__)
  // Of its own for each launch, so that what lies beside it is out of bounds.
  explicit SharedMemory(size_t size)
      : shared(static_cast<char*>(std::malloc(size == 0 ? 1 : size))), bytes(size) {}
  ~SharedMemory() {
    std::free(shared);
  }
  bool intact() const {
    return true;
  }
#else
  explicit SharedMemory(size_t size) : bytes(size) {
    static char* const base = static_cast<char*>(std::aligned_alloc(4096, kMaxSharedBytes));
    shared = base + kCanaryBytes;
    std::memset(shared - kCanaryBytes, kCanary, kCanaryBytes);
    std::memset(shared + bytes, kCanary, kCanaryBytes);
  }
  bool intact() const {
    for (size_t i = 0; i < kCanaryBytes; ++i) {
      if (static_cast<unsigned char>(shared[i - kCanaryBytes]) != kCanary) return false;
      if (static_cast<unsigned char>(shared[bytes + i]) != kCanary) return false;
    }
    return true;
  }
#endif
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
};

void run_block(const std::vector<Range>& static_shared) {
  const int count = block.count;
  block.live = count;
  block.arrived = 0;
  block.mismatched = false;
  block.current_warp = settings.schedule == Schedule::reverse ? (count - 1) / kLanes : 0;
  block.ready_warps = 0;
  for (int warp = 0; warp * kLanes < count; ++warp) {
    const int lanes = std::min(kLanes, count - warp * kLanes);
    const uint32_t all = lanes == kLanes ? 0xffffffffu : (1u << lanes) - 1;
    block.warps[warp] = {all, all, 0};
    block.ready_warps |= 1u << warp;
  }
  for (int i = 0; i < count; ++i) {
    Thread& thread = block.threads[i];
    thread.context = nullptr;
    thread.exited = thread.at_barrier = false;
    thread.copies.clear();
    thread.groups = 0;
  }
  free_count = 0;
  for (int i = count; i-- > 0;) free_stacks[free_count++] = i;
  std::memset(block.shared, kPoison, block.shared_bytes);
  for (const Range& range : static_shared) std::memset(range.begin, kPoison, range.bytes);
  race::begin_block(static_cast<unsigned>(count), block.shared, block.shared_bytes);

  become(next_thread());
  ++counted.blocks;
  counted.threads += static_cast<uint64_t>(count);
  void* const first = context_of(block.threads[block.current]);
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
  from_host = true;
  leaving(&fake_stack, block.threads[block.current].stack);
#endif
  block.running = true;
  allmrec_emulator_switch(&block.host, first);
  block.running = false;
  ALLMREC_ARRIVED(fake_stack);
#if defined(__SANITIZE_ADDRESS__)
  if (block.broken) {
    // The frames left behind had marked what lies around their variables.
    const Stack all = all_stacks();
    __asan_unpoison_memory_region(all.bottom, static_cast<size_t>(all.top - all.bottom));
  }
#endif
  race::run_thread(-1);
  race::end_block();
}

}  // namespace

void make_ready(int warp, uint32_t lanes) {
  block.warps[warp].ready |= lanes;
  block.ready_warps |= 1u << warp;
}

void wait_for_turn() {
  Thread& self = block.threads[block.current];
  const int me = block.current, next = next_thread();
  if (next == me) return;
  if (next < 0) fail("deadlock", waiting_threads());
  become(next);
  ++counted.switches;
  void* const to = context_of(block.threads[next]);
  ALLMREC_LEAVING(&self.fake_stack, block.threads[next].stack);
  allmrec_emulator_switch(&self.context, to);
  ALLMREC_ARRIVED(self.fake_stack);
}

// The other threads stay where they are: a kernel's frames own nothing.
void abandon() {
  throw Abandoned{};
}

int block_barrier(Op op, int predicate, Site site) {
  if (op == Op::barrier && skip(site, "__syncthreads")) return 0;
  Thread& self = block.threads[block.current];
  self.op = op;
  self.site = site;
  self.value = static_cast<uint64_t>(predicate);
  self.at_barrier = true;
  if (block.arrived == 0) {
    block.first = block.current;
    block.sum = 0;
  }
  const Thread& first = block.threads[block.first];
  if (op != first.op || site.line != first.site.line ||
      (site.file != first.site.file && std::strcmp(site.file, first.site.file) != 0))
    block.mismatched = true;
  block.sum += predicate;
  if (block.live < block.count) fail("threads exited before a barrier", waiting_threads());
  if (++block.arrived == block.count) {
    if (block.mismatched) fail("mismatched barriers", waiting_threads());
    const int result = op == Op::barrier_count ? block.sum
                       : op == Op::barrier_and ? static_cast<int>(block.sum == block.count)
                                               : static_cast<int>(block.sum > 0);
    for (int i = 0; i < block.count; ++i) {
      block.threads[i].result = static_cast<uint64_t>(result);
      block.threads[i].at_barrier = false;
    }
    for (int warp = 0; warp * kLanes < block.count; ++warp) make_ready(warp, block.warps[warp].live);
    block.arrived = 0;
    // The schedule's first warp goes on, not the last to come.
    block.current_warp = settings.schedule == Schedule::reverse ? (block.count - 1) / kLanes : 0;
    race::block_barrier();
  }
  wait_for_turn();
  return static_cast<int>(self.result);
}

void* dynamic_shared() {
  return block.shared;
}

bool run_launch(const Launch& launch) {
  ++counted.launches;
  watch_signals();
  here.block_size = launch.block;
  here.grid_size = launch.grid;
  block.count = static_cast<int>(launch.block.x * launch.block.y * launch.block.z);
  block.body = &launch.body;
  block.kernel = launch.kernel;
  block.broken = false;
  const SharedMemory memory(launch.shared);
  block.shared = memory.shared;
  block.shared_bytes = launch.shared;
  const std::vector<Range>& static_shared = static_shared_of(launch.kernel);
  random_state = (settings.seed + counted.launches) * 0x9e3779b97f4a7c15u | 1;

  const size_t blocks = static_cast<size_t>(launch.grid.x) * launch.grid.y * launch.grid.z;
  std::vector<uint32_t> order;
  if (settings.schedule == Schedule::random) {
    order.resize(blocks);
    std::iota(order.begin(), order.end(), 0u);
    for (size_t i = blocks; i > 1; --i) std::swap(order[i - 1], order[random_bits() % i]);
  }
  race::begin_launch(launch.body.object.get(), launch.body.size);
  for (size_t i = 0; i < blocks && !block.broken; ++i) {
    const size_t number = settings.schedule == Schedule::forward   ? i
                          : settings.schedule == Schedule::reverse ? blocks - 1 - i
                                                                   : order[i];
    here.block = {static_cast<unsigned>(number % launch.grid.x),
                  static_cast<unsigned>(number / launch.grid.x % launch.grid.y),
                  static_cast<unsigned>(number / launch.grid.x / launch.grid.y)};
    run_block(static_shared);
    if (!memory.intact()) {
      report("out of bounds",
             "writes beside the dynamic shared memory of " + std::to_string(launch.shared) + " bytes");
      block.broken = true;
    }
  }
  return !block.broken;
}

}  // namespace allmrec::emulator
