// The CUDA back end's entry points: devices, memory, graphs, profiles, and the op table around the functions
// of ops.h. Built by nvcc it is `cuda`, built for the emulator `cudaemu`; the two differ in nothing else.
//
// Errors: CUDA reports some failures (a kernel that wrote out of bounds, a lost card) on whichever call comes
// next, and on every call from then on. Such a device is marked lost: each further call says so at once, and
// only closing it and opening another process helps. All others leave it usable.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "../cpp/backend/costs.h"
#include "../cpp/backend/status.h"
#include "../cpp/backend/validate.h"
#include "cublaslt.h"
#include "memory_pool.h"
#include "ops.h"
#include "staging.h"

#ifndef ALLMREC_VERSION
#define ALLMREC_VERSION "unknown"
#endif

namespace allmrec::cuda {

void fill(Context& context, float* x, int64_t n, float value);  // elementwise.cu

namespace {

constexpr int kOldestCapability = 80;  // Ampere: cp.async and bf16 matrix instructions

#if defined(ALLMREC_EMULATOR)
constexpr const char* kName = "cudaemu";
#else
constexpr const char* kName = "cuda";
#endif

// A CUDA error that later calls will report again.
class LostDevice : public Error {
 public:
  explicit LostDevice(const std::string& message) : Error(ErrorCode::device_lost, message) {}
};

bool is_sticky(cudaError_t status) {
  switch (status) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorAssert:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorDevicesUnavailable:
    case cudaErrorUnknown:
      return true;
    default:
      return false;
  }
}

struct TimedOp {
  const char* op;
  Cost cost;
  std::unique_ptr<Event> begin, end;
};

struct Profile {
  bool on = false;
  std::deque<TimedOp> ops;
  std::vector<std::pair<std::unique_ptr<Event>, std::unique_ptr<Event>>> spare;
  std::vector<allmrec_profile_row> rows;
};

}  // namespace

void check_cuda(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  const std::string message =
      std::string(call) + ": " + cudaGetErrorName(status) + ", " + cudaGetErrorString(status) + ".";
  if (is_sticky(status)) throw LostDevice(message);
  cudaGetLastError();  // forgets it
  if (status == cudaErrorMemoryAllocation) throw Error(ErrorCode::out_of_memory, message);
  throw Error(ErrorCode::device, message);
}

}  // namespace allmrec::cuda

struct allmrec_graph {
  cudaGraphExec_t exec = nullptr;
  std::vector<void*> blocks;  // device memory the recorded ops worked in
  allmrec::cuda::PinnedBlocks pinned;
};

struct allmrec_device {
  int index = 0;
  std::string name, instruction, libraries;
  std::string why_lost;  // of a lost device
  std::atomic<bool> lost{false};
  int64_t memory_bytes = 0;
  // Everything but memory is guarded: a training step and a finalizer may meet on two threads.
  std::recursive_mutex mutex;
  cudaStream_t compute = nullptr, copy = nullptr;
  allmrec::cuda::MemoryPool pool;
  std::unique_ptr<allmrec::cuda::Staging> staging;
  std::unique_ptr<allmrec::cuda::CublasLt> cublas_lt;
  allmrec::cuda::Context context;
  allmrec::cuda::Profile profile;
  bool capturing = false;
  bool wait_after_each = false;  // ALLMREC_CUDA_SYNC=1: an asynchronous error is then reported by its own op

  ~allmrec_device() {
    if (compute) cudaStreamSynchronize(compute);
    cublas_lt.reset();
    staging.reset();
    profile.ops.clear();
    profile.spare.clear();
    if (copy) cudaStreamDestroy(copy);
    if (compute) cudaStreamDestroy(compute);
  }
};

