#include "device.h"

#include <cstring>

#include "../core/memory_limit.h"
#include "registry.h"

namespace allmrec {

Device::Device(const allmrec_backend* table, allmrec_device* handle) : table_(table), handle_(handle) {}

Device::~Device() {
  table_->close(handle_);
}

std::shared_ptr<Device> Device::open(const std::string& name, int threads) {
  const allmrec_backend* table = find_backend(name);
  allmrec_device* handle = nullptr;
  char reason[512] = "";
  const allmrec_status status = table->open(0, threads, &handle, reason, sizeof reason);
  if (status != ALLMREC_OK)
    throw Error(status == ALLMREC_OUT_OF_MEMORY ? ErrorCode::out_of_memory : ErrorCode::device,
                "Cannot open device `" + name + "`: " + reason);
  return std::make_shared<Device>(table, handle);
}

std::vector<DeviceDescription> Device::list() {
  std::vector<DeviceDescription> devices;
  for (const BackendEntry& entry : list_backends()) {
    DeviceDescription d;
    d.backend = entry.name;
    d.reason = entry.reason;
    if (entry.table) {
      allmrec_device* handle = nullptr;
      char reason[512] = "";
      if (entry.table->open(0, 0, &handle, reason, sizeof reason) == ALLMREC_OK) {
        Device device(entry.table, handle);
        const allmrec_device_info info = device.info();
        d.available = true;
        d.name = info.name;
        d.instruction = info.instruction;
        d.memory_bytes = info.memory_bytes;
        d.threads = info.threads;
        d.libraries = info.libraries ? info.libraries : "";
      } else {
        d.reason = reason;
      }
    }
    devices.push_back(d);
  }
  return devices;
}

allmrec_device_info Device::info() {
  allmrec_device_info info{};
  check(table_->info(handle_, &info), "info");
  return info;
}

void* Device::alloc(size_t bytes, const char* what) {
  void* memory = nullptr;
  const allmrec_status status = table_->alloc(handle_, bytes, &memory);
  if (status == ALLMREC_OUT_OF_MEMORY)
    throw Error(ErrorCode::out_of_memory, "Out of memory: " + bytes_text(static_cast<int64_t>(bytes)) +
                                              " are not to be had for " + what + ". " +
                                              table_->last_error(handle_));
  check(status, "alloc");
  return memory;
}

void Device::free(void* memory) noexcept {
  table_->free(handle_, memory);
}

void Device::upload(void* dst, const void* host_src, size_t bytes) {
  Cancellation::poll();
  if (bytes) check(table_->upload(handle_, dst, host_src, bytes), "upload");
}

void Device::download(void* host_dst, const void* src, size_t bytes) {
  Cancellation::poll();
  if (bytes) check(table_->download(handle_, host_dst, src, bytes), "download");
}

void Device::copy_bytes(void* dst, const void* src, size_t bytes) {
  if (bytes) check(table_->copy(handle_, dst, src, bytes), "copy");
}

void Device::fill(float* x, int64_t n, float value) {
  if (n) check(table_->fill(handle_, x, n, value), "fill");
}

void Device::synchronize() {
  check(table_->synchronize(handle_), "synchronize");
}

allmrec_memory_info Device::memory() {
  allmrec_memory_info info{};
  check(table_->memory(handle_, &info), "memory");
  return info;
}

void Device::trim() {
  check(table_->trim(handle_), "trim");
}

bool Device::has_graphs() const {
  return std::strcmp(table_->name, "cpu") != 0 && !counting_;
}

void Device::capture_begin() {
  check(table_->capture_begin(handle_), "capture_begin");
}

void Device::capture_end(allmrec_graph** graph) {
  check(table_->capture_end(handle_, graph), "capture_end");
}

void Device::capture_cancel() noexcept {
  table_->capture_cancel(handle_);
}

void Device::launch(allmrec_graph* graph) {
  check(table_->graph_launch(handle_, graph), "graph_launch");
}

void Device::free(allmrec_graph* graph) noexcept {
  table_->graph_free(handle_, graph);
}

void Device::profile_begin() {
  check(table_->profile_begin(handle_), "profile_begin");
}

void Device::profile_begin(const Ceilings& ceilings) {
  profile_begin();
  ceilings_ = ceilings;
  floors_.clear();
  counting_ = true;
}

void Device::count(std::string_view op, const Cost& cost, Arithmetic kind) {
  Floor& floor = floors_[op];
  const double seconds = ceilings_.floor(cost, kind);
  floor.seconds += seconds;
  if (ceilings_.bytes_floor(cost) < seconds) floor.by_arithmetic += seconds;
}

std::vector<ProfileRow> Device::profile_end() {
  counting_ = false;
  const allmrec_profile_row* rows = nullptr;
  int64_t count = 0;
  check(table_->profile_end(handle_, &rows, &count), "profile_end");
  std::vector<ProfileRow> result;
  for (int64_t i = 0; i < count; ++i) {
    const Floor floor = floors_[rows[i].op];
    result.push_back({rows[i].op, rows[i].calls, rows[i].milliseconds, rows[i].flops, rows[i].bytes,
                      1e3 * floor.seconds, 1e3 * floor.by_arithmetic});
  }
  floors_.clear();
  return result;
}

void Device::check(allmrec_status status, const char* op) {
  if (status == ALLMREC_OK) return;
  Cancellation::poll();  // an op that was stopped has no status of its own
  const char* text = table_->last_error(handle_);
  const std::string message = std::string(op) + " on " + table_->name + ": " + (text ? text : "no message");
  switch (status) {
    case ALLMREC_INVALID_ARGUMENT:
      throw Error(ErrorCode::invalid_argument, message);
    case ALLMREC_OUT_OF_MEMORY:
      throw Error(ErrorCode::out_of_memory, message);
    case ALLMREC_UNSUPPORTED:
      throw Error(ErrorCode::unsupported, message);
    case ALLMREC_DEVICE_ERROR:
      throw Error(ErrorCode::device, message);
    case ALLMREC_DEVICE_LOST:
      throw Error(ErrorCode::device_lost, message);
    default:
      throw Error(ErrorCode::internal, message);
  }
}

}  // namespace allmrec
