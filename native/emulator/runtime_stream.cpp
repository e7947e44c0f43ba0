#include <algorithm>
#include <chrono>

#include "runtime.h"

namespace allmrec::emulator {

namespace {

std::vector<cudaStream_t>& streams() {
  static auto* const list = new std::vector<cudaStream_t>;  // streams may be destroyed at exit
  return *list;
}
// The stream of calls that name none.
CUstream_st legacy;

bool exists(cudaStream_t stream) {
  return std::find(streams().begin(), streams().end(), stream) != streams().end();
}
CUstream_st* resolve(cudaStream_t stream) {
  return stream == nullptr ? &legacy : stream;
}

// Does a stream's work up to a number of pieces. A piece may do that to another stream first, and so on to
// this one again, so the queue may have moved on in between.
void advance(CUstream_st* stream, uint64_t position) {
  while (stream->done < position && !stream->queue.empty()) {
    const Work work = std::move(stream->queue.front());
    stream->queue.pop_front();
    work.run();
    ++stream->done;
  }
}

double now() {
  const auto time = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double, std::milli>(time).count();
}

bool any_capture(bool relaxed_too) {
  return std::any_of(streams().begin(), streams().end(), [=](cudaStream_t stream) {
    return stream->capture != nullptr &&
           (relaxed_too || stream->capture->mode != cudaStreamCaptureModeRelaxed);
  });
}

}  // namespace

void set_streams(Streams kind) {
  const Lock lock(device_lock());
  finish_all_streams();
  settings.streams = kind;
}

bool is_capturing(cudaStream_t stream) {
  return resolve(stream)->capture != nullptr;
}

cudaError_t forbid_in_capture() {
  if (!any_capture(false)) return cudaSuccess;
  for (cudaStream_t stream : streams()) {
    if (stream->capture != nullptr) stream->capture->invalid = true;
  }
  return fail_with(cudaErrorStreamCaptureUnsupported);
}

cudaError_t submit(cudaStream_t handle, Work work) {
  if (handle != nullptr && !exists(handle)) return fail_with(cudaErrorInvalidResourceHandle);
  CUstream_st* const stream = resolve(handle);
  if (stream->capture != nullptr) {
    if (stream->capture->invalid) return fail_with(cudaErrorStreamCaptureInvalidated);
    stream->capture->graph->nodes.push_back(std::move(work));
    return cudaSuccess;
  }
  if (stream == &legacy) {
    // Work in the legacy stream would have to wait for what a blocking stream is capturing.
    for (cudaStream_t other : streams()) {
      if (other->capture == nullptr || !other->blocking) continue;
      other->capture->invalid = true;
      return fail_with(cudaErrorStreamCaptureImplicit);
    }
    finish_blocking_streams();
  } else if (stream->blocking) {
    advance(&legacy, legacy.submitted);
  }
  ++stream->submitted;
  if (settings.streams == Streams::late) {
    stream->queue.push_back(std::move(work));
  } else {
    work.run();
    ++stream->done;
  }
  return cudaSuccess;
}

cudaError_t finish_stream(cudaStream_t handle) {
  if (handle != nullptr && !exists(handle)) return fail_with(cudaErrorInvalidResourceHandle);
  if (resolve(handle)->capture != nullptr) {
    resolve(handle)->capture->invalid = true;
    return fail_with(cudaErrorStreamCaptureUnsupported);
  }
  if (handle == nullptr) finish_blocking_streams();
  advance(resolve(handle), resolve(handle)->submitted);
  return device_status();
}
cudaError_t finish_blocking_streams() {
  for (cudaStream_t stream : streams()) {
    if (stream->blocking) advance(stream, stream->submitted);
  }
  advance(&legacy, legacy.submitted);
  return device_status();
}
cudaError_t finish_all_streams() {
  for (cudaStream_t stream : streams()) advance(stream, stream->submitted);
  advance(&legacy, legacy.submitted);
  return device_status();
}

}  // namespace allmrec::emulator

using namespace allmrec::emulator;

