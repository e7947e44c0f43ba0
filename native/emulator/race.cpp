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

enum class Access : uint8_t { read, write, atomic };

// One access: by whom and when.
struct Record {
  const void* code = nullptr;
  uint32_t serial = 0;  // of the block, counted over all launches; 0: no access
  uint32_t epoch = 0;   // barriers its block had passed
  uint32_t clock = 0;   // meetings its lane had had
  uint16_t thread = 0;
  Access kind = Access::read;
};

// Some bytes that were always accessed together.
struct Cell {
  Record write, reads[2];
  bool copy_under_way = false;
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
  uint32_t serial, epoch;
  uint16_t thread;
  uint32_t seen[kLanes];
};

struct State {
  std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;    // by address / kPageBytes
  std::map<uintptr_t, uintptr_t> memory;                         // device memory: end → begin
  std::unordered_map<uintptr_t, std::vector<Release>> released;  // by atomic variable, in this launch
  std::vector<Release> acquired;                                 // by the running block
  std::map<int, Release> fenced;                                 // by thread of the running block
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

int thread = -1;                                    // the one that runs; negative: none
uint32_t serial = 0, launch_serial = 0, epoch = 0;  // of the running block
Span stacks, arguments, shared_memory;
// clocks[w][a][b]: the latest meeting of lane b that lane a of warp w knows of; its own count at [a][a].
uint32_t clocks[kMaxWarps][kLanes][kLanes];

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
  static const char* const verbs[] = {"read", "write", "atomic operation"};
  std::string place = source_line(record.code);
  if (place.empty()) place = symbol_name(record.code, true);
  std::string text =
      std::string(verbs[static_cast<int>(record.kind)]) + " by " + describe_thread(record.thread);
  if (record.serial != serial)
    text += " of an earlier block, the " + std::to_string(record.serial - launch_serial + 1) + ". to run,";
  return text + " at " + place;
}