namespace allmrec::cuda {

// Defined here because a context is a part of its device.
namespace {
allmrec_device& device_of(Context& context) {
  return *reinterpret_cast<allmrec_device*>(context.owner);
}
}  // namespace

void Context::send(void* device, const void* host, size_t bytes) {
  device_of(*this).staging->upload(device, host, bytes);
}

Scratch::Scratch(Context& context, size_t bytes)
    : context_(context), memory_(bytes ? context.memory->alloc(bytes) : nullptr) {}

Scratch::~Scratch() {
  context_.memory->free(memory_);
}

namespace {

// Runs fn on the device's thread-independent state; whatever it throws becomes a status and a sentence.
template <typename Fn>
allmrec_status guarded(allmrec_device* device, const char* what, Fn&& fn) noexcept {
  if (device == nullptr) return ALLMREC_INVALID_ARGUMENT;
  try {
    std::lock_guard<std::recursive_mutex> lock(device->mutex);
    try {
      if (device->lost.load()) {
        last_error_of_thread() = device->why_lost;
        return ALLMREC_DEVICE_LOST;
      }
      check_cuda(cudaSetDevice(device->index), "cudaSetDevice");
      fn();
      return ALLMREC_OK;
    } catch (const LostDevice& error) {
      device->why_lost = "The device is lost since `" + std::string(what) + "` (" + error.what() +
                         "). Nothing on it can be used any more; start a new process.";
      device->lost.store(true);
      last_error_of_thread() = device->why_lost;
      return ALLMREC_DEVICE_LOST;
    } catch (const Error& error) {
      last_error_of_thread() = error.what();
      return status_of(error.code());
    } catch (const std::bad_alloc&) {
      last_error_of_thread() = "Out of host memory.";
      return ALLMREC_OUT_OF_MEMORY;
    } catch (const std::exception& error) {
      last_error_of_thread() = error.what();
      return ALLMREC_INTERNAL;
    }
  } catch (...) {
    return ALLMREC_INTERNAL;
  }
}

// The events of one op, from the spare ones where there are any.
TimedOp timed_op(Profile& profile, const char* op, const Cost& cost) {
  TimedOp timed{op, cost, nullptr, nullptr};
  if (profile.spare.empty()) {
    timed.begin = std::make_unique<Event>(true);
    timed.end = std::make_unique<Event>(true);
  } else {
    timed.begin = std::move(profile.spare.back().first);
    timed.end = std::move(profile.spare.back().second);
    profile.spare.pop_back();
  }
  return timed;
}

template <typename Args>
allmrec_status dispatch(const char* op, allmrec_device* device, const Args* args,
                        void (*run)(Context&, const Args&)) noexcept {
  return guarded(device, op, [&] {
    if (!args) throw Error(ErrorCode::invalid_argument, std::string(op) + ": args must not be null");
    validation::validate(validation::Check(op), *args);
    if (device->profile.on && !device->capturing) {
      TimedOp timed = timed_op(device->profile, op, cost_of(*args));
      check_cuda(cudaEventRecord(*timed.begin, device->compute), "cudaEventRecord");
      run(device->context, *args);
      check_cuda(cudaEventRecord(*timed.end, device->compute), "cudaEventRecord");
      device->profile.ops.push_back(std::move(timed));
    } else {
      run(device->context, *args);
    }
    check_cuda(cudaGetLastError(), op);
    if (device->wait_after_each && !device->capturing) check_cuda(cudaStreamSynchronize(device->compute), op);
  });
}

#define ALLMREC_ENTRY(op, args)                                      \
  allmrec_status op##_entry(allmrec_device* device, const args* a) { \
    return dispatch<args>(#op, device, a, &op);                      \
  }
ALLMREC_OPS(ALLMREC_ENTRY)
#undef ALLMREC_ENTRY

allmrec_status configure(const char* key, const char* value) {
  if (key == nullptr || value == nullptr || std::strcmp(key, "cublaslt") != 0)
    return ALLMREC_INVALID_ARGUMENT;
  configure_cublas_lt(value);
  return ALLMREC_OK;
}

void explain(char* reason, size_t size, const std::string& text) {
  if (reason && size) std::snprintf(reason, size, "%s", text.c_str());
}

// Reason codes come first in the text, as in the registry's.
std::string open_device(int32_t index, allmrec_device** out) {
  int count = 0;
  cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaErrorInsufficientDriver) {
    cudaGetLastError();
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    cudaGetLastError();
    const auto version = [](int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); };
    if (driver == 0) return "no_driver: No NVIDIA driver is installed, or it cannot be loaded.";
    return "old_driver: The NVIDIA driver supports CUDA " + version(driver) + ", this library needs " +
           version(runtime) + "; update the driver.";
  }
  if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0)) {
    cudaGetLastError();
    return "no_device: The driver sees no NVIDIA card (CUDA_VISIBLE_DEVICES may hide it).";
  }
  if (status != cudaSuccess) {
    cudaGetLastError();
    return std::string("driver_error: ") + cudaGetErrorString(status);
  }
  if (index < 0 || index >= count)
    return "no_such_device: There is no card " + std::to_string(index) + "; the driver sees " +
           std::to_string(count) + ".";
  cudaDeviceProp properties;
  check_cuda(cudaSetDevice(index), "cudaSetDevice");
  check_cuda(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
  const int capability = 10 * properties.major + properties.minor;
  if (capability < kOldestCapability)
    return "unsupported_card: " + std::string(properties.name) + " has compute capability " +
           std::to_string(properties.major) + "." + std::to_string(properties.minor) + "; 8.0 is the oldest.";
  auto device = std::make_unique<allmrec_device>();
  device->index = index;
  device->name = properties.name;
  device->instruction = "sm_" + std::to_string(capability);
  device->memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  check_cuda(cudaStreamCreateWithFlags(&device->compute, cudaStreamNonBlocking), "cudaStreamCreate");
  check_cuda(cudaStreamCreateWithFlags(&device->copy, cudaStreamNonBlocking), "cudaStreamCreate");
  device->staging = std::make_unique<Staging>(device->compute, device->copy);
  std::string why;
  device->cublas_lt = CublasLt::open(why);
  device->libraries = device->cublas_lt ? device->cublas_lt->description() : "no cuBLASLt: " + why;
  const char* wait = std::getenv("ALLMREC_CUDA_SYNC");
  device->wait_after_each = wait && std::strcmp(wait, "1") == 0;
  Context& context = device->context;
  context.stream = device->compute;
  context.sm_count = properties.multiProcessorCount;
  context.capability = capability;
  context.shared_per_block = properties.sharedMemPerBlockOptin;
  context.cublas_lt = device->cublas_lt.get();
  context.memory = &device->pool;
  context.owner = device.get();
  *out = device.release();
  return "";
}

