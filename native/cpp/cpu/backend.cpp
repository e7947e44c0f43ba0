// The CPU back end: a device is a thread team, its scratch memory and the kernels of one instruction set.
// Device memory is host memory, so copies are memcpy and nothing is ever pending.
#include "backend.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <new>
#include <string>
#include <tuple>
#include <vector>

#include "../backend/costs.h"
#include "../backend/status.h"
#include "../backend/validate.h"
#include "../core/memory_limit.h"
#include "../core/version.h"
#include "device.h"
#include "half_adapter.h"

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace allmrec::cpu {
namespace {

enum Op {
#define ALLMREC_ENTRY(op, args) op_##op,
  ALLMREC_OPS(ALLMREC_ENTRY)
#undef ALLMREC_ENTRY
      kOps
};

// Wall-clock time of every op while it is on.
struct Profile {
  bool on = false;
  allmrec_profile_row ops[kOps];
  std::vector<allmrec_profile_row> rows;  // of the last profile, ops that ran only
};

}  // namespace
}  // namespace allmrec::cpu

struct allmrec_device {
  allmrec_device(int threads, const allmrec::cpu::Kernels& kernels) : device(threads, kernels) {}
  allmrec::cpu::Device device;
  allmrec::cpu::Profile profile;
  std::string name;
};

namespace allmrec::cpu {

namespace {

using validation::Check;

// Runs fn; whatever it throws becomes a status and a sentence.
template <typename Fn>
allmrec_status guarded(Fn&& fn) noexcept {
  try {
    try {
      fn();
      return ALLMREC_OK;
    } catch (const Error& error) {
      last_error_of_thread() = error.what();
      return status_of(error.code());
    } catch (const std::bad_alloc&) {
      std::string& message = last_error_of_thread();
      message.clear();
      message = "Out of memory. " + memory_text() + ".";
      return ALLMREC_OUT_OF_MEMORY;
    } catch (const std::exception& error) {
      last_error_of_thread() = error.what();
      return ALLMREC_INTERNAL;
    }
  } catch (...) {
    return ALLMREC_OUT_OF_MEMORY;  // not even room for the sentence
  }
}

template <typename Args>
void run_timed(allmrec_profile_row& row, Device& device, void (*kernel)(Device&, const Args&),
               const Args& args) {
  const auto begin = std::chrono::steady_clock::now();
  run(device, kernel, args);
  const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - begin;
  ++row.calls;
  row.milliseconds += time.count();
  const Cost cost = cost_of(args);
  row.flops += cost.flops;
  row.bytes += cost.bytes;
}

template <typename Args>
allmrec_status dispatch(const char* name, Op op, allmrec_device* device, const Args* args,
                        void (*Kernels::*kernel)(Device&, const Args&)) noexcept {
  if (!device) return ALLMREC_INVALID_ARGUMENT;
  Device& d = device->device;
  return guarded([&] {
    if (!args) throw Error(ErrorCode::invalid_argument, std::string(name) + ": args must not be null");
    validation::validate(Check(name), *args);
    if (device->profile.on) return run_timed(device->profile.ops[op], d, d.kernels->*kernel, *args);
    run(d, d.kernels->*kernel, *args);
  });
}

#define ALLMREC_ENTRY(op, args)                                      \
  allmrec_status op##_entry(allmrec_device* device, const args* a) { \
    return dispatch<args>(#op, op_##op, device, a, &Kernels::op);    \
  }
ALLMREC_OPS(ALLMREC_ENTRY)
#undef ALLMREC_ENTRY

#if defined(__x86_64__)
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

// An instruction set by its name for ALLMREC_ISA, the plainest first.
struct InstructionSet {
  const char* name;
  bool available;
  Kernels kernels;
};

Kernels with_extras(const Kernels& kernels, const char* name, int32_t extras) {
  Kernels more = kernels;
  more.instruction = name;
  more.extras = extras;
  return more;
}

const std::vector<InstructionSet>& instruction_sets() {
  // Never freed: `exit()` destroys statics while devices' threads may still compute.
  static const auto* sets = new const std::vector<InstructionSet>([] {
    std::vector<InstructionSet> list = {{"generic", true, generic_kernels()}};
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool vnni = has_avx512() && __builtin_cpu_supports("avx512vnni");
    const bool bf16 = vnni && __builtin_cpu_supports("avx512bf16");
    list.push_back({"avx2", has_avx2(), avx2_kernels()});
    list.push_back({"avx512", has_avx512(), avx512_kernels()});
    for (const auto& [name, available, extras] : {std::tuple{"avx512+vnni", vnni, kDotInt8},
                                                  std::tuple{"avx512+vnni+bf16", bf16, kDotInt8 | kDotBf16}})
      list.push_back({name, available, with_extras(avx512_kernels(), name, extras)});
#endif
    return list;
  }());
  return *sets;
}

const Kernels& choose_kernels() {
  const std::vector<InstructionSet>& sets = instruction_sets();
  const char* variable = std::getenv("ALLMREC_ISA");
  const std::string wanted = variable ? variable : "";
  if (wanted.empty()) {
    const auto best =
        std::find_if(sets.rbegin(), sets.rend(), [](const InstructionSet& s) { return s.available; });
    return best->kernels;
  }
  std::string names;
  for (const InstructionSet& set : sets) {
    if (wanted != set.name) {
      names += (names.empty() ? "`" : ", `") + std::string(set.name) + "`";
      continue;
    }
    if (set.available) return set.kernels;
    throw Error(ErrorCode::unsupported,
                "ALLMREC_ISA asks for `" + wanted + "`, which this processor does not have");
  }
  throw Error(ErrorCode::invalid_argument,
              "Expected ALLMREC_ISA to be one of " + names + ", got `" + wanted + "`");
}

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) != 0) continue;
    const size_t colon = line.find(": ");
    if (colon != std::string::npos) return line.substr(colon + 2);
  }
  return "CPU";
}

