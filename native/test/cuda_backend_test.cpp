// The CUDA back end's own part: memory, uploads, graphs, profiles, and what happens when something goes
// wrong. On the emulator, which can be short of memory, lose its card or have none.
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "../cpp/backend/backend.h"
#include "check.h"
#include "control.h"

extern "C" const allmrec_backend* allmrec_backend_entry(void);

namespace emulator = allmrec::emulator;

namespace {

const allmrec_backend& backend = *allmrec_backend_entry();

struct Device {
  Device() { CHECK(backend.open(0, 0, &handle, reason, sizeof reason) == ALLMREC_OK); }
  ~Device() { backend.close(handle); }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  float* alloc(size_t n) {
    void* memory = nullptr;
    CHECK(backend.alloc(handle, n * sizeof(float), &memory) == ALLMREC_OK);
    return static_cast<float*>(memory);
  }
  void upload(float* to, const std::vector<float>& values) {
    CHECK(backend.upload(handle, to, values.data(), values.size() * sizeof(float)) == ALLMREC_OK);
  }
  std::vector<float> download(const float* from, size_t n) {
    std::vector<float> values(n);
    CHECK(backend.download(handle, values.data(), from, n * sizeof(float)) == ALLMREC_OK);
    return values;
  }
  // y += x
  allmrec_status add(const float* x, float* y, int64_t n) {
    allmrec_add_args a{};
    a.n = n;
    a.alpha = 1;
    a.a = x;
    a.y = y;
    a.accumulate = 1;
    return backend.add(handle, &a);
  }
  allmrec_memory_info memory() {
    allmrec_memory_info info{};
    CHECK(backend.memory(handle, &info) == ALLMREC_OK);
    return info;
  }
  std::string error() { return backend.last_error(handle); }

