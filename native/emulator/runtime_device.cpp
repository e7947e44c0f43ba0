#include <cstdio>
#include <cstring>
#include <map>

#include "race.h"
#include "runtime.h"
#include "symbols.h"

namespace allmrec::emulator {

cudaError_t device_error = cudaSuccess;

namespace {

constexpr int kVersion = 12080;
constexpr int kSharedPerBlock = 48 * 1024, kSharedPerBlockOptIn = 227 * 1024;
constexpr int kSharedPerMultiprocessor = 228 * 1024, kThreadsPerMultiprocessor = 2048, kMultiprocessors = 16;
constexpr unsigned kMaxGrid = 2147483647, kMaxGridYZ = 65535;

struct ErrorText {
  cudaError_t error;
  const char *name, *text;
};
constexpr ErrorText error_texts[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection", "invalid copy direction for memcpy"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorDevicesUnavailable, "cudaErrorDevicesUnavailable",
     "CUDA-capable device(s) is/are busy or unavailable"},
    {cudaErrorInvalidDeviceFunction, "cudaErrorInvalidDeviceFunction", "invalid device function"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorECCUncorrectable, "cudaErrorECCUncorrectable", "uncorrectable ECC error encountered"},
    {cudaErrorNvlinkUncorrectable, "cudaErrorNvlinkUncorrectable",
     "uncorrectable NVLink error detected during the execution"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources",
     "too many resources requested for launch"},
    {cudaErrorLaunchTimeout, "cudaErrorLaunchTimeout", "the launch timed out and was terminated"},
    {cudaErrorAssert, "cudaErrorAssert", "device-side assert triggered"},
    {cudaErrorHardwareStackError, "cudaErrorHardwareStackError", "hardware stack error"},
    {cudaErrorIllegalInstruction, "cudaErrorIllegalInstruction", "an illegal instruction was encountered"},
    {cudaErrorMisalignedAddress, "cudaErrorMisalignedAddress", "misaligned address"},
    {cudaErrorInvalidAddressSpace, "cudaErrorInvalidAddressSpace",
     "operation not supported on global/shared address space"},
    {cudaErrorInvalidPc, "cudaErrorInvalidPc", "invalid program counter"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotPermitted, "cudaErrorNotPermitted", "operation not permitted"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {cudaErrorStreamCaptureUnmatched, "cudaErrorStreamCaptureUnmatched",
     "operation failed because the stream did not begin this capture"},
    {cudaErrorStreamCaptureUnjoined, "cudaErrorStreamCaptureUnjoined", "capturing stream has unjoined work"},
    {cudaErrorStreamCaptureIsolation, "cudaErrorStreamCaptureIsolation",
     "dependency created on uncaptured work in another stream"},
    {cudaErrorStreamCaptureImplicit, "cudaErrorStreamCaptureImplicit",
     "operation would make the legacy stream depend on a capturing blocking stream"},
    {cudaErrorGraphExecUpdateFailure, "cudaErrorGraphExecUpdateFailure",
     "the graph update was not performed: it needs another graph"},
    {cudaErrorUnknown, "cudaErrorUnknown", "unknown error"},
};

// What only the calling thread's next cudaGetLastError shows.
cudaError_t& last_error() {
  static thread_local cudaError_t error = cudaSuccess;
  return error;
}

// The dynamic shared memory that kernels asked for.
std::map<const void*, size_t>& shared_limits() {
  static auto* const limits = new std::map<const void*, size_t>;
  return *limits;
}
size_t shared_limit(const void* kernel) {
  const auto found = shared_limits().find(kernel);
  return found == shared_limits().end() ? static_cast<size_t>(kSharedPerBlock) : found->second;
}
size_t static_shared_bytes(const void* kernel) {
  size_t bytes = 0;
  for (const Range& range : static_shared_of(kernel)) bytes += range.bytes;
  return bytes;
}

cudaError_t check_launch(const Launch& launch) {
  const auto& [grid, block, shared, kernel, body] = launch;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || block.x == 0 || block.y == 0 || block.z == 0 ||
      grid.x > kMaxGrid || grid.y > kMaxGridYZ || grid.z > kMaxGridYZ || block.x > kMaxThreads ||
      block.y > kMaxThreads || block.z > 64 || static_cast<size_t>(block.x) * block.y * block.z > kMaxThreads)
    return cudaErrorInvalidConfiguration;
  const size_t fixed = static_shared_bytes(kernel);
  if (shared > shared_limit(kernel) || fixed > static_cast<size_t>(kSharedPerBlock) ||
      (shared <= static_cast<size_t>(kSharedPerBlock) && shared_limits().count(kernel) == 0 &&
       fixed + shared > static_cast<size_t>(kSharedPerBlock)) ||
      fixed + shared > static_cast<size_t>(kSharedPerBlockOptIn))
    return cudaErrorInvalidValue;
  return cudaSuccess;
}

void run(const Launch& launch) {
  if (device_error != cudaSuccess) return;
  if (settings.fail_launch > 0 && --settings.fail_launch == 0) {
    device_error = cudaErrorIllegalAddress;
    return;
  }
  const size_t before = faults().size();
  // The race build goes on after a fault, but no result of it counts.
  if (!run_launch(launch) || faults().size() != before) device_error = cudaErrorLaunchFailure;
}

}  // namespace

std::recursive_mutex& device_lock() {
  static std::recursive_mutex lock;
  return lock;
}

cudaError_t fail_with(cudaError_t error) {
  if (error != cudaSuccess) last_error() = error;
  return error;
}

cudaError_t device_status() {
  if (settings.devices == Devices::no_driver) return fail_with(cudaErrorInsufficientDriver);
  if (settings.devices == Devices::none) return fail_with(cudaErrorNoDevice);
  return fail_with(device_error);
}

