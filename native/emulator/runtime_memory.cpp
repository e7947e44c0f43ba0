#include <cstdlib>
#include <cstring>
#include <map>

#include "race.h"
#include "runtime.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace allmrec::emulator {

namespace {

constexpr size_t kDefaultMemory = size_t{16} << 30;

// By end address, so that lower_bound finds the one an address lies in.
std::map<uintptr_t, Allocation>& allocations() {
  static auto* const map = new std::map<uintptr_t, Allocation>;  // device memory may be freed at exit
  return *map;
}
size_t used = 0;

size_t capacity() {
  return settings.memory == 0 ? kDefaultMemory : settings.memory;
}

cudaError_t allocate(void** pointer, size_t bytes, Place place) {
  const Lock lock(device_lock());
  *pointer = nullptr;
  if (const cudaError_t error = device_status()) return error;
  if (const cudaError_t error = forbid_in_capture()) return error;
  if (bytes == 0) return cudaSuccess;
  if (place == Place::device && (bytes > capacity() || used > capacity() - bytes))
    return fail_with(cudaErrorMemoryAllocation);
  void* begin = nullptr;
  // 256-byte alignment is CUDA's. The size is the one asked for, so that address sanitizer sees one byte
  // more.
  if (posix_memalign(&begin, 256, bytes) != 0) return fail_with(cudaErrorMemoryAllocation);
  if (place == Place::device) {
    std::memset(begin, 0xff, bytes);  // NaN in every floating-point type
    used += bytes;
  }
  race::add_memory(begin, bytes);
  auto* const first = static_cast<char*>(begin);
  allocations()[reinterpret_cast<uintptr_t>(first + bytes)] = {first, bytes, place};
  *pointer = begin;
  return cudaSuccess;
}

cudaError_t release(void* pointer, Place place) {
  const Lock lock(device_lock());
  if (const cudaError_t error = device_status()) {
    // A broken device's memory goes too, or a test of it would leak.
    if (error != device_error) return error;
  } else {
    if (const cudaError_t forbidden = forbid_in_capture()) return forbidden;
    if (pointer == nullptr) return cudaSuccess;
    finish_all_streams();
  }
  const Allocation* const found = allocation_of(pointer);
  if (found == nullptr || found->begin != pointer || found->place != place)
    return fail_with(cudaErrorInvalidValue);
  if (place == Place::device) used -= found->bytes;
  race::remove_memory(found->begin, found->bytes);
  allocations().erase(reinterpret_cast<uintptr_t>(found->begin + found->bytes));
  std::free(pointer);
  return device_error;
}

bool lies_inside(const void* p, size_t bytes, bool device) {
  const Allocation* const found = allocation_of(p);
  if (found == nullptr) return !device;
  const auto* const begin = static_cast<const char*>(p);
  return (found->place == Place::device) == device && begin + bytes <= found->begin + found->bytes;
}

cudaError_t check_copy(const void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault) return cudaErrorInvalidMemcpyDirection;
  const auto on_device = [](const void* p) {
    const Allocation* const found = allocation_of(p);
    return found != nullptr && found->place == Place::device;
  };
  const bool to_device = kind == cudaMemcpyDefault ? on_device(to) : (kind & 3) == 1 || kind == 3;
  const bool from_device = kind == cudaMemcpyDefault ? on_device(from) : kind == 2 || kind == 3;
  return lies_inside(to, bytes, to_device) && lies_inside(from, bytes, from_device) ? cudaSuccess
                                                                                    : cudaErrorInvalidValue;
}

Place place_of(const void* p) {
  const Allocation* const found = allocation_of(p);
  return found == nullptr ? Place::pageable : found->place;
}

}  // namespace

const Allocation* allocation_of(const void* address) {
  const auto after = allocations().upper_bound(reinterpret_cast<uintptr_t>(address));
  if (after == allocations().end() || static_cast<const char*>(address) < after->second.begin) return nullptr;
  return &after->second;
}

size_t memory_in_use() {
  const Lock lock(device_lock());
  return used;
}

}  // namespace allmrec::emulator

using namespace allmrec::emulator;

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  return allocate(pointer, bytes, Place::device);
}
cudaError_t cudaFree(void* pointer) {
  return release(pointer, Place::device);
}
cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
  return allocate(pointer, bytes, Place::pinned);
}
cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
  return allocate(pointer, bytes, Place::pinned);
}
cudaError_t cudaFreeHost(void* pointer) {
  return release(pointer, Place::pinned);
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const Lock lock(device_lock());
  if (const cudaError_t error = device_status()) return error;
  *total = capacity();
  *free = used > capacity() ? 0 : capacity() - used;
  return cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  const Lock lock(device_lock());
  if (const cudaError_t error = device_status()) return error;
  if (width == 0 || height == 0) return cudaSuccess;
  if (width > to_pitch || width > from_pitch) return fail_with(cudaErrorInvalidValue);
  const size_t to_bytes = (height - 1) * to_pitch + width, from_bytes = (height - 1) * from_pitch + width;
  if (const cudaError_t error = check_copy(to, from, 1, kind)) return fail_with(error);
  if (!lies_inside(to, to_bytes, place_of(to) == Place::device) ||
      !lies_inside(from, from_bytes, place_of(from) == Place::device))
    return fail_with(cudaErrorInvalidValue);
  const auto copy = [=](const void* source) {
    for (size_t row = 0; row < height; ++row)
      std::memmove(static_cast<char*>(to) + row * to_pitch,
                   static_cast<const char*>(source) + row * from_pitch, width);
  };
  // Memory that is not pinned is read before the call returns, and written before it too.
  const bool waits = place_of(to) == Place::pageable && !is_capturing(stream);
  cudaError_t error;
  if (place_of(from) == Place::pageable && place_of(to) != Place::pageable && !is_capturing(stream)) {
    const auto* const first = static_cast<const char*>(from);
    std::vector<char> staged(first, first + from_bytes);
    error =
        submit(stream, {Work::Kind::copy, nullptr, [=, staged = std::move(staged)] { copy(staged.data()); }});
  } else {
    error = submit(stream, {Work::Kind::copy, nullptr, [=] { copy(from); }});
  }
  if (error == cudaSuccess && waits) error = finish_stream(stream);
  return error;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return cudaMemcpy2DAsync(to, bytes, from, bytes, bytes, 1, kind, stream);
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const Lock lock(device_lock());
  if (const cudaError_t error = device_status()) return error;
  if (const cudaError_t error = forbid_in_capture()) return error;
  if (const cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr)) return error;
  return finish_stream(nullptr);
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  const Lock lock(device_lock());
  if (const cudaError_t error = device_status()) return error;
  if (bytes == 0) return cudaSuccess;
  if (place_of(to) == Place::pageable || !lies_inside(to, bytes, place_of(to) == Place::device))
    return fail_with(cudaErrorInvalidValue);
  return submit(stream, {Work::Kind::fill, nullptr, [=] { std::memset(to, value, bytes); }});
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  const Lock lock(device_lock());
  if (const cudaError_t error = forbid_in_capture()) return error;
  return cudaMemsetAsync(to, value, bytes, nullptr);
}
