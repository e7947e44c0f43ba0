#include "race.h"

#if defined(ALLMREC_EMULATOR_RACE)

#include <link.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <unordered_map>
#include <vector>

#include "fiber.h"
#include "scheduler.h"
#include "symbols.h"

namespace allmrec::emulator::race {

namespace {

enum class Access : uint8_t { read, write, atomic, copy_under_way };

// Moments: a count that goes on by one at every launch, block, barrier and meeting of lanes.
using Moment = uint64_t;

// One access: what, by whom and when.
struct Record {
  const void* code = nullptr;
  uint64_t packed = 0;  // moment, 12 bits of thread, 4 of kind; 0: no access

  Record() = default;
  Record(Access kind, int thread, Moment moment, const void* place)
      : code(place),
        packed(moment << 16 | static_cast<uint64_t>(thread) << 4 | static_cast<uint64_t>(kind)) {}
  Moment moment() const { return packed >> 16; }
  int thread() const { return static_cast<int>(packed >> 4 & 0xfff); }
  Access kind() const { return static_cast<Access>(packed & 15); }
};

// Some bytes that were always accessed together.
struct Cell {
  Record write, reads[2];
};

constexpr uintptr_t kPageShift = 7, kPageBytes = 1 << kPageShift;

// Cells are as large as the accesses so far allow.
struct Page {
  int shift = 4;
  bool shared = false;
  std::vector<Cell> cells = std::vector<Cell>(kPageBytes >> 4);

  void refine(int wanted) {
    std::vector<Cell> finer(kPageBytes >> wanted);
    for (size_t i = 0; i < finer.size(); ++i) finer[i] = cells[i >> (shift - wanted)];
    cells.swap(finer);
    shift = wanted;
  }
};

struct Span {
  uintptr_t begin = 0, end = 0;
  bool has(uintptr_t address) const { return address >= begin && address < end; }
};
Span span_of(const void* begin, size_t bytes) {
  const auto first = reinterpret_cast<uintptr_t>(begin);
  return {first, first + bytes};
}

// What a thread ordered before it by a fence, for whoever meets it at an atomic variable.
struct Release {
  Moment block_begin, barrier, whole, fence;
  int thread;
  Moment seen[kLanes];
};
struct BlockBegin {
  Moment moment;
  uint3 index;
};

struct State {
  std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;    // by address / kPageBytes
  std::map<uintptr_t, uintptr_t> memory;                         // device memory: end → begin
  std::unordered_map<uintptr_t, std::vector<Release>> released;  // by atomic variable, in this launch
  std::vector<Release> acquired;                                 // by the running block
  std::map<int, Release> fenced;                                 // by thread of the running block
  std::vector<BlockBegin> blocks;                                // of this launch
  std::set<std::string> reported;
  int reports_left = 0;
};
State& state() {
  static State* const instance = new State;  // kernels may run while the process ends
  return *instance;
}

struct Cached {
  uintptr_t number = 0;
  Page* page = nullptr;
};
constexpr size_t kCached = 4096;
Cached cache[kCached];

// The one that runs; negative: none. Of the host thread that runs the kernel: others may be in host code
// meanwhile.
thread_local int thread = -1;
Moment now = 0, launch_begin = 0, block_begin = 0;
Moment last_barrier = 0;      // of the block
Moment whole_met[kMaxWarps];  // when all lanes of the warp met last
Span stacks, arguments, shared_memory;
// seen[w][a][b]: before it, lane a of warp w knows what lane b did, by meetings of part of the warp.
Moment seen[kMaxWarps][kLanes][kLanes];
uint32_t all_lanes[kMaxWarps];

void forget_pages() {
  std::fill(cache, cache + kCached, Cached{});
}

// Writable data of a loaded file: the variables that kernels declare __shared__, and little else they touch.
enum class Segment { none, constant, writable };
Segment segment_of(uintptr_t address) {
  struct Search {
    uintptr_t address;
    Segment found;
  } search{address, Segment::none};
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* data) {
        auto& wanted = *static_cast<Search*>(data);
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const ElfW(Phdr)& segment = info->dlpi_phdr[i];
          const uintptr_t begin = info->dlpi_addr + segment.p_vaddr;
          if (segment.p_type != PT_LOAD || wanted.address < begin ||
              wanted.address >= begin + segment.p_memsz)
            continue;
          wanted.found = segment.p_flags & PF_W ? Segment::writable : Segment::constant;
          return 1;
        }
        return 0;
      },
      &search);
  return search.found;
}