void clear_faults() {
  const Lock lock(device_lock());
  forget_faults();
  race::forget_reports();
  device_error = cudaSuccess;
  last_error() = cudaSuccess;
}

void launch(dim3 grid, dim3 block, size_t shared, cudaStream_t stream, const void* kernel, Body body) {
  const Lock lock(device_lock());
  if (device_status() != cudaSuccess) return;
  Launch launch{grid, block, shared, kernel, std::move(body)};
  if (fail_with(check_launch(launch)) != cudaSuccess) {
    if (!settings.quiet)
      std::fprintf(stderr,
                   "emulator: launch of %s with grid (%u,%u,%u), block (%u,%u,%u), %zu bytes shared: %s\n",
                   symbol_name(kernel).c_str(), grid.x, grid.y, grid.z, block.x, block.y, block.z, shared,
                   cudaGetErrorString(cudaPeekAtLastError()));
    return;
  }
  submit(stream, {Work::Kind::kernel, kernel, [launch = std::move(launch)] { run(launch); }});
}

}  // namespace allmrec::emulator

using namespace allmrec::emulator;

const char* cudaGetErrorName(cudaError_t error) {
  for (const ErrorText& entry : error_texts) {
    if (entry.error == error) return entry.name;
  }
  return "unrecognized error code";
}
const char* cudaGetErrorString(cudaError_t error) {
  for (const ErrorText& entry : error_texts) {
    if (entry.error == error) return entry.text;
  }
  return "unrecognized error code";
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = cudaPeekAtLastError();
  last_error() = cudaSuccess;
  return error;
}
cudaError_t cudaPeekAtLastError() {
  const Lock lock(device_lock());
  return device_error != cudaSuccess ? device_error : last_error();
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 0;
  if (settings.devices == Devices::no_driver) return fail_with(cudaErrorInsufficientDriver);
  if (settings.devices == Devices::none) return fail_with(cudaErrorNoDevice);
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (const cudaError_t error = device_status()) return error;
  return device == 0 ? cudaSuccess : fail_with(cudaErrorInvalidDevice);
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return device_status();
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (const cudaError_t error = cudaSetDevice(device)) return error;
  *properties = {};
  size_t free = 0, total = 0;
  if (const cudaError_t error = cudaMemGetInfo(&free, &total)) return error;
  std::snprintf(properties->name, sizeof properties->name, "CUDA emulator (%s)", build_kind());
  std::memcpy(properties->uuid.bytes, "allmrec-emulator", 16);
  properties->totalGlobalMem = total;
  properties->sharedMemPerBlock = kSharedPerBlock;
  properties->sharedMemPerBlockOptin = kSharedPerBlockOptIn;
  properties->sharedMemPerMultiprocessor = kSharedPerMultiprocessor;
  properties->regsPerBlock = 65536;
  properties->warpSize = kLanes;
  properties->maxThreadsPerBlock = kMaxThreads;
  const int threads[] = {1024, 1024, 64}, blocks[] = {2147483647, 65535, 65535};
  std::memcpy(properties->maxThreadsDim, threads, sizeof threads);
  std::memcpy(properties->maxGridSize, blocks, sizeof blocks);
  properties->major = 9;
  properties->multiProcessorCount = kMultiprocessors;
  properties->maxThreadsPerMultiProcessor = kThreadsPerMultiprocessor;
  properties->l2CacheSize = 4 << 20;
  properties->memoryBusWidth = 256;
  properties->concurrentKernels = 1;
  properties->asyncEngineCount = 1;
  properties->unifiedAddressing = 1;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (const cudaError_t error = cudaSetDevice(device)) return error;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = kMaxThreads;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = kSharedPerBlock;
      break;
    case cudaDevAttrWarpSize:
      *value = kLanes;
      break;
    case cudaDevAttrClockRate:
      *value = 1000000;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = kMultiprocessors;
      break;
    case cudaDevAttrIntegrated:
      *value = 0;
      break;
    case cudaDevAttrMemoryClockRate:
      *value = 1000000;
      break;
    case cudaDevAttrGlobalMemoryBusWidth:
      *value = 256;
      break;
    case cudaDevAttrL2CacheSize:
      *value = 4 << 20;
      break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = kThreadsPerMultiprocessor;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = 9;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = kSharedPerMultiprocessor;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = kSharedPerBlockOptIn;
      break;
    default:
      return fail_with(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return device_status();
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = settings.devices == Devices::no_driver ? 0 : kVersion;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = kVersion;
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  const Lock lock(device_lock());
  if (const cudaError_t error = device_status()) return error;
  if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
      static_cast<size_t>(value) + static_shared_bytes(kernel) > static_cast<size_t>(kSharedPerBlockOptIn))
    return fail_with(cudaErrorInvalidValue);
  shared_limits()[kernel] = static_cast<size_t>(value);
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* kernel, int block_size,
                                                          size_t shared) {
  const Lock lock(device_lock());
  if (const cudaError_t error = device_status()) return error;
  if (block_size <= 0) return fail_with(cudaErrorInvalidValue);
  const size_t bytes = shared + static_shared_bytes(kernel);
  const int rounded = (block_size + kLanes - 1) / kLanes * kLanes;
  *blocks = rounded > kMaxThreads || shared > shared_limit(kernel) ? 0 : kThreadsPerMultiprocessor / rounded;
  // The system keeps 1 KiB of each block's.
  while (*blocks > 0 &&
         static_cast<size_t>(*blocks) * (bytes + 1024) > static_cast<size_t>(kSharedPerMultiprocessor))
    --*blocks;
  if (*blocks > 32) *blocks = 32;
  return cudaSuccess;
}
