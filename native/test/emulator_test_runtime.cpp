// The runtime's calls: memory, errors, streams, events, graphs, and the faults that tests ask for.

#include <cstring>
#include <thread>

#include "emulator_test.h"

namespace allmrec::test {

namespace {

using cuda::launch;

__global__ void add_kernel(float* x, float value) {
  x[threadIdx.x] += value;
}
__global__ void scale_kernel(float* x, float value) {
  x[threadIdx.x] *= value;
}
__global__ void shared_kernel(float* x) {
  auto* const tile = static_cast<float*>(cuda::dynamic_shared());
  tile[threadIdx.x] = 2;
  x[threadIdx.x] = tile[threadIdx.x];
}

void test_device() {
  int count = 0, value = 0;
  CHECK(cudaGetDeviceCount(&count) == cudaSuccess && count == 1);
  CHECK(cudaSetDevice(0) == cudaSuccess);
  CHECK(cudaSetDevice(1) == cudaErrorInvalidDevice);
  CHECK(cudaPeekAtLastError() == cudaErrorInvalidDevice);
  CHECK(cudaGetLastError() == cudaErrorInvalidDevice && cudaGetLastError() == cudaSuccess);
  cudaDeviceProp properties;
  CHECK(cudaGetDeviceProperties(&properties, 0) == cudaSuccess);
  CHECK(properties.major == 9 && properties.warpSize == 32 && properties.multiProcessorCount > 0);
  CHECK(cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0) == cudaSuccess &&
        value == 232448);
  CHECK(std::string(cudaGetErrorName(cudaErrorMemoryAllocation)) == "cudaErrorMemoryAllocation");
  CHECK(std::string(cudaGetErrorString(cudaErrorInsufficientDriver)).find("driver version") !=
        std::string::npos);