std::string text_of(const Record& record) {
  static const char* const verbs[] = {"read", "write", "atomic operation", "asynchronous copy"};
  std::string place = source_line(record.code);
  if (place.empty()) place = symbol_name(record.code, true);
  std::string text =
      std::string(verbs[static_cast<int>(record.kind())]) + " by " + describe_thread(record.thread());
  if (record.moment() < block_begin) {
    const auto& blocks = state().blocks;
    const auto after =
        std::upper_bound(blocks.begin(), blocks.end(), record.moment(),
                         [](Moment moment, const BlockBegin& block) { return moment < block.moment; });
    const uint3 index = after == blocks.begin() ? uint3{} : (after - 1)->index;
    text += " of block (" + std::to_string(index.x) + "," + std::to_string(index.y) + "," +
            std::to_string(index.z) + ")";
  }
  return text + " at " + place;
}

void tell(const char* kind, const Record& access, const Record* before, uintptr_t address) {
  const std::string key = std::string(kind) + ":" + symbol_name(block.kernel) + ":" +
                          std::to_string(reinterpret_cast<uintptr_t>(access.code)) + ":" +
                          std::to_string(before == nullptr ? 0 : reinterpret_cast<uintptr_t>(before->code));
  if (state().reports_left <= 0 || !state().reported.insert(key).second) return;
  --state().reports_left;
  const int running = thread;
  thread = -1;
  std::string text = text_of(access);
  if (before != nullptr) text += " after " + text_of(*before);
  text += ", of ";
  if (shared_memory.has(address)) {
    text += "dynamic shared memory + " + std::to_string(address - shared_memory.begin);
  } else {
    const auto memory = state().memory.upper_bound(address);
    if (memory != state().memory.end() && memory->second <= address) {
      text += "device memory + " + std::to_string(address - memory->second);
    } else {
      text += symbol_name(reinterpret_cast<const void*>(address), true);
    }
  }
  report(kind, text);
  thread = running;
}

// The page of shadow for an address; none where nothing is to be watched.
Page* find_page(uintptr_t address, const Record& access) {
  const uintptr_t number = address >> kPageShift;
  auto found = state().pages.find(number);
  if (found == state().pages.end()) {
    bool shared = false;
    const auto memory = state().memory.upper_bound(address);
    if (memory == state().memory.end() || memory->second > address) {
      shared = true;
      if (!shared_memory.has(address)) {
        const Segment segment = segment_of(address);
        if (segment == Segment::none) tell("access to host memory", access, nullptr, address);
        if (segment != Segment::writable) return nullptr;
      }
    }
    found = state().pages.emplace(number, std::make_unique<Page>()).first;
    found->second->shared = shared;
  }
  cache[number % kCached] = {number, found->second.get()};
  return found->second.get();
}

bool knows(const Release& release, const Record& record) {
  if (record.moment() < release.block_begin || record.moment() >= release.fence) return false;
  const int by = record.thread();
  return record.moment() < release.barrier || by == release.thread ||
         (by / kLanes == release.thread / kLanes &&
          (record.moment() < release.whole || record.moment() < release.seen[by % kLanes]));
}