  allmrec_device* handle = nullptr;
  char reason[256] = "";
};

bool contains(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

std::vector<float> numbers(size_t n, float first = 0) {
  std::vector<float> values(n);
  for (size_t i = 0; i < n; ++i) values[i] = first + static_cast<float>(i % 4099);
  return values;
}

// A host array may be used again as soon as upload returns, and what was uploaded arrives before what reads
// it, also where streams run late.
void test_uploads() {
  for (const emulator::Streams streams : {emulator::Streams::eager, emulator::Streams::late}) {
    emulator::set_streams(streams);
    Device d;
    for (const size_t n : {size_t{1}, size_t{70000}, size_t{7} << 20}) {  // ring, copy stream, several pieces
      float *x = d.alloc(n), *y = d.alloc(n);
      std::vector<float> values = numbers(n, 3), zeros(n, 0);
      d.upload(y, zeros);
      d.upload(x, values);
      CHECK(d.add(x, y, static_cast<int64_t>(n)) == ALLMREC_OK);
      std::vector<float> others(n, -1);
      d.upload(x, others);  // after the sum, which has read the first values
      CHECK(d.download(y, n) == values);
      CHECK(d.download(x, n) == others);
      backend.free(d.handle, x);
      backend.free(d.handle, y);
    }
    // More small uploads than the ring holds.
    float* x = d.alloc(30000);
    float* sum = d.alloc(30000);
    d.upload(sum, std::vector<float>(30000, 0));
    for (int i = 0; i < 50; ++i) {
      d.upload(x, std::vector<float>(30000, static_cast<float>(i)));
      CHECK(d.add(x, sum, 30000) == ALLMREC_OK);
    }
    CHECK(d.download(sum, 30000) == std::vector<float>(30000, 1225));
  }
  emulator::set_streams(emulator::Streams::eager);
}

void test_memory() {
  emulator::limit_memory(size_t{64} << 20);
  {
    Device d;
    const size_t million = size_t{1} << 20;
    float* x = d.alloc(10 * million);
    void* none = nullptr;
    CHECK(backend.alloc(d.handle, 60 * million, &none) == ALLMREC_OUT_OF_MEMORY);
    CHECK(contains(d.error(), "no room for 63 MB") && contains(d.error(), "42 MB are in use") &&
          contains(d.error(), "int8"));
    // Usable as before.
    d.upload(x, numbers(1000));
    CHECK(d.download(x, 1000) == numbers(1000));
    CHECK(d.memory().in_use == int64_t{40} << 20);
    backend.free(d.handle, x);
    CHECK(d.memory().in_use == 0 && d.memory().cached == int64_t{40} << 20);
    // What is kept is handed out again, or given back where another size needs it.
    float* again = d.alloc(10 * million - 5);
    CHECK(again == x);
    backend.free(d.handle, again);
    float* large = d.alloc(14 * million);
    CHECK(d.memory().cached == 0);
    backend.free(d.handle, large);
    CHECK(backend.trim(d.handle) == ALLMREC_OK);
    CHECK(d.memory().cached == 0 && d.memory().peak == int64_t{56} << 20);
    backend.free(d.handle, nullptr);
  }
  CHECK(emulator::memory_in_use() == 0);
  emulator::limit_memory(0);
}

void test_graphs() {
  Device d;
  const std::vector<float> ones(100, 1);
  float *x = d.alloc(100), *y = d.alloc(100);
  d.upload(x, ones);
  d.upload(y, ones);
  allmrec_graph* graph = nullptr;
  CHECK(backend.capture_begin(d.handle) == ALLMREC_OK);
  CHECK(d.add(x, y, 100) == ALLMREC_OK);
  float host = 0;
  CHECK(backend.download(d.handle, &host, y, sizeof host) == ALLMREC_INTERNAL);
  CHECK(backend.synchronize(d.handle) == ALLMREC_INTERNAL);
  CHECK(backend.capture_end(d.handle, &graph) == ALLMREC_OK);
  CHECK(d.download(y, 1)[0] == 1);  // recorded, not run
  for (int i = 0; i < 3; ++i) CHECK(backend.graph_launch(d.handle, graph) == ALLMREC_OK);
  CHECK(d.download(y, 100) == std::vector<float>(100, 4));
  // Brought up to date: fewer elements, and an upload whose data belongs to the recording.
  for (int step = 0; step < 5; ++step) {
    std::vector<float> values(10, static_cast<float>(10 * (step + 1)));
    CHECK(backend.capture_begin(d.handle) == ALLMREC_OK);
    d.upload(x, values);
    CHECK(d.add(x, y, 10) == ALLMREC_OK);
    CHECK(backend.capture_end(d.handle, &graph) == ALLMREC_OK);
    values.assign(10, -1);
    CHECK(backend.graph_launch(d.handle, graph) == ALLMREC_OK);
  }
  std::vector<float> expected(100, 4);
  for (int i = 0; i < 10; ++i) expected[i] = 4 + 150;
  CHECK(d.download(y, 100) == expected);
  // Memory that is freed while recording stays the graph's, and comes back with it.
  const int64_t before = d.memory().cached;
  CHECK(backend.capture_begin(d.handle) == ALLMREC_OK);
  float* work = d.alloc(5000);
  CHECK(d.add(x, work, 10) == ALLMREC_OK);
  backend.free(d.handle, work);
  CHECK(backend.capture_end(d.handle, &graph) == ALLMREC_OK);
  float* other = d.alloc(5000);
  CHECK(other != work);
  backend.free(d.handle, other);
  backend.graph_free(d.handle, graph);
  CHECK(backend.trim(d.handle) == ALLMREC_OK);
  CHECK(d.memory().cached == 0 && before >= 0);
  // A recording that failed is dropped, and the device goes on.
  CHECK(backend.capture_begin(d.handle) == ALLMREC_OK);
  CHECK(backend.capture_begin(d.handle) == ALLMREC_INTERNAL);
  backend.capture_cancel(d.handle);
  backend.capture_cancel(d.handle);
  CHECK(backend.capture_end(d.handle, &graph) == ALLMREC_INTERNAL);
  CHECK(d.download(y, 100) == expected);
}

void test_profile() {
  Device d;
  float *x = d.alloc(1000), *y = d.alloc(1000);
  d.upload(x, numbers(1000));
  d.upload(y, numbers(1000));
  CHECK(backend.profile_begin(d.handle) == ALLMREC_OK);
  for (int i = 0; i < 3; ++i) CHECK(d.add(x, y, 1000) == ALLMREC_OK);
  const allmrec_profile_row* rows = nullptr;
  int64_t count = 0;
  CHECK(backend.profile_end(d.handle, &rows, &count) == ALLMREC_OK);
  CHECK(count == 1 && std::strcmp(rows[0].op, "add") == 0 && rows[0].calls == 3);
  CHECK(rows[0].bytes == 3 * 12000 && rows[0].flops > 0 && rows[0].milliseconds >= 0);
  CHECK(d.add(x, y, 1000) == ALLMREC_OK);  // no longer counted
  CHECK(backend.profile_begin(d.handle) == ALLMREC_OK);
  CHECK(backend.profile_end(d.handle, &rows, &count) == ALLMREC_OK && count == 0);
}

void test_lost_device() {
  emulator::set_quiet(true);
  {
    Device d;
    float *x = d.alloc(10), *y = d.alloc(10);
    d.upload(x, numbers(10));
    d.upload(y, numbers(10));
    allmrec_add_args bad{};
    bad.n = -1;
    CHECK(backend.add(d.handle, &bad) == ALLMREC_INVALID_ARGUMENT);  // costs nothing
    emulator::fail_launch(1);
    const allmrec_status first = d.add(x, y, 10);
    const allmrec_status second = backend.synchronize(d.handle);
    CHECK(first == ALLMREC_DEVICE_LOST || (first == ALLMREC_OK && second == ALLMREC_DEVICE_LOST));
    CHECK(contains(d.error(), "lost"));
    const std::string why = d.error();
    void* memory = nullptr;
    float host = 0;
    CHECK(d.add(x, y, 10) == ALLMREC_DEVICE_LOST && d.error() == why);
    CHECK(backend.download(d.handle, &host, y, sizeof host) == ALLMREC_DEVICE_LOST);
    CHECK(backend.upload(d.handle, x, &host, sizeof host) == ALLMREC_DEVICE_LOST);
    CHECK(backend.alloc(d.handle, 100, &memory) == ALLMREC_DEVICE_LOST);
    CHECK(backend.capture_begin(d.handle) == ALLMREC_DEVICE_LOST);
    backend.free(d.handle, x);
  }
  emulator::fail_launch(0);
  emulator::clear_faults();
  emulator::set_quiet(false);
  Device next;
  CHECK(next.memory().in_use == 0);
}

void test_opening() {
  const auto reason = [](emulator::Devices devices) {
    emulator::set_devices(devices);
    allmrec_device* device = nullptr;
    char text[256] = "";
    CHECK(backend.open(0, 0, &device, text, sizeof text) == ALLMREC_DEVICE_ERROR && device == nullptr);
    emulator::set_devices(emulator::Devices::one);
    return std::string(text);
  };
  CHECK(contains(reason(emulator::Devices::no_driver), "driver: "));
  CHECK(contains(reason(emulator::Devices::none), "no_device: "));
  allmrec_device* device = nullptr;
  char text[256] = "";
  CHECK(backend.open(7, 0, &device, text, sizeof text) == ALLMREC_DEVICE_ERROR);
  CHECK(contains(text, "no_such_device: ") && contains(text, "7"));
  CHECK(backend.configure("cublaslt", "off") == ALLMREC_OK);
  CHECK(backend.configure("cublas", "off") == ALLMREC_INVALID_ARGUMENT);
  Device d;
  allmrec_device_info info{};
  CHECK(backend.info(d.handle, &info) == ALLMREC_OK);
  CHECK(contains(info.instruction, "sm_") && info.threads > 0 && info.memory_bytes > 0);
  CHECK(contains(info.libraries, "cuBLASLt"));
  CHECK(backend.add(d.handle, nullptr) == ALLMREC_INVALID_ARGUMENT);
  CHECK(backend.abi_version == ALLMREC_BACKEND_ABI && backend.struct_size == sizeof(allmrec_backend));
  CHECK(std::strlen(backend.version) > 0);
}

}  // namespace

int main() {
  test_opening();
  test_uploads();
  test_memory();
  test_graphs();
  test_profile();
  test_lost_device();
  return allmrec::test::report();
}
