#pragma once

// The host's side of the emulated device: errors, memory, streams and graphs.

#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "runtime_api.h"
#include "scheduler.h"

namespace allmrec::emulator {

// One call at a time for the whole process.
std::recursive_mutex& device_lock();
using Lock = std::lock_guard<std::recursive_mutex>;

// The device's error once it has one: everything reports it until clear_faults().
extern cudaError_t device_error;

// Remembers an error for cudaGetLastError and returns it.
cudaError_t fail_with(cudaError_t error);
// The error every call begins with: no device, or one that is broken.
cudaError_t device_status();
void forget_faults();

// One piece of work in a stream or a graph.
struct Work {
  enum class Kind { kernel, copy, fill, wait, mark };
  Kind kind;
  const void* kernel;
  std::function<void()> run;
};

struct Capture {
  CUgraph_st* graph;
  CUstream_st* origin;
  cudaStreamCaptureMode mode;
  bool invalid = false;
};

// Runs now, later or into a graph, as the stream does.
cudaError_t submit(cudaStream_t stream, Work work);
cudaError_t finish_all_streams();
cudaError_t finish_stream(cudaStream_t stream);
// The legacy stream waits for every stream but the non-blocking ones.
cudaError_t finish_blocking_streams();

// What a call does that no capture allows: every capture that is not relaxed becomes invalid.
cudaError_t forbid_in_capture();
bool is_capturing(cudaStream_t stream);

enum class Place { pageable, pinned, device };
struct Allocation {
  char* begin;
  size_t bytes;
  Place place;
};
// The allocation that an address lies in; none for ordinary host memory.
const Allocation* allocation_of(const void* address);

}  // namespace allmrec::emulator

struct CUgraph_st {
  std::vector<allmrec::emulator::Work> nodes;
};
struct CUgraphExec_st {
  std::vector<allmrec::emulator::Work> nodes;
};
struct CUstream_st {
  bool blocking = true;
  std::deque<allmrec::emulator::Work> queue;  // with late streams only
  uint64_t submitted = 0, done = 0;
  allmrec::emulator::Capture* capture = nullptr;
};
struct CUevent_st {
  bool timing = true, recorded = false;
  CUstream_st* stream = nullptr;
  uint64_t position = 0;  // complete when its stream has done so much
  double milliseconds = 0;
  allmrec::emulator::Capture* capture = nullptr;
};
