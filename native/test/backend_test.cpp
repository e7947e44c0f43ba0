// What stands around the op table: finding back ends, the device, and the checks every op makes first.
#include "backend_test.h"

#include <cmath>
#include <cstdlib>
#include <vector>

#include "../cpp/backend/device.h"
#include "../cpp/backend/registry.h"

using namespace allmrec;
using namespace allmrec::test;

namespace {

std::string reason_of(const std::string& name) {
  for (const BackendEntry& entry : list_backends()) {
    if (entry.name == name) return entry.table ? "loaded" : entry.reason;
  }
  return "not listed";
}

bool begins(const std::string& text, const char* with) {
  return text.rfind(with, 0) == 0;
}

void registry_tests() {
  unsetenv("ALLMREC_CUDA_LIBRARY");
  unsetenv("ALLMREC_CUDAEMU_LIBRARY");
  CHECK(list_backends().front().name == "cpu");
  // The library is told its version when it is compiled, this test is not.
  CHECK(std::string(find_backend("cpu")->version).find('.') != std::string::npos);
  CHECK_THROWS(find_backend("tpu"), "Expected `device`");
  CHECK_THROWS(set_backend_library("cpu", "x.so"), "no back end `cpu`");
  CHECK(reason_of("cudaemu") == "not listed");
  CHECK_THROWS(find_backend("cudaemu"), "no_library: ");
  set_backend_library("cudaemu", "/nowhere/allmrec.so");
  CHECK(begins(reason_of("cudaemu"), "cannot_open: ") &&
        reason_of("cudaemu").find("/nowhere/allmrec.so") != std::string::npos);
#if defined(__linux__)
  setenv("ALLMREC_CUDAEMU_LIBRARY", "libm.so.6", 1);  // goes before the path
  CHECK(begins(reason_of("cudaemu"), "no_entry_point: libm.so.6"));
#endif
  unsetenv("ALLMREC_CUDAEMU_LIBRARY");
  set_backend_library("cudaemu", "");
  CHECK(reason_of("cudaemu") == "not listed");
}

// The least time of a profile's calls, each by its own arithmetic or by its bytes.
void floor_tests(Device& device) {
  Ceilings ceilings;
  ceilings.float32_flops = 1e6, ceilings.half_flops = 2e6, ceilings.int8_flops = 4e6, ceilings.bytes = 1e9;
  std::vector<float> a(64 * 64, 1.0f), b = a, c = a;
  allmrec_gemm_args g{};
  g.m = g.n = g.k = 64, g.lda = g.ldb = g.ldc = 64, g.alpha = 1;
  g.a = a.data(), g.b = b.data(), g.c = c.data();
  const double flops = 2.0 * 64 * 64 * 64;
  device.profile_begin(ceilings);
  CHECK(!device.has_graphs());
  device.gemm(g);
  g.compute_dtype = ALLMREC_BF16;
  device.gemm(g);
  device.add({64, 2, a.data(), 0, nullptr, c.data(), 0, ALLMREC_F32});
  std::vector<ProfileRow> rows = device.profile_end();
  CHECK(rows.size() == 2 && rows[0].op == "gemm" && rows[0].calls == 2 && rows[1].op == "add");
  CHECK(std::abs(rows[0].floor_milliseconds - 1e3 * (flops / 1e6 + flops / 2e6)) < 1e-6);
  CHECK(rows[0].arithmetic_floor_milliseconds == rows[0].floor_milliseconds);
  ceilings.bytes = 1;
  device.profile_begin(ceilings);
  device.add({64, 2, a.data(), 0, nullptr, c.data(), 0, ALLMREC_F32});
  rows = device.profile_end();
  CHECK(std::abs(rows[0].floor_milliseconds - 1e3 * 2 * 64 * 4) < 1e-6);
  CHECK(rows[0].arithmetic_floor_milliseconds == 0);

  g.b_dtype = ALLMREC_I4;
  CHECK(arithmetic_of(g) == Arithmetic::int8);
  allmrec_attention_args attention{};
  CHECK(arithmetic_of(attention) == Arithmetic::float32);
  attention.compute_dtype = ALLMREC_BF16;
  CHECK(arithmetic_of(attention) == Arithmetic::half);
}

void device_tests() {
  const std::shared_ptr<Device> device = Device::open("cpu", 2);
  const allmrec_backend& table = *find_backend("cpu");
  CHECK(table.configure("cublaslt", "off") == ALLMREC_INVALID_ARGUMENT);

  const int64_t before = device->memory().in_use;
  {
    const DeviceBuffer small(device, 1000), large(device, 1 << 20);
    const allmrec_memory_info info = device->memory();
    CHECK(info.in_use >= before + 1000 + (1 << 20) && info.peak >= info.in_use);
    CHECK(info.total > 0 && info.free != 0 && info.free <= info.total);
  }
  CHECK(device->memory().in_use == before && device->memory().cached >= 1 << 20);
  device->trim();
  CHECK(device->memory().cached == 0);

  Graph graph(device);
  CHECK_THROWS(graph.record([] {}), "no graphs");
  CHECK(!graph.recorded());

  std::vector<float> x(64, 1.0f), y(64);
  CHECK_THROWS(device->profile_end(), "no profile was begun");
  device->profile_begin();
  CHECK(device->profile_end().empty());
  device->profile_begin();
  for (int i = 0; i < 3; ++i) device->add({64, 2, x.data(), 0, nullptr, y.data(), 0, ALLMREC_F32});
  device->sum({64, y.data(), 1, x.data(), 0});
  const std::vector<ProfileRow> rows = device->profile_end();
  CHECK(rows.size() == 2 && rows[0].op == "add" && rows[0].calls == 3 && rows[1].op == "sum");
  CHECK(rows[0].milliseconds > 0 && rows[0].bytes == 3 * 2 * 64 * 4 && rows[0].flops > 0);
  CHECK(rows[0].floor_milliseconds == 0);
  device->sum({64, y.data(), 1, x.data(), 0});
  device->profile_begin();
  CHECK(device->profile_end().empty());
  floor_tests(*device);
}

// Each wrong argument is named; the right ones pass.
void validation_tests() {
  const std::shared_ptr<Device> device = Device::open("cpu", 1);
  std::vector<float> memory(64 * 64);
  float* p = memory.data();
  const auto gemm = [&](int32_t a, int32_t b, int32_t c) {
    allmrec_gemm_args g{};
    g.m = g.n = g.k = 32, g.lda = g.ldb = g.ldc = 32, g.alpha = 1;
    g.a = p, g.b = p, g.c = p, g.b_scales = p, g.a_dtype = a, g.b_dtype = b, g.c_dtype = c;
    return g;
  };
  device->gemm(gemm(ALLMREC_F16, ALLMREC_F16, ALLMREC_F16));
  device->gemm(gemm(ALLMREC_F32, ALLMREC_BF16, ALLMREC_F32));
  CHECK_THROWS(device->gemm(gemm(ALLMREC_F16, ALLMREC_BF16, ALLMREC_F32)), "b_dtype");
  CHECK_THROWS(device->gemm(gemm(ALLMREC_F32, ALLMREC_F32, ALLMREC_F16)), "c_dtype");
  CHECK_THROWS(device->gemm(gemm(ALLMREC_F16, ALLMREC_F16, ALLMREC_BF16)), "c_dtype");
  CHECK_THROWS(device->gemm(gemm(ALLMREC_I8, ALLMREC_F32, ALLMREC_F32)), "a_dtype");
  CHECK_THROWS(device->gemm(gemm(ALLMREC_F32, ALLMREC_I32, ALLMREC_F32)), "b_dtype");
  allmrec_gemm_args quantized = gemm(ALLMREC_F32, ALLMREC_I4, ALLMREC_F32);
  device->gemm(quantized);
  quantized.b_scales = nullptr;
  CHECK_THROWS(device->gemm(quantized), "b_scales");
  quantized.b_scales = p, quantized.n = quantized.ldb = 31;
  CHECK_THROWS(device->gemm(quantized), "ldb");
  quantized.n = 31, quantized.ldb = 32;
  CHECK_THROWS(device->gemm(quantized), "ldb");

  const int32_t wrong = ALLMREC_I8;
  CHECK_THROWS(device->column_sum({1, 1, p, 1, p, 0, wrong}), "dtype");
  CHECK_THROWS(device->layer_norm({1, 1, p, p, p, 0, p, p, p, wrong}), "dtype");
  CHECK_THROWS(device->layer_norm_backward({1, 1, p, p, p, p, p, p, 0, p, p, 0, wrong}), "dtype");
  CHECK_THROWS(device->activation({1, 0, p, p, wrong}), "dtype");
  CHECK_THROWS(device->activation_backward({1, 0, p, p, p, 0, wrong}), "dtype");
  CHECK_THROWS(device->add({1, 1, p, 1, p, p, 0, wrong}), "dtype");
  CHECK_THROWS(device->dropout({1, {}, p, p, p, 0, wrong}), "dtype");
  CHECK_THROWS(device->segment_mean({0, 1, nullptr, p, p, 0, wrong}), "dtype");
  CHECK_THROWS(device->put_rows({0, 1, nullptr, p, 1, p, 1, wrong}), "dtype");
  CHECK_THROWS(device->copy_2d({1, 1, p, 1, p, 1, 0, wrong}), "dtype");
  CHECK_THROWS(device->cast({1, p, ALLMREC_F32, p, wrong}), "y_dtype");
  CHECK_THROWS(device->cast({1, p, wrong, p, ALLMREC_F32}), "x_dtype");
  allmrec_attention_args attention{};
  attention.dtype = wrong;
  CHECK_THROWS(device->attention(attention), "dtype");
  attention.dtype = ALLMREC_F32, attention.max_kv_length = -1;
  CHECK_THROWS(device->attention(attention), "max_kv_length");
  CHECK_THROWS(device->quantize({1, 33, p, ALLMREC_F32, ALLMREC_I4, p, p}), "cols");
  CHECK_THROWS(device->quantize({1, 32, p, ALLMREC_F32, ALLMREC_F16, p, p}), "dtype");
  CHECK_THROWS(device->quantize({1, 32, p, ALLMREC_F32, ALLMREC_I8, p, nullptr}), "scales");
  CHECK_THROWS(device->advance({1, nullptr, 1}), "x must not be null");
  CHECK_THROWS(device->conv({1, 1, 1, 1, 1, 0, p, p, p, p}), "dilation");
  CHECK_THROWS(device->spmm({1, 1, nullptr, nullptr, nullptr, nullptr, p, 0}), "offsets");
  CHECK_THROWS(device->rank_catalogue({1, 1, 1, p, nullptr, nullptr, nullptr, nullptr, 1, nullptr, p}),
               "items");
  allmrec_embedding_args embedding{};
  embedding.cols = 31, embedding.table_dtype = ALLMREC_I4;
  CHECK_THROWS(device->embedding(embedding), "cols");
  embedding.table_dtype = ALLMREC_F32, embedding.out_dtype = wrong;
  CHECK_THROWS(device->embedding(embedding), "out_dtype");
  allmrec_embedding_backward_args backward{};
  backward.dy_dtype = wrong;
  CHECK_THROWS(device->embedding_backward(backward), "dy_dtype");
}

}  // namespace

int main() {
  registry_tests();
  device_tests();
  validation_tests();
  cpu_half_tests();
  return report();
}