allmrec_status open(int32_t index, int32_t, allmrec_device** out, char* reason, size_t reason_size) {
  *out = nullptr;
  try {
    const std::string why = open_device(index, out);
    explain(reason, reason_size, why);
    return why.empty() ? ALLMREC_OK : ALLMREC_DEVICE_ERROR;
  } catch (const std::exception& error) {
    explain(reason, reason_size, std::string("driver_error: ") + error.what());
    return ALLMREC_DEVICE_ERROR;
  }
}

void close(allmrec_device* device) {
  if (device) cudaSetDevice(device->index);
  delete device;
}

const char* last_error(allmrec_device* device) {
  return device ? last_error_of_thread().c_str() : "There is no device.";
}

allmrec_status info(allmrec_device* device, allmrec_device_info* out) {
  if (!device || !out) return ALLMREC_INVALID_ARGUMENT;
  *out = {device->name.c_str(), device->instruction.c_str(), device->memory_bytes, device->context.sm_count,
          device->libraries.c_str()};
  return ALLMREC_OK;
}

// Neither takes the device's lock for long: models are made and dropped while a step runs elsewhere.
allmrec_status alloc(allmrec_device* device, size_t bytes, void** out) {
  if (!device || !out) return ALLMREC_INVALID_ARGUMENT;
  try {
    if (!device->lost.load()) {
      check_cuda(cudaSetDevice(device->index), "cudaSetDevice");
      *out = device->pool.alloc(bytes);
      return ALLMREC_OK;
    }
  } catch (const LostDevice&) {
    // guarded() below finds the same error again and marks the device.
  } catch (const Error& error) {
    last_error_of_thread() = error.what();
    return status_of(error.code());
  } catch (...) {
    return ALLMREC_INTERNAL;
  }
  return guarded(device, "alloc", [&] { *out = device->pool.alloc(bytes); });
}

void free_memory(allmrec_device* device, void* memory) {
  if (device) device->pool.free(memory);
}