void tell(const char* kind, const Record& now, const Record* before, uintptr_t address) {
  const std::string key = std::string(kind) + ":" + symbol_name(block.kernel) + ":" +
                          std::to_string(reinterpret_cast<uintptr_t>(now.code)) + ":" +
                          std::to_string(before == nullptr ? 0 : reinterpret_cast<uintptr_t>(before->code));
  if (state().reports_left <= 0 || !state().reported.insert(key).second) return;
  --state().reports_left;
  const int running = thread;
  thread = -1;
  std::string text = text_of(now);
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
Page* find_page(uintptr_t address, const Record& now) {
  if (arguments.has(address) || span_of(&here, sizeof here).has(address)) return nullptr;
  const uintptr_t number = address >> kPageShift;
  auto found = state().pages.find(number);
  if (found == state().pages.end()) {
    bool shared = false;
    const auto memory = state().memory.upper_bound(address);
    if (memory == state().memory.end() || memory->second > address) {
      shared = true;
      if (!shared_memory.has(address)) {
        const Segment segment = segment_of(address);
        if (segment == Segment::none) tell("access to host memory", now, nullptr, address);
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
  return record.serial == release.serial &&
         (record.epoch < release.epoch || record.thread == release.thread ||
          (record.thread / kLanes == release.thread / kLanes &&
           release.seen[record.thread % kLanes] >= record.clock));
}

// Whether nothing orders a recorded access before the running thread's.
bool races(const Record& record, bool shared) {
  if (record.serial == serial) {
    if (record.thread == thread || record.epoch < epoch) return false;
    const int warp = thread / kLanes;
    return record.thread / kLanes != warp ||
           clocks[warp][thread % kLanes][record.thread % kLanes] < record.clock;
  }
  if (shared || record.serial < launch_serial) return false;
  return std::none_of(state().acquired.begin(), state().acquired.end(),
                      [&](const Release& release) { return knows(release, record); });
}

void tell_race(const Record& now, const Record& before, bool shared, uintptr_t address) {
  const bool same_warp = before.thread / kLanes == now.thread / kLanes;
  const char* const kind = before.serial != serial ? "race between blocks"
                           : shared && same_warp   ? "shared memory race within a warp"
                           : shared                ? "shared memory race"
                           : same_warp             ? "global memory race within a warp"
                                                   : "global memory race";
  tell(kind, now, &before, address);
}

// Keeps two readers that are as far from each other as were seen, so that any later writer meets another's.
void remember_read(Cell& cell, const Record& now, bool shared) {
  Record& first = cell.reads[0];
  Record& second = cell.reads[1];
  if (first.serial < launch_serial || (first.serial == now.serial && first.thread == now.thread) ||
      !races(first, shared)) {
    first = now;
    return;
  }
  const auto near = [&](const Record& record) {
    return record.serial == first.serial && record.thread / kLanes == first.thread / kLanes;
  };
  if (second.serial < launch_serial || near(second) || !near(now) || !races(second, shared)) second = now;
}

void visit(Cell& cell, const Record& now, bool shared, uintptr_t address) {
  const bool written = cell.write.serial == serial;
  if (cell.copy_under_way && written) {
    tell("access before the asynchronous copy landed", now, &cell.write, address);
    return;
  }
  if (shared && !written && now.kind != Access::write) {
    const bool watched =
        shared_memory.has(address) || is_local_static(reinterpret_cast<const void*>(address));
    if (watched) tell("read of never-written shared memory", now, nullptr, address);
  }
  if (races(cell.write, shared) && !(now.kind == Access::atomic && cell.write.kind == Access::atomic))
    tell_race(now, cell.write, shared, address);
  if (now.kind == Access::read) {
    remember_read(cell, now, shared);
    return;
  }
  for (Record& read : cell.reads) {
    if (races(read, shared)) tell_race(now, read, shared, address);
    if (now.kind == Access::write) read.serial = 0;
  }
  cell.write = now;
  cell.copy_under_way = false;
}

template <typename Fn>
inline void for_each_cell(const void* p, size_t bytes, const Record& now, Fn fn) {
  auto address = reinterpret_cast<uintptr_t>(p);
  while (bytes > 0) {
    const uintptr_t number = address >> kPageShift, offset = address % kPageBytes;
    const size_t part = std::min<size_t>(bytes, kPageBytes - offset);
    const Cached& cached = cache[number % kCached];
    Page* const page = cached.number == number ? cached.page : find_page(address, now);
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

inline bool is_watched(const void* p) {
  return thread >= 0 && !stacks.has(reinterpret_cast<uintptr_t>(p));
}

Record record_now(Access kind, const void* code) {
  Record now;
  now.code = code;
  now.serial = serial;
  now.epoch = epoch;
  now.clock = clocks[thread / kLanes][thread % kLanes][thread % kLanes];
  now.thread = static_cast<uint16_t>(thread);
  now.kind = kind;
  return now;
}

void access(const void* p, size_t bytes, Access kind, const void* code) {
  if (!is_watched(p)) return;
  const Record now = record_now(kind, code);
  for_each_cell(p, bytes, now,
                [&](Cell& cell, bool shared, uintptr_t address) { visit(cell, now, shared, address); });
}

}  // namespace

void begin_launch(const void* argument_object, size_t argument_bytes) {
  const Stack all = all_stacks();
  stacks = span_of(all.bottom, static_cast<size_t>(all.top - all.bottom));
  arguments = span_of(argument_object, argument_bytes);
  launch_serial = serial + 1;
  state().released.clear();
  state().reports_left = 16;
}

void begin_block(unsigned threads, const void* shared, size_t shared_bytes) {
  ++serial;
  epoch = 0;
  shared_memory = span_of(shared, shared_bytes);
  state().acquired.clear();
  state().fenced.clear();
  const int warps = static_cast<int>(threads + kLanes - 1) / kLanes;
  std::memset(clocks, 0, sizeof clocks[0] * static_cast<size_t>(warps));
  for (int warp = 0; warp < warps; ++warp) {
    for (int lane = 0; lane < kLanes; ++lane) clocks[warp][lane][lane] = 1;
  }
}

void end_block() {
  thread = -1;
}
void run_thread(int number) {
  thread = number;
}
void block_barrier() {
  ++epoch;
}

void warp_met(int warp, uint32_t lanes) {
  uint32_t known[kLanes] = {};
  for (uint32_t left = lanes; left != 0; left &= left - 1) {
    const uint32_t* const row = clocks[warp][__builtin_ctz(left)];
    for (int i = 0; i < kLanes; ++i) known[i] = std::max(known[i], row[i]);
  }
  for (uint32_t left = lanes; left != 0; left &= left - 1) {
    const int lane = __builtin_ctz(left);
    std::memcpy(clocks[warp][lane], known, sizeof known);
    ++clocks[warp][lane][lane];
  }
}

void fence() {
  if (thread < 0) return;
  Release release{serial, epoch, static_cast<uint16_t>(thread), {}};
  std::memcpy(release.seen, clocks[thread / kLanes][thread % kLanes], sizeof release.seen);
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
  if (thread < 0) return;
  const Record now = record_now(Access::write, code);
  for_each_cell(to, bytes, now, [&](Cell& cell, bool shared, uintptr_t address) {
    visit(cell, now, shared, address);
    cell.copy_under_way = true;
  });
}

void copy_lands(const void* to, size_t bytes, const void* code) {
  if (thread < 0) return;
  const Record now = record_now(Access::write, code);
  for_each_cell(to, bytes, now, [&](Cell& cell, bool, uintptr_t) {
    cell.write = now;
    cell.copy_under_way = false;
  });
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