int64_t memory_bytes() {
#if defined(_SC_PHYS_PAGES) && defined(_SC_PAGESIZE)
  const long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
  if (pages > 0 && size > 0) return static_cast<int64_t>(pages) * size;
#endif
  return 0;
}

// Of what the machine has, what is not in use; −1 where that cannot be said.
int64_t free_bytes() {
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("MemAvailable:", 0) == 0) return std::atoll(line.c_str() + 13) * 1024;
  }
  return -1;
}

// There is nothing to set.
allmrec_status configure(const char*, const char*) {
  return ALLMREC_INVALID_ARGUMENT;
}

allmrec_status open(int32_t index, int32_t threads, allmrec_device** out, char* reason, size_t reason_size) {
  const allmrec_status status = guarded([&] {
    const Check check("open");
    check.pointer("out", out).size("threads", threads).one_of("index", index, {0});
    auto device = std::make_unique<allmrec_device>(threads, choose_kernels());
    device->name = processor_name();
    *out = device.release();
  });
  if (status != ALLMREC_OK && reason && reason_size > 0) {
    const std::string& message = last_error_of_thread();
    const size_t length = std::min(message.size(), reason_size - 1);
    std::memcpy(reason, message.data(), length);
    reason[length] = '\0';
  }
  return status;
}

void close(allmrec_device* device) {
  delete device;
}

const char* last_error(allmrec_device* device) {
  return device ? last_error_of_thread().c_str() : "";
}

allmrec_status info(allmrec_device* device, allmrec_device_info* out) {
  if (!device || !out) return ALLMREC_INVALID_ARGUMENT;
  *out = {device->name.c_str(), device->device.kernels->instruction, memory_bytes(),
          device->device.pool.size(), nullptr};
  return ALLMREC_OK;
}

allmrec_status alloc(allmrec_device* device, size_t bytes, void** out) {
  if (!device || !out) return ALLMREC_INVALID_ARGUMENT;
  return guarded([&] {
    *out = device->device.memory.alloc(bytes);
    if (!*out)
      throw Error(ErrorCode::out_of_memory,
                  bytes_text(static_cast<int64_t>(device->device.memory.usage().in_use)) +
                      " are in use on this device. " + memory_text() + ".");
  });
}

void release(allmrec_device* device, void* p) {
  if (device) device->device.memory.free(p);
}