allmrec_status upload(allmrec_device* device, void* dst, const void* host_src, size_t bytes) {
  return guarded(device, "upload", [&] { device->staging->upload(dst, host_src, bytes); });
}

void refuse_while_recording(allmrec_device* device, const char* what) {
  if (device->capturing)
    throw Error(ErrorCode::internal, std::string(what) + " cannot be part of a recorded graph.");
}

allmrec_status download(allmrec_device* device, void* host_dst, const void* src, size_t bytes) {
  return guarded(device, "download", [&] {
    refuse_while_recording(device, "A download");
    device->staging->download(host_dst, src, bytes);
  });
}

allmrec_status copy(allmrec_device* device, void* dst, const void* src, size_t bytes) {
  return guarded(device, "copy", [&] {
    if (bytes)
      check_cuda(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, device->compute),
                 "cudaMemcpyAsync");
  });
}

allmrec_status fill_entry(allmrec_device* device, float* x, int64_t n, float value) {
  return guarded(device, "fill", [&] {
    if (n > 0) fill(device->context, x, n, value);
    check_cuda(cudaGetLastError(), "fill");
  });
}

allmrec_status synchronize(allmrec_device* device) {
  return guarded(device, "synchronize", [&] {
    refuse_while_recording(device, "Waiting for the device");
    check_cuda(cudaStreamSynchronize(device->compute), "cudaStreamSynchronize");
  });
}

allmrec_status memory(allmrec_device* device, allmrec_memory_info* out) {
  return guarded(device, "memory", [&] { *out = device->pool.info(); });
}

allmrec_status trim(allmrec_device* device) {
  return guarded(device, "trim", [&] {
    refuse_while_recording(device, "Giving memory back");
    device->pool.trim();
  });
}

void drop_graph(allmrec_device* device, allmrec_graph* graph) {
  if (graph->exec) cudaGraphExecDestroy(graph->exec);
  device->pool.restore(graph->blocks);
  device->staging->retire(std::move(graph->pinned));
  delete graph;
}

allmrec_status capture_begin(allmrec_device* device) {
  return guarded(device, "capture_begin", [&] {
    refuse_while_recording(device, "Another recording");
    // Relaxed: the pool may have to ask the device for memory.
    check_cuda(cudaStreamBeginCapture(device->compute, cudaStreamCaptureModeRelaxed),
               "cudaStreamBeginCapture");
    device->capturing = true;
    device->pool.begin_recording();
    device->staging->begin_recording();
  });
}

// Ends the recording; what it had collected goes to `graph`.
cudaGraph_t stop_recording(allmrec_device* device, allmrec_graph& graph) {
  cudaGraph_t recorded = nullptr;
  const cudaError_t status = cudaStreamEndCapture(device->compute, &recorded);
  device->capturing = false;
  graph.blocks = device->pool.end_recording();
  graph.pinned = device->staging->end_recording();
  if (status != cudaSuccess) {
    if (recorded) cudaGraphDestroy(recorded);
    recorded = nullptr;
    device->pool.restore(graph.blocks);
    graph.blocks.clear();
    check_cuda(status, "cudaStreamEndCapture");
  }
  return recorded;
}

allmrec_status capture_end(allmrec_device* device, allmrec_graph** out) {
  return guarded(device, "capture_end", [&] {
    if (!device->capturing) throw Error(ErrorCode::internal, "Nothing is being recorded.");
    auto fresh = std::make_unique<allmrec_graph>();
    const cudaGraph_t recorded = stop_recording(device, *fresh);
    cudaError_t status = cudaErrorGraphExecUpdateFailure;
    if (*out) {
      // The same ops in the same order, as in every step of a training: only arguments and sizes change.
      cudaGraphExecUpdateResultInfo result;
      status = cudaGraphExecUpdate((*out)->exec, recorded, &result);
      if (status == cudaSuccess)
        fresh->exec = std::exchange((*out)->exec, nullptr);
      else
        cudaGetLastError();
    }
    if (status != cudaSuccess) status = cudaGraphInstantiate(&fresh->exec, recorded, 0);
    cudaGraphDestroy(recorded);
    if (status != cudaSuccess) {
      drop_graph(device, fresh.release());
      check_cuda(status, "cudaGraphInstantiate");
    }
    if (*out) drop_graph(device, *out);
    *out = fresh.release();
  });
}