cudaError_t cudaDeviceSynchronize() {
  const Lock lock(device_lock());
  if (const cudaError_t error = device_status()) return error;
  if (any_capture(true)) {
    for (cudaStream_t stream : streams()) {
      if (stream->capture != nullptr) stream->capture->invalid = true;
    }
    return fail_with(cudaErrorStreamCaptureUnsupported);
  }
  return finish_all_streams();
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  const Lock lock(device_lock());
  if (const cudaError_t error = device_status()) return error;
  if (flags > cudaStreamNonBlocking) return fail_with(cudaErrorInvalidValue);
  *stream = new CUstream_st;
  (*stream)->blocking = flags == cudaStreamDefault;
  streams().push_back(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return cudaStreamCreateWithPriority(stream, flags, 0);
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithPriority(stream, 0, 0);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const Lock lock(device_lock());
  if (!exists(stream)) return fail_with(cudaErrorInvalidResourceHandle);
  if (stream->capture == nullptr) advance(stream, stream->submitted);
  if (stream->capture != nullptr && stream->capture->origin == stream) {
    Capture* const capture = stream->capture;
    for (cudaStream_t other : streams()) {
      if (other->capture == capture) other->capture = nullptr;
    }
    delete capture->graph;
    delete capture;
  }
  streams().erase(std::find(streams().begin(), streams().end(), stream));
  delete stream;
  return device_status();
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const Lock lock(device_lock());
  if (const cudaError_t error = device_status()) return error;
  return finish_stream(stream);
}
cudaError_t cudaStreamQuery(cudaStream_t handle) {
  const Lock lock(device_lock());
  if (const cudaError_t error = device_status()) return error;
  if (handle != nullptr && !exists(handle)) return fail_with(cudaErrorInvalidResourceHandle);
  CUstream_st* const stream = resolve(handle);
  if (stream->capture != nullptr) return finish_stream(handle);
  // Each question lets a little happen, so that asking again ends.
  advance(stream, stream->done + 1);
  return stream->done == stream->submitted ? device_status() : cudaErrorNotReady;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned) {
  const Lock lock(device_lock());
  if (const cudaError_t error = device_status()) return error;
  if (event == nullptr) return fail_with(cudaErrorInvalidResourceHandle);
  CUstream_st* const stream = resolve(handle);
  if (event->capture != nullptr) {
    // The stream joins the capture that the event belongs to.
    if (stream->capture != nullptr && stream->capture != event->capture)
      return fail_with(cudaErrorStreamCaptureIsolation);
    stream->capture = event->capture;
    return cudaSuccess;
  }
  if (!event->recorded) return cudaSuccess;
  if (stream->capture != nullptr) return fail_with(cudaErrorStreamCaptureIsolation);
  CUstream_st* const other = event->stream;
  const uint64_t position = event->position;
  return submit(handle, {Work::Kind::wait, nullptr, [=] {
                           if (other == &legacy || exists(other)) advance(other, position);
                         }});
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  const Lock lock(device_lock());
  if (const cudaError_t error = device_status()) return error;
  *event = new CUevent_st;
  (*event)->timing = (flags & cudaEventDisableTiming) == 0;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return cudaEventCreateWithFlags(event, 0);
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle) {
  const Lock lock(device_lock());
  if (const cudaError_t error = device_status()) return error;
  if (event == nullptr) return fail_with(cudaErrorInvalidResourceHandle);
  CUstream_st* const stream = resolve(handle);
  event->capture = stream->capture;
  if (stream->capture != nullptr) return cudaSuccess;
  const cudaError_t error = submit(handle, {Work::Kind::mark, nullptr, [=] { event->milliseconds = now(); }});
  if (error != cudaSuccess) return error;
  event->recorded = true;
  event->stream = stream;
  event->position = stream->submitted;
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  const Lock lock(device_lock());
  if (const cudaError_t error = device_status()) return error;
  if (event->capture != nullptr) {
    event->capture->invalid = true;
    return fail_with(cudaErrorStreamCaptureUnsupported);
  }
  if (!event->recorded || (event->stream != &legacy && !exists(event->stream))) return cudaSuccess;
  if (event->stream->done < event->position) advance(event->stream, event->stream->done + 1);
  return event->stream->done >= event->position ? device_status() : cudaErrorNotReady;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const Lock lock(device_lock());
  cudaError_t error = cudaErrorNotReady;
  while (error == cudaErrorNotReady) error = cudaEventQuery(event);
  return error;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  const Lock lock(device_lock());
  for (const cudaEvent_t event : {start, end}) {
    if (event == nullptr || !event->recorded || !event->timing)
      return fail_with(cudaErrorInvalidResourceHandle);
    const bool has_stream = event->stream == &legacy || exists(event->stream);
    if (has_stream && event->stream->done < event->position) return cudaErrorNotReady;
  }
  *milliseconds = static_cast<float>(end->milliseconds - start->milliseconds);
  return device_status();
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const Lock lock(device_lock());
  if (event == nullptr) return fail_with(cudaErrorInvalidResourceHandle);
  // Its mark may still be waiting in a stream.
  if (event->recorded && (event->stream == &legacy || exists(event->stream)))
    advance(event->stream, event->position);
  delete event;
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  const Lock lock(device_lock());
  if (const cudaError_t error = device_status()) return error;
  if (stream == nullptr) return fail_with(cudaErrorStreamCaptureUnsupported);
  if (!exists(stream)) return fail_with(cudaErrorInvalidResourceHandle);
  if (stream->capture != nullptr) return fail_with(cudaErrorInvalidValue);
  stream->capture = new Capture{new CUgraph_st, stream, mode};
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const Lock lock(device_lock());
  *graph = nullptr;
  if (stream == nullptr || !exists(stream)) return fail_with(cudaErrorInvalidResourceHandle);
  Capture* const capture = stream->capture;
  if (capture == nullptr || capture->origin != stream) return fail_with(cudaErrorStreamCaptureUnmatched);
  for (cudaStream_t other : streams()) {
    if (other->capture == capture) other->capture = nullptr;
  }
  const bool invalid = capture->invalid;
  CUgraph_st* const result = capture->graph;
  delete capture;
  if (invalid) {
    delete result;
    return fail_with(cudaErrorStreamCaptureInvalidated);
  }
  *graph = result;
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  const Lock lock(device_lock());
  const Capture* const capture = resolve(stream)->capture;
  *status = capture == nullptr ? cudaStreamCaptureStatusNone
            : capture->invalid ? cudaStreamCaptureStatusInvalidated
                               : cudaStreamCaptureStatusActive;
  return device_status();
}