  emulator::set_devices(emulator::Devices::no_driver);
  CHECK(cudaGetDeviceCount(&count) == 35 && count == 0);
  emulator::set_devices(emulator::Devices::none);
  CHECK(cudaGetDeviceCount(&count) == cudaErrorNoDevice && count == 0);
  CHECK(cudaSetDevice(0) == cudaErrorNoDevice);
  emulator::set_devices(emulator::Devices::one);
  cudaGetLastError();
}

void test_memory() {
  const size_t before = emulator::memory_in_use();
  emulator::limit_memory(before + 1000);
  void *a = nullptr, *b = nullptr;
  CHECK(cudaMalloc(&a, 600) == cudaSuccess && reinterpret_cast<uintptr_t>(a) % 256 == 0);
  CHECK(cudaMalloc(&b, 600) == cudaErrorMemoryAllocation && b == nullptr);
  CHECK(cudaGetLastError() == cudaErrorMemoryAllocation);
  size_t free = 0, total = 0;
  CHECK(cudaMemGetInfo(&free, &total) == cudaSuccess && total == before + 1000 && free == 400);
  CHECK(cudaFree(a) == cudaSuccess && cudaMalloc(&b, 1000) == cudaSuccess);
  char host[1001] = {};
  CHECK(cudaMemcpy(host, b, 1001, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
  CHECK(cudaMemcpy(host, b, 1000, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  CHECK(cudaMemcpy(host, static_cast<char*>(b) + 1, 999, cudaMemcpyDefault) == cudaSuccess && host[0] == -1);
  CHECK(cudaMemset(b, 7, 1000) == cudaSuccess);
  CHECK(cudaMemcpy(host, b, 1000, cudaMemcpyDeviceToHost) == cudaSuccess && host[999] == 7);
  CHECK(cudaFree(static_cast<char*>(b) + 4) == cudaErrorInvalidValue);
  CHECK(cudaFree(b) == cudaSuccess && cudaFree(nullptr) == cudaSuccess);
  CHECK(cudaFree(b) == cudaErrorInvalidValue);
  void* pinned = nullptr;
  CHECK(cudaMallocHost(&pinned, 64) == cudaSuccess && cudaFreeHost(pinned) == cudaSuccess);
  emulator::limit_memory(0);
  CHECK(emulator::memory_in_use() == before);
  cudaGetLastError();
}

void test_launches() {
  emulator::set_quiet(true);
  const DeviceArray<float> x(std::vector<float>(1024, 1));
  launch(add_kernel, 1, 1025, 0, nullptr, x.get(), 1.0f);
  CHECK(cudaGetLastError() == cudaErrorInvalidConfiguration);
  launch(add_kernel, dim3(1, 70000), 32, 0, nullptr, x.get(), 1.0f);
  CHECK(cudaGetLastError() == cudaErrorInvalidConfiguration);
  launch(add_kernel, 0, 32, 0, nullptr, x.get(), 1.0f);  // nothing
  // cuda::launch asks for it; without asking, 48 KiB are the limit.
  emulator::launch(1, 32, 100000, nullptr, reinterpret_cast<const void*>(shared_kernel),
                   [p = x.get()] { shared_kernel(p); });
  CHECK(cudaGetLastError() == cudaErrorInvalidValue);
  CHECK(cudaFuncSetAttribute(shared_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 300000) ==
        cudaErrorInvalidValue);
  CHECK(cudaFuncSetAttribute(shared_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 100000) ==
        cudaSuccess);
  cudaGetLastError();
  launch(shared_kernel, 1, 32, 100000, nullptr, x.get());
  CHECK(cudaGetLastError() == cudaSuccess && x.values()[31] == 2 && x.values()[32] == 1);
  int blocks = 0;
  CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, shared_kernel, 256, 100000) == cudaSuccess &&
        blocks == 2);

  emulator::fail_launch(2);
  launch(add_kernel, 1, 32, 0, nullptr, x.get(), 1.0f);
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
  launch(add_kernel, 1, 32, 0, nullptr, x.get(), 1.0f);
  CHECK(cudaDeviceSynchronize() == cudaErrorIllegalAddress);
  CHECK(cudaGetLastError() == cudaErrorIllegalAddress && cudaGetLastError() == cudaErrorIllegalAddress);
  void* p = nullptr;
  CHECK(cudaMalloc(&p, 4) == cudaErrorIllegalAddress);
  emulator::clear_faults();
  CHECK(cudaGetLastError() == cudaSuccess && x.values()[0] == 3);
  emulator::set_quiet(false);
}

// With late streams nothing happens before it is waited for, so a wait left out shows.
void test_streams() {
  cudaStream_t compute = nullptr, copy = nullptr;
  cudaEvent_t ready = nullptr, start = nullptr, end = nullptr;
  CHECK(cudaStreamCreateWithFlags(&compute, cudaStreamNonBlocking) == cudaSuccess);
  CHECK(cudaStreamCreateWithFlags(&copy, cudaStreamNonBlocking) == cudaSuccess);
  CHECK(cudaEventCreateWithFlags(&ready, cudaEventDisableTiming) == cudaSuccess);
  CHECK(cudaEventCreate(&start) == cudaSuccess && cudaEventCreate(&end) == cudaSuccess);
  CHECK(cudaEventQuery(ready) == cudaSuccess);  // never recorded
  for (const emulator::Streams kind : {emulator::Streams::eager, emulator::Streams::late}) {
    const bool late = kind == emulator::Streams::late;
    emulator::set_streams(kind);
    const DeviceArray<float> x(std::vector<float>(32, 1));
    float* host = nullptr;
    CHECK(cudaMallocHost(&host, 32 * sizeof(float)) == cudaSuccess);
    host[0] = 5;
    CHECK(cudaEventRecord(start, copy) == cudaSuccess);
    CHECK(cudaMemcpyAsync(x.get(), host, 4, cudaMemcpyHostToDevice, copy) == cudaSuccess);
    CHECK(cudaEventRecord(ready, copy) == cudaSuccess);
    CHECK(cudaStreamWaitEvent(compute, ready) == cudaSuccess);
    launch(add_kernel, 1, 32, 0, compute, x.get(), 1.0f);
    CHECK(cudaMemcpyAsync(host, x.get(), 4, cudaMemcpyDeviceToHost, compute) == cudaSuccess);
    CHECK(cudaEventRecord(end, compute) == cudaSuccess);
    CHECK(host[0] == (late ? 5 : 6));
    int questions = 1;
    while (cudaEventQuery(end) == cudaErrorNotReady) ++questions;
    CHECK(host[0] == 6 && (questions > 1) == late);
    float milliseconds = -1;
    CHECK(cudaEventElapsedTime(&milliseconds, start, end) == cudaSuccess && milliseconds >= 0);
    CHECK(cudaEventElapsedTime(&milliseconds, start, ready) == cudaErrorInvalidResourceHandle);
    cudaGetLastError();

    launch(add_kernel, 1, 32, 0, compute, x.get(), 1.0f);
    CHECK(x.values()[0] == (late ? 6 : 7));  // a copy in no stream does not wait for this one
    CHECK(cudaStreamSynchronize(compute) == cudaSuccess && x.values()[0] == 7);
    launch(add_kernel, 1, 32, 0, compute, x.get(), 1.0f);
    CHECK(cudaDeviceSynchronize() == cudaSuccess && x.values()[0] == 8);
    CHECK(cudaFreeHost(host) == cudaSuccess);
  }
  emulator::set_streams(emulator::Streams::eager);
  for (const cudaEvent_t event : {ready, start, end}) CHECK(cudaEventDestroy(event) == cudaSuccess);
  CHECK(cudaStreamDestroy(compute) == cudaSuccess && cudaStreamDestroy(copy) == cudaSuccess);
  CHECK(cudaStreamSynchronize(copy) == cudaErrorInvalidResourceHandle);
  cudaGetLastError();
}

cudaGraph_t capture(cudaStream_t stream, float* x, bool scale, float value) {
  cudaGraph_t graph = nullptr;
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  launch(add_kernel, 1, 32, 0, stream, x, value);
  launch(scale ? scale_kernel : add_kernel, 1, 32, 0, stream, x, 2.0f);
  CHECK(cudaStreamEndCapture(stream, &graph) == cudaSuccess && graph != nullptr);
  return graph;
}

void test_graphs() {
  cudaStream_t stream = nullptr;
  cudaGraphExec_t exec = nullptr;
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusInvalidated;
  CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  CHECK(cudaStreamIsCapturing(stream, &status) == cudaSuccess && status == cudaStreamCaptureStatusNone);
  const DeviceArray<float> x(std::vector<float>(32, 1));
  const cudaGraph_t graph = capture(stream, x.get(), true, 3);
  CHECK(x.values()[0] == 1);  // recorded, not run
  size_t nodes = 0;
  CHECK(cudaGraphGetNodes(graph, nullptr, &nodes) == cudaSuccess && nodes == 2);
  CHECK(cudaGraphInstantiate(&exec, graph) == cudaSuccess && cudaGraphDestroy(graph) == cudaSuccess);
  CHECK(cudaGraphLaunch(exec, stream) == cudaSuccess && cudaGraphLaunch(exec, stream) == cudaSuccess);
  CHECK(cudaStreamSynchronize(stream) == cudaSuccess && x.values()[31] == 22);

  cudaGraphExecUpdateResultInfo info;
  const cudaGraph_t same = capture(stream, x.get(), true, 8), other = capture(stream, x.get(), false, 8);
  CHECK(cudaGraphExecUpdate(exec, other, &info) == cudaErrorGraphExecUpdateFailure);
  CHECK(info.result == cudaGraphExecUpdateErrorFunctionChanged);
  cudaGetLastError();
  CHECK(cudaGraphExecUpdate(exec, same, &info) == cudaSuccess && info.result == cudaGraphExecUpdateSuccess);
  CHECK(cudaGraphLaunch(exec, stream) == cudaSuccess && x.values()[0] == 60);
  CHECK(cudaGraphDestroy(same) == cudaSuccess && cudaGraphDestroy(other) == cudaSuccess);
  CHECK(cudaGraphExecDestroy(exec) == cudaSuccess);

  // Waiting for a stream that is capturing ends the capture.
  cudaGraph_t none = nullptr;
  for (cudaError_t (*wait)(cudaStream_t) : {+[](cudaStream_t s) { return cudaStreamSynchronize(s); },
                                            +[](cudaStream_t) { return cudaDeviceSynchronize(); },
                                            +[](cudaStream_t) {
                                              void* p = nullptr;
                                              return cudaMalloc(&p, 4);
                                            }}) {
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
    CHECK(wait(stream) == cudaErrorStreamCaptureUnsupported);
    CHECK(cudaStreamIsCapturing(stream, &status) == cudaSuccess &&
          status == cudaStreamCaptureStatusInvalidated);
    CHECK(cudaStreamEndCapture(stream, &none) == cudaErrorStreamCaptureInvalidated && none == nullptr);
    cudaGetLastError();
  }
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
  CHECK(cudaStreamDestroy(stream) == cudaSuccess);
}

// Any host thread may launch; the device does one thing at a time.
void test_threads() {
  const DeviceArray<float> a(std::vector<float>(32, 0)), b(std::vector<float>(32, 0));
  const auto work = [](float* x) {
    for (int i = 0; i < 200; ++i) launch(add_kernel, 1, 32, 0, nullptr, x, 1.0f);
  };
  std::thread other(work, a.get());
  work(b.get());
  other.join();
  CHECK(a.values()[31] == 200 && b.values()[0] == 200);
}

}  // namespace

void test_runtime() {
  test_device();
  test_memory();
  test_launches();
  test_streams();
  test_graphs();
  test_threads();
  CHECK(cudaGetLastError() == cudaSuccess);
  CHECK(emulator::faults().empty());
}

}  // namespace allmrec::test