// Whether nothing orders a recorded access before the running thread's.
inline bool races(const Record& record, bool shared) {
  if (record.moment() >= block_begin) {
    const int by = record.thread(), warp = thread / kLanes;
    if (record.moment() < last_barrier || by == thread) return false;
    if (by / kLanes != warp) return true;
    return record.moment() >= whole_met[warp] && record.moment() >= seen[warp][thread % kLanes][by % kLanes];
  }
  if (shared || record.moment() < launch_begin) return false;
  return std::none_of(state().acquired.begin(), state().acquired.end(),
                      [&](const Release& release) { return knows(release, record); });
}

void tell_race(const Record& access, const Record& before, bool shared, uintptr_t address) {
  const bool same_warp = before.thread() / kLanes == access.thread() / kLanes;
  const char* const kind = before.moment() < block_begin ? "race between blocks"
                           : shared && same_warp         ? "shared memory race within a warp"
                           : shared                      ? "shared memory race"
                           : same_warp                   ? "global memory race within a warp"
                                                         : "global memory race";
  tell(kind, access, &before, address);
}

// Keeps two readers that are as far from each other as were seen, so that any later writer meets another's.
inline void remember_read(Cell& cell, const Record& access, bool shared) {
  Record& first = cell.reads[0];
  Record& second = cell.reads[1];
  if (!races(first, shared)) {
    first = access;
    return;
  }
  const auto near = [&](const Record& record) {
    return (record.moment() >= block_begin) == (first.moment() >= block_begin) &&
           record.thread() / kLanes == first.thread() / kLanes;
  };
  if (!near(access) || near(second) || !races(second, shared)) second = access;
}

inline void visit(Cell& cell, const Record& access, bool shared, uintptr_t address) {
  const bool written = cell.write.moment() >= block_begin;
  if (written && cell.write.kind() == Access::copy_under_way) {
    tell("access before the asynchronous copy landed", access, &cell.write, address);
    return;
  }
  const bool reads = access.kind() == Access::read || access.kind() == Access::atomic;
  if (shared && !written && reads &&
      (shared_memory.has(address) || is_local_static(reinterpret_cast<const void*>(address))))
    tell("read of never-written shared memory", access, nullptr, address);
  if (races(cell.write, shared) && !(access.kind() == Access::atomic && cell.write.kind() == Access::atomic))
    tell_race(access, cell.write, shared, address);
  if (access.kind() == Access::read) {
    remember_read(cell, access, shared);
    return;
  }
  for (Record& read : cell.reads) {
    if (races(read, shared)) tell_race(access, read, shared, address);
    if (access.kind() != Access::atomic) read = Record();
  }
  cell.write = access;
}

template <typename Fn>
inline void for_each_cell(const void* p, size_t bytes, const Record& record, Fn fn) {
  auto address = reinterpret_cast<uintptr_t>(p);
  while (bytes > 0) {
    const uintptr_t number = address >> kPageShift, offset = address % kPageBytes;
    const size_t part = std::min<size_t>(bytes, kPageBytes - offset);
    const Cached& cached = cache[number % kCached];
    Page* const page = cached.number == number ? cached.page : find_page(address, record);
    if (page != nullptr) {
      const int aligned = __builtin_ctzl(offset | part | 16);
      if (aligned < page->shift) page->refine(aligned);
      const size_t size = size_t{1} << page->shift;
      for (size_t at = offset; at < offset + part; at += size)
        fn(page->cells[at >> page->shift], page->shared, address + (at - offset));
    }
    address += part;
    bytes -= part;
  }
}

// A thread's stack, its kernel's arguments and its own coordinates are nobody else's.
inline bool is_watched(const void* p) {
  const auto address = reinterpret_cast<uintptr_t>(p);
  return thread >= 0 && !stacks.has(address) && !arguments.has(address) &&
         address - reinterpret_cast<uintptr_t>(&here) >= sizeof here;
}

Record record_of(Access kind, const void* code) {
  return {kind, thread, now, code};
}