allmrec_status copy(allmrec_device* device, void* dst, const void* src, size_t bytes) {
  if (!device) return ALLMREC_INVALID_ARGUMENT;
  return guarded([&] {
    if (bytes == 0) return;
    Check("copy").pointer("dst", dst).pointer("src", src);
    std::memmove(dst, src, bytes);
  });
}

allmrec_status fill(allmrec_device* device, float* x, int64_t n, float value) {
  if (!device) return ALLMREC_INVALID_ARGUMENT;
  return guarded([&] {
    Check("fill").size("n", n).pointer("x", x, n > 0);
    device->device.pool.parallel_for(
        n, 1 << 18, [&](int64_t begin, int64_t end, int) { std::fill(x + begin, x + end, value); });
  });
}

allmrec_status synchronize(allmrec_device* device) {
  return device ? ALLMREC_OK : ALLMREC_INVALID_ARGUMENT;
}

allmrec_status memory(allmrec_device* device, allmrec_memory_info* out) {
  if (!device || !out) return ALLMREC_INVALID_ARGUMENT;
  return guarded([&] {
    const MemoryCache::Usage usage = device->device.memory.usage();
    const int64_t total = memory_bytes();
    *out = {static_cast<int64_t>(usage.in_use), static_cast<int64_t>(usage.kept),
            static_cast<int64_t>(usage.peak), free_bytes(), total > 0 ? total : -1};
  });
}

allmrec_status trim(allmrec_device* device) {
  if (!device) return ALLMREC_INVALID_ARGUMENT;
  return guarded([&] { device->device.trim(); });
}

allmrec_status no_graphs(allmrec_device* device) {
  if (!device) return ALLMREC_INVALID_ARGUMENT;
  return guarded([] {
    throw Error(ErrorCode::unsupported, "The cpu runs every op at once and has no graphs to record");
  });
}

allmrec_status capture_end(allmrec_device* device, allmrec_graph**) {
  return no_graphs(device);
}

void capture_cancel(allmrec_device*) {}

allmrec_status graph_launch(allmrec_device* device, allmrec_graph*) {
  return no_graphs(device);
}

void graph_free(allmrec_device*, allmrec_graph*) {}

allmrec_status profile_begin(allmrec_device* device) {
  if (!device) return ALLMREC_INVALID_ARGUMENT;
  int op = 0;
#define ALLMREC_ENTRY(op_name, args) device->profile.ops[op++] = {#op_name, 0, 0.0, 0.0, 0.0};
  ALLMREC_OPS(ALLMREC_ENTRY)
#undef ALLMREC_ENTRY
  device->profile.on = true;
  return ALLMREC_OK;
}

allmrec_status profile_end(allmrec_device* device, const allmrec_profile_row** rows, int64_t* count) {
  if (!device || !rows || !count) return ALLMREC_INVALID_ARGUMENT;
  return guarded([&] {
    Profile& profile = device->profile;
    if (!profile.on) throw Error(ErrorCode::invalid_argument, "profile_end: no profile was begun");
    profile.on = false;
    profile.rows.clear();
    for (const allmrec_profile_row& row : profile.ops) {
      if (row.calls > 0) profile.rows.push_back(row);
    }
    *rows = profile.rows.data();
    *count = static_cast<int64_t>(profile.rows.size());
  });
}

}  // namespace
}  // namespace allmrec::cpu

namespace allmrec {

const allmrec_backend* cpu_backend() {
  using namespace cpu;
#define ALLMREC_ENTRY(op, args) op##_entry,
  static constexpr allmrec_backend backend = {ALLMREC_BACKEND_ABI,
                                              sizeof(allmrec_backend),
                                              "cpu",
                                              kVersion,
                                              configure,
                                              open,
                                              close,
                                              last_error,
                                              info,
                                              alloc,
                                              release,
                                              copy,
                                              copy,
                                              copy,
                                              fill,
                                              synchronize,
                                              memory,
                                              trim,
                                              no_graphs,
                                              capture_end,
                                              capture_cancel,
                                              graph_launch,
                                              graph_free,
                                              profile_begin,
                                              profile_end,
                                              ALLMREC_OPS(ALLMREC_ENTRY)};
#undef ALLMREC_ENTRY
  return &backend;
}

}  // namespace allmrec