void capture_cancel(allmrec_device* device) {
  guarded(device, "capture_cancel", [&] {
    if (!device->capturing) return;
    auto graph = std::make_unique<allmrec_graph>();
    try {
      if (const cudaGraph_t recorded = stop_recording(device, *graph)) cudaGraphDestroy(recorded);
    } catch (const LostDevice&) {
      throw;
    } catch (const Error&) {
      // A recording that had failed already ends with an error; that is what it is cancelled for.
    }
    drop_graph(device, graph.release());
  });
}

allmrec_status graph_launch(allmrec_device* device, allmrec_graph* graph) {
  return guarded(device, "graph_launch", [&] {
    if (!graph || !graph->exec) throw Error(ErrorCode::internal, "There is no graph to launch.");
    refuse_while_recording(device, "A graph");
    check_cuda(cudaGraphLaunch(graph->exec, device->compute), "cudaGraphLaunch");
  });
}

void graph_free(allmrec_device* device, allmrec_graph* graph) {
  if (!graph) return;
  if (guarded(device, "graph_free", [&] { drop_graph(device, graph); }) != ALLMREC_OK) delete graph;
}

allmrec_status profile_begin(allmrec_device* device) {
  return guarded(device, "profile_begin", [&] {
    device->profile.ops.clear();
    device->profile.on = true;
  });
}

allmrec_status profile_end(allmrec_device* device, const allmrec_profile_row** rows, int64_t* count) {
  return guarded(device, "profile_end", [&] {
    Profile& profile = device->profile;
    profile.on = false;
    check_cuda(cudaStreamSynchronize(device->compute), "cudaStreamSynchronize");
    std::map<std::string, allmrec_profile_row> by_name;
    for (TimedOp& timed : profile.ops) {
      float milliseconds = 0;
      check_cuda(cudaEventElapsedTime(&milliseconds, *timed.begin, *timed.end), "cudaEventElapsedTime");
      allmrec_profile_row& row = by_name[timed.op];
      row.op = timed.op;
      row.calls += 1;
      row.milliseconds += milliseconds;
      row.flops += timed.cost.flops;
      row.bytes += timed.cost.bytes;
      profile.spare.emplace_back(std::move(timed.begin), std::move(timed.end));
    }
    profile.ops.clear();
    profile.rows.clear();
    for (const auto& entry : by_name) profile.rows.push_back(entry.second);
    *rows = profile.rows.data();
    *count = static_cast<int64_t>(profile.rows.size());
  });
}

const allmrec_backend& table() {
  static const allmrec_backend instance = [] {
    allmrec_backend t{};
    t.abi_version = ALLMREC_BACKEND_ABI;
    t.struct_size = sizeof(allmrec_backend);
    t.name = kName;
    t.version = ALLMREC_VERSION;
    t.configure = configure;
    t.open = open;
    t.close = close;
    t.last_error = last_error;
    t.info = info;
    t.alloc = alloc;
    t.free = free_memory;
    t.upload = upload;
    t.download = download;
    t.copy = copy;
    t.fill = fill_entry;
    t.synchronize = synchronize;
    t.memory = memory;
    t.trim = trim;
    t.capture_begin = capture_begin;
    t.capture_end = capture_end;
    t.capture_cancel = capture_cancel;
    t.graph_launch = graph_launch;
    t.graph_free = graph_free;
    t.profile_begin = profile_begin;
    t.profile_end = profile_end;
#define ALLMREC_SET(op, args) t.op = op##_entry;
    ALLMREC_OPS(ALLMREC_SET)
#undef ALLMREC_SET
    return t;
  }();
  return instance;
}

}  // namespace
}  // namespace allmrec::cuda

extern "C" __attribute__((visibility("default"))) const allmrec_backend* allmrec_backend_entry(void) {
  return &allmrec::cuda::table();
}

extern "C" __attribute__((visibility("default"))) const char* allmrec_backend_version(void) {
  return ALLMREC_VERSION;
}