inline void access(const void* p, size_t bytes, Access kind, const void* code) {
  if (!is_watched(p)) return;
  const Record record = record_of(kind, code);
  for_each_cell(p, bytes, record,
                [&](Cell& cell, bool shared, uintptr_t address) { visit(cell, record, shared, address); });
}

}  // namespace

void begin_launch(const void* argument_object, size_t argument_bytes) {
  const Stack all = all_stacks();
  stacks = span_of(all.bottom, static_cast<size_t>(all.top - all.bottom));
  arguments = span_of(argument_object, argument_bytes);
  launch_begin = ++now;
  state().released.clear();
  state().blocks.clear();
  state().reports_left = 16;
}

void begin_block(unsigned threads, const void* shared, size_t shared_bytes) {
  block_begin = last_barrier = ++now;
  shared_memory = span_of(shared, shared_bytes);
  state().acquired.clear();
  state().fenced.clear();
  state().blocks.push_back({block_begin, here.block});
  for (unsigned warp = 0; warp * kLanes < threads; ++warp) {
    const unsigned lanes = threads - warp * kLanes;
    all_lanes[warp] = lanes >= kLanes ? 0xffffffffu : (1u << lanes) - 1;
  }
}

void end_block() {
  thread = -1;
}
void run_thread(int number) {
  thread = number;
}
void block_barrier() {
  last_barrier = ++now;
}

void warp_met(int warp, uint32_t lanes) {
  ++now;
  if (lanes == all_lanes[warp]) {
    whole_met[warp] = now;
    return;
  }
  Moment known[kLanes] = {};
  for (uint32_t left = lanes; left != 0; left &= left - 1) {
    const Moment* const row = seen[warp][__builtin_ctz(left)];
    for (int i = 0; i < kLanes; ++i) known[i] = lanes >> i & 1 ? now : std::max(known[i], row[i]);
  }
  for (uint32_t left = lanes; left != 0; left &= left - 1)
    std::memcpy(seen[warp][__builtin_ctz(left)], known, sizeof known);
}

void fence() {
  if (thread < 0) return;
  Release release{block_begin, last_barrier, whole_met[thread / kLanes], ++now, thread, {}};
  std::memcpy(release.seen, seen[thread / kLanes][thread % kLanes], sizeof release.seen);
  state().fenced[thread] = release;
}

void read(const void* address, size_t bytes, const void* code) {
  access(address, bytes, Access::read, code);
}
void write(const void* address, size_t bytes, const void* code) {
  access(address, bytes, Access::write, code);
}

void atomic_access(const void* address, size_t bytes, const void* code) {
  if (!is_watched(address)) return;
  access(address, bytes, Access::atomic, code);
  const auto variable = reinterpret_cast<uintptr_t>(address);
  const auto own = state().fenced.find(thread);
  const auto others = state().released.find(variable);
  if (others != state().released.end())
    state().acquired.insert(state().acquired.end(), others->second.begin(), others->second.end());
  if (own != state().fenced.end()) state().released[variable].push_back(own->second);
}

void copy_begins(const void* to, size_t bytes, const void* code) {
  access(to, bytes, Access::copy_under_way, code);
}

void copy_lands(const void* to, size_t bytes, const void* code) {
  if (!is_watched(to)) return;
  const Record record = record_of(Access::write, code);
  for_each_cell(to, bytes, record, [&](Cell& cell, bool, uintptr_t) { cell.write = record; });
}

void add_memory(const void* begin, size_t bytes) {
  const Span span = span_of(begin, bytes);
  state().memory[span.end] = span.begin;
}

void remove_memory(const void* begin, size_t bytes) {
  const Span span = span_of(begin, bytes);
  state().memory.erase(span.end);
  for (uintptr_t number = span.begin >> kPageShift; number <= (span.end - 1) >> kPageShift; ++number)
    state().pages.erase(number);
  forget_pages();
}

void forget_reports() {
  state().reported.clear();
}

}  // namespace allmrec::emulator::race

#endif
