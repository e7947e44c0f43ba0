#include "ceilings.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace allmrec {
namespace {

using Clock = std::chrono::steady_clock;

// Measured: an 8192³ product of random halves, and a device copy (read + written). The others are NVIDIA's
// data sheets, without sparsity; no program reaches them, so shares of them look smaller than those of
// measured ones.
struct Card {
  const char* name;  // part of the device's name
  double half_teraflops, float32_teraflops, int8_teraops, gigabytes;
  const char* source;
};
constexpr Card kCards[] = {
    {"H200", 790, 66.9, 1979, 4300, "half and bytes measured on an H200; float32 and int8 by data sheet"},
    {"H100 80GB HBM3", 989, 66.9, 1979, 3350, "data sheet, H100 SXM"},
    {"H100 PCIe", 756, 51.2, 1513, 2000, "data sheet, H100 PCIe"},
    {"A100-SXM4-80GB", 312, 19.5, 624, 2039, "data sheet, A100 SXM 80 GB"},
    {"A100", 312, 19.5, 624, 1555, "data sheet, A100 40 GB"},
    {"L40S", 362, 91.6, 733, 864, "data sheet, L40S"},
    {"RTX A6000", 155, 38.7, 310, 768, "data sheet, RTX A6000"},
    {"RTX 4090", 165, 82.6, 661, 1008, "data sheet, RTX 4090"},
};

// Least seconds of several repetitions in which all threads work at once.
double best_time(int threads, const std::function<void(int)>& work) {
  double best = 1e30;
  for (int repetition = 0; repetition < 5; ++repetition) {
    const auto start = Clock::now();
    std::vector<std::thread> team;
    for (int t = 1; t < threads; ++t) team.emplace_back([&work, t] { work(t); });
    work(0);
    for (auto& thread : team) thread.join();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
  }
  return best;
}

// As many independent chains as hide the latency of a multiply-add in both pipes.
template <typename V>
__attribute__((always_inline)) inline float multiply_add_chains(int64_t loops) {
  V x[12];
  for (int i = 0; i < 12; ++i) x[i] = V{} + static_cast<float>(i);
  const V a = V{} + 0.999f, b = V{} + 0.001f;
  for (int64_t k = 0; k < loops; ++k) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) x[i] = x[i] * a + b;
  }
  float sum = 0;
  for (auto& v : x) sum += v[0];
  return sum;
}

// One pass over a buffer, read in four places at once: more places keep more prefetchers busy than one.
template <typename V>
__attribute__((always_inline)) inline float read_pass(const float* data, size_t n) {
  constexpr size_t kLanes = sizeof(V) / sizeof(float);
  const size_t part = n / 4 / kLanes * kLanes;
  V sums[4] = {};
  for (size_t i = 0; i < part; i += kLanes) {
#pragma GCC unroll 4
    for (size_t s = 0; s < 4; ++s) {
      V v;
      std::memcpy(&v, data + s * part + i, sizeof v);
      sums[s] += v;
    }
  }
  return (sums[0] + sums[1] + sums[2] + sums[3])[0];
}

typedef float Vector16 __attribute__((vector_size(64)));
typedef float Vector8 __attribute__((vector_size(32)));
typedef float Vector4 __attribute__((vector_size(16)));
#if defined(__x86_64__)
__attribute__((target("avx512f,fma"))) float chains_avx512(int64_t loops) {
  return multiply_add_chains<Vector16>(loops);
}
__attribute__((target("avx2,fma"))) float chains_avx2(int64_t loops) {
  return multiply_add_chains<Vector8>(loops);
}
__attribute__((target("avx512f"))) float read_avx512(const float* data, size_t n) {
  return read_pass<Vector16>(data, n);
}
__attribute__((target("avx2"))) float read_avx2(const float* data, size_t n) {
  return read_pass<Vector8>(data, n);
}
__attribute__((target("avx512f,avx512bf16"))) float chains_bfloat16(int64_t loops) {
  __m512 x[12];
  for (auto& v : x) v = _mm512_setzero_ps();
  const __m512bh a = (__m512bh)_mm512_set1_epi16(0x3f80), b = (__m512bh)_mm512_set1_epi16(0x3c23);
  for (int64_t k = 0; k < loops; ++k) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) x[i] = _mm512_dpbf16_ps(x[i], a, b);
  }
  __m512 sum = _mm512_setzero_ps();
  for (auto& v : x) sum = _mm512_add_ps(sum, v);
  return _mm512_cvtss_f32(sum);
}
__attribute__((target("avx512f,avx512vnni"))) float chains_int8(int64_t loops) {
  __m512i x[12];
  // Unrolled, so that all of it stays in registers; different, so that no chain stands for all.
#pragma GCC unroll 12
  for (int i = 0; i < 12; ++i) x[i] = _mm512_set1_epi32(i);
  const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);
  for (int64_t k = 0; k < loops; ++k) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) {
      x[i] = _mm512_dpbusd_epi32(x[i], a, b);
      asm("" : "+v"(x[i]));  // each chain keeps its register: copies would take the time
    }
  }
  __m512i sum = _mm512_setzero_si512();
#pragma GCC unroll 12
  for (auto& v : x) sum = _mm512_add_epi32(sum, v);
  return static_cast<float>(_mm512_cvtsi512_si32(sum));
}
#endif
float chains_generic(int64_t loops) {
  return multiply_add_chains<Vector4>(loops);
}
float read_generic(const float* data, size_t n) {
  return read_pass<Vector4>(data, n);
}

