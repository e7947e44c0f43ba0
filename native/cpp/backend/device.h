#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "../core/cancellation.h"
#include "../core/error.h"
#include "backend.h"
#include "costs.h"
#include "finite_watch.h"

namespace allmrec {

// What a back end says of one of its devices, or why it has none.
struct DeviceDescription {
  std::string backend;  // cpu, cuda, …
  int index = 0;
  bool available = false;
  std::string name;
  std::string instruction;
  int64_t memory_bytes = 0;
  int threads = 0;
  std::string libraries;  // what it uses besides its own kernels, or why not
  std::string reason;     // a reason code and a sentence when not available
};

// Time of one op while a profile was taken.
struct ProfileRow {
  std::string op;
  int64_t calls = 0;
  double milliseconds = 0;
  double flops = 0;  // multiply-adds count two
  double bytes = 0;  // read and written at least once
  // The least its calls could have taken, each by whichever binds it, and the part of calls bound by
  // arithmetic; 0 without ceilings.
  double floor_milliseconds = 0;
  double arithmetic_floor_milliseconds = 0;
};

// An opened device: the op table as methods that throw `Error` instead of returning a status. Ops, uploads
// and downloads throw ErrorCode::cancelled once the calling thread's job is; see Cancellation.
class Device {
 public:
  // name: "cpu", or the name of a plug-in back end. threads: 0 = all.
  static std::shared_ptr<Device> open(const std::string& name, int threads);
  static std::vector<DeviceDescription> list();

  Device(const allmrec_backend* table, allmrec_device* handle);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const char* backend_name() const { return table_->name; }
  allmrec_device_info info();

#define ALLMREC_METHOD(op, args)                             \
  void op(const args& a) {                                   \
    Cancellation::poll();                                    \
    check(table_->op(handle_, &a), #op);                     \
    if (counting_) count(#op, cost_of(a), arithmetic_of(a)); \
    if (watch_) watch_->op(a);                               \
  }
  ALLMREC_OPS(ALLMREC_METHOD)
#undef ALLMREC_METHOD

  // what: it is for, in the error that there is not enough.
  void* alloc(size_t bytes, const char* what);
  void free(void* memory) noexcept;
  void upload(void* dst, const void* host_src, size_t bytes);
  void download(void* host_dst, const void* src, size_t bytes);
  void copy_bytes(void* dst, const void* src, size_t bytes);
  void fill(float* x, int64_t n, float value);
  void synchronize();

  allmrec_memory_info memory();
  // Gives cached memory back.
  void trim();

  // Whether ops can be recorded and launched as one: on every back end but the CPU, and never while ops are
  // held against ceilings, since recorded ones are not timed one by one.
  bool has_graphs() const;
  // Ops between begin and end are recorded instead of run; see Graph.
  void capture_begin();
  void capture_end(allmrec_graph** graph);
  void capture_cancel() noexcept;
  void launch(allmrec_graph* graph);
  void free(allmrec_graph* graph) noexcept;

  // Between begin and end every op is timed; ops that did not run have no row. With ceilings, the rows also
  // say how long their calls must have taken at least.
  void profile_begin();
  void profile_begin(const Ceilings& ceilings);
  std::vector<ProfileRow> profile_end();

  // Looks at what every op writes from here on, until null is given. Ops are not to be recorded meanwhile.
  void set_watch(FiniteWatch* watch) {
    watch_ = watch;
  }
  bool watched() const {
    return watch_ != nullptr;
  }

 private:
  struct Floor {
    double seconds = 0, by_arithmetic = 0;
  };
  void check(allmrec_status status, const char* op);
  void count(std::string_view op, const Cost& cost, Arithmetic kind);
  const allmrec_backend* table_;
  allmrec_device* handle_;
  bool counting_ = false;
  FiniteWatch* watch_ = nullptr;
  Ceilings ceilings_;
  std::map<std::string_view, Floor> floors_;
};

// Device memory with an owner.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(std::shared_ptr<Device> device, size_t bytes, const char* what = "a buffer")
      : device_(std::move(device)), data_(bytes ? device_->alloc(bytes, what) : nullptr), bytes_(bytes) {}
  DeviceBuffer(DeviceBuffer&& other) noexcept { swap(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~DeviceBuffer() {
    if (data_) device_->free(data_);
  }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }

 private:
  void swap(DeviceBuffer& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }
  std::shared_ptr<Device> device_;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// A recorded sequence of ops, with its owner. Recording again brings it up to date with what was recorded
// then.
class Graph {
 public:
  explicit Graph(std::shared_ptr<Device> device) : device_(std::move(device)) {}
  Graph(Graph&& other) noexcept { swap(other); }
  Graph& operator=(Graph&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Graph() {
    if (graph_) device_->free(graph_);
  }

  // Calls fn, whose ops are recorded; when it throws, the graph stays as it was.
  template <typename Fn>
  void record(Fn&& fn) {
    device_->capture_begin();
    try {
      fn();
    } catch (...) {
      device_->capture_cancel();
      throw;
    }
    device_->capture_end(&graph_);
  }
  bool recorded() const { return graph_ != nullptr; }
  void launch() { device_->launch(graph_); }

 private:
  void swap(Graph& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(graph_, other.graph_);
  }
  std::shared_ptr<Device> device_;
  allmrec_graph* graph_ = nullptr;
};

}  // namespace allmrec
