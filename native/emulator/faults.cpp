#include <cstdio>
#include <cstring>

#include "scheduler.h"
#include "symbols.h"

namespace allmrec::emulator {

namespace {

std::vector<Fault>& found() {
  static auto* const list = new std::vector<Fault>;
  return *list;
}

std::string triple(unsigned x, unsigned y, unsigned z) {
  return "(" + std::to_string(x) + "," + std::to_string(y) + "," + std::to_string(z) + ")";
}

// What a thread is doing, the same for threads that do the same.
std::string doing(const Thread& thread, const Warp& warp, int lane, bool is_current) {
  if (thread.exited) return "exited";
  if (thread.at_barrier) return std::string("at ") + name_of(thread.op) + " (" + describe(thread.site) + ")";
  if (warp.waiting >> lane & 1) {
    char mask[16];
    std::snprintf(mask, sizeof mask, "%08x", thread.mask);
    return std::string("at ") + name_of(thread.op) + " of lanes 0x" + mask + " (" + describe(thread.site) +
           ")";
  }
  return is_current ? "running" : thread.context == nullptr ? "not started" : "ready";
}

}  // namespace

const char* name_of(Op op) {
  switch (op) {
    case Op::barrier:
      return "__syncthreads";
    case Op::barrier_count:
      return "__syncthreads_count";
    case Op::barrier_and:
      return "__syncthreads_and";
    case Op::barrier_or:
      return "__syncthreads_or";
    case Op::sync_warp:
      return "__syncwarp";
    case Op::shuffle:
      return "a shuffle";
    case Op::ballot:
      return "__ballot_sync";
    case Op::any:
      return "__any_sync";
    case Op::all:
      return "__all_sync";
    case Op::match_any:
      return "__match_any_sync";
    case Op::ldmatrix:
      return "ldmatrix";
    case Op::mma:
      return "mma";
    default:
      return "a reduction of the warp";
  }
}

std::string describe(Site site) {
  if (site.file == nullptr) return "?";
  const char* const slash = std::strrchr(site.file, '/');
  return std::string(slash == nullptr ? site.file : slash + 1) + ":" + std::to_string(site.line);
}

std::string describe_thread(int thread) {
  return "thread " + std::to_string(thread) + " (warp " + std::to_string(thread / kLanes) + ")";
}

std::string waiting_threads() {
  std::vector<std::pair<std::string, std::string>> groups;  // what they do, which
  for (int i = 0; i < block.count;) {
    const auto state = [](int thread) {
      return doing(block.threads[thread], block.warps[thread / kLanes], thread % kLanes,
                   thread == block.current);
    };
    const std::string text = state(i);
    int end = i + 1;
    while (end < block.count && state(end) == text) ++end;
    const std::string range = std::to_string(i) + (end - i > 1 ? "-" + std::to_string(end - 1) : "");
    size_t group = 0;
    while (group < groups.size() && groups[group].first != text) ++group;
    if (group == groups.size()) {
      groups.emplace_back(text, range);
    } else if (groups[group].second.size() < 200) {
      groups[group].second += "," + range;
    }
    i = end;
  }
  std::string result;
  for (const auto& [text, threads] : groups)
    result += (result.empty() ? "threads " : "; threads ") + threads + " " + text;
  return result;
}

void report(const std::string& kind, const std::string& parties) {
  Fault fault;
  fault.kind = kind;
  fault.kernel = symbol_name(block.kernel);
  fault.text = "emulator: " + kind + " in " + fault.kernel + ", block " +
               triple(here.block.x, here.block.y, here.block.z) + " of " +
               triple(here.grid_size.x, here.grid_size.y, here.grid_size.z) + " × " +
               triple(here.block_size.x, here.block_size.y, here.block_size.z) + " threads: " + parties;
  if (!settings.quiet) std::fprintf(stderr, "%s\n", fault.text.c_str());
  found().push_back(std::move(fault));
}

void fail(const std::string& kind, const std::string& parties) {
  report(kind, parties);
  abandon();
}

std::vector<Fault> faults() {
  return found();
}
void forget_faults() {
  found().clear();
}

}  // namespace allmrec::emulator