// Keeps what is measured from being left out.
std::atomic<float> sink;

}  // namespace

Ceilings measure_cpu(const std::string& instruction, int threads) {
  auto chains = chains_generic;
  auto read = read_generic;
  double lanes = 4;
  const auto rate = [threads](float (*work)(int64_t), double each) {
    constexpr int64_t kLoops = 2000000;
    return 2.0 * 12 * each * kLoops * threads /
           best_time(threads, [&](int) { sink.store(work(kLoops), std::memory_order_relaxed); });
  };
  Ceilings c;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (instruction.rfind("avx2", 0) == 0) chains = chains_avx2, read = read_avx2, lanes = 8;
  if (instruction.rfind("avx512", 0) == 0) {
    chains = chains_avx512, read = read_avx512, lanes = 16;
    if (__builtin_cpu_supports("avx512bf16")) c.half_flops = rate(chains_bfloat16, 32);
    if (__builtin_cpu_supports("avx512vnni")) c.int8_flops = rate(chains_int8, 64);
  }
#endif
  c.float32_flops = rate(chains, lanes);
  // Without such instructions numbers are widened first.
  c.half_flops = std::max(c.half_flops, c.float32_flops);
  c.int8_flops = std::max(c.int8_flops, c.float32_flops);
  // A triad a = b + s · c over 64 MB each, and reading alone.
  const size_t n = (size_t{64} << 20) / sizeof(float) / static_cast<size_t>(threads);
  std::vector<std::vector<float>> a(static_cast<size_t>(threads), std::vector<float>(n, 0.0f)), b = a, d = a;
  const double triad = best_time(threads, [&](int t) {
    float* x = a[static_cast<size_t>(t)].data();
    const float *y = b[static_cast<size_t>(t)].data(), *z = d[static_cast<size_t>(t)].data();
    for (size_t i = 0; i < n; ++i) x[i] = y[i] + 0.5f * z[i];
  });
  // All three buffers, so that no cache keeps them from one pass to the next.
  const double reads = best_time(threads, [&](int t) {
    for (const auto* buffers : {&a, &b, &d})
      sink.store(read((*buffers)[static_cast<size_t>(t)].data(), n), std::memory_order_relaxed);
  });
  // The line that a triad writes is also read first.
  const double floats = static_cast<double>(n) * threads;
  c.bytes = std::max(16 * floats / triad, 12 * floats / reads);
  c.source = "measured: multiply-add chains, a triad and reads, " + std::to_string(threads) + " threads";
  return c;
}

Ceilings card_ceilings(const std::string& name) {
  Ceilings c;
  for (const Card& card : kCards) {
    if (name.find(card.name) == std::string::npos) continue;
    c.half_flops = card.half_teraflops * 1e12;
    c.float32_flops = card.float32_teraflops * 1e12;
    c.int8_flops = card.int8_teraops * 1e12;
    c.bytes = card.gigabytes * 1e9;
    c.source = card.source;
    break;
  }
  return c;
}

Ceilings measure_card(Device& device) {
  // The buffers go back when this returns.
  const auto best = [&device](const std::function<void()>& call) {
    double seconds = 1e30;
    call();
    for (int i = 0; i < 5; ++i) {
      device.synchronize();
      const auto start = Clock::now();
      for (int j = 0; j < 4; ++j) call();
      device.synchronize();
      seconds = std::min(seconds, std::chrono::duration<double>(Clock::now() - start).count() / 4);
    }
    return seconds;
  };
  std::shared_ptr<Device> shared(&device, [](Device*) {});
  constexpr int64_t kSize = 4096;
  const auto floats = static_cast<size_t>(kSize * kSize);
  DeviceBuffer a(shared, floats * 4), b(shared, floats * 4), out(shared, floats * 4);
  device.random({kSize * kSize, 1, 1, 1, 0.0f, 1.0f, a.as<float>()});
  allmrec_gemm_args g{};
  g.m = g.n = g.k = g.lda = g.ldb = g.ldc = kSize;
  g.a = a.as<void>(), g.b = b.as<void>(), g.c = out.as<void>(), g.alpha = 1, g.trans_b = 1;
  device.copy_bytes(b.as<void>(), a.as<void>(), floats * 4);
  Ceilings c;
  const double flops = 2.0 * static_cast<double>(kSize) * kSize * kSize;
  c.float32_flops = flops / best([&] { device.gemm(g); });
  device.cast({kSize * kSize, a.as<void>(), ALLMREC_F32, b.as<void>(), ALLMREC_F16});
  g.a = g.b = b.as<void>(), g.a_dtype = g.b_dtype = g.c_dtype = ALLMREC_F16;
  c.half_flops = c.int8_flops = flops / best([&] { device.gemm(g); });
  constexpr int64_t kCopy = int64_t{256} << 20;
  DeviceBuffer from(shared, static_cast<size_t>(kCopy)), to(shared, static_cast<size_t>(kCopy));
  device.fill(from.as<float>(), kCopy / 4, 1.0f);
  c.bytes = 2.0 * kCopy / best([&] { device.copy_bytes(to.as<void>(), from.as<void>(), kCopy); });
  c.source = "not in the table: our own products of 4096 cubed and a copy";
  return c;
}

Ceilings ceilings_of(Device& device) {
  const std::string name = device.backend_name();
  const allmrec_device_info info = device.info();
  if (name == "cpu") return measure_cpu(info.instruction, info.threads);
  if (name != "cuda") return {};
  const Ceilings known = card_ceilings(info.name);
  return known.bytes > 0 ? known : measure_card(device);
}

}  // namespace allmrec
