// What the machine can do at most: fp32 multiply-adds, bf16 and 8-bit dot products where it has them, bytes read and
// bytes copied per second. Prints one line of JSON. Usage: limits [threads] [wall | processor]: `processor`
// times one thread by its own processor time, for busy machines.
#include <time.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#if defined(__AVX512BF16__) || defined(__AVX512VNNI__)
#include <immintrin.h>
#endif

namespace {

bool processor_time = false;

double now() {
  timespec t{};
  clock_gettime(processor_time ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// One vector register of floats, and enough independent chains to cover the latency of a multiply-add in all
// pipes without spilling: AVX-512 and NEON have 32 registers, AVX2 and SSE 16.
#if defined(__AVX512F__)
constexpr int kBytes = 64, kChains = 24;
#elif defined(__AVX__)
constexpr int kBytes = 32, kChains = 12;
#elif defined(__aarch64__)
constexpr int kBytes = 16, kChains = 24;
#else
constexpr int kBytes = 16, kChains = 12;
#endif
typedef float Vector __attribute__((vector_size(kBytes)));
constexpr int kLanes = kBytes / 4;

volatile float sink;

void multiply_adds(int64_t loops) {
  Vector x[kChains];
  for (int i = 0; i < kChains; ++i) x[i] = Vector{} + static_cast<float>(i);
  const Vector a = Vector{} + 0.999f, b = Vector{} + 0.001f;
  for (int64_t k = 0; k < loops; ++k) {
#pragma GCC unroll 24
    for (int i = 0; i < kChains; ++i) x[i] = x[i] * a + b;
  }
  float sum = 0;
  for (auto& v : x) sum += v[0];
  sink = sum;
}

#if defined(__AVX512BF16__)
void bfloat16_dots(int64_t loops) {
  __m512 x[kChains];
  for (auto& v : x) v = _mm512_setzero_ps();
  const __m512bh a = (__m512bh)_mm512_set1_epi16(0x3f80), b = (__m512bh)_mm512_set1_epi16(0x3c23);
  for (int64_t k = 0; k < loops; ++k) {
#pragma GCC unroll 24
    for (int i = 0; i < kChains; ++i) x[i] = _mm512_dpbf16_ps(x[i], a, b);
  }
  float sum = 0;
  for (auto& v : x) sum += reinterpret_cast<Vector&>(v)[0];
  sink = sum;
}
#endif

#if defined(__AVX512VNNI__)
// More chains would leave the registers.
constexpr int kInt8Chains = 12;
void int8_dots(int64_t loops) {
  __m512i x[kInt8Chains];
  // Unrolled, so that all of it stays in registers; different, so that no chain stands for all.
#pragma GCC unroll 12
  for (int i = 0; i < kInt8Chains; ++i) x[i] = _mm512_set1_epi32(i);
  const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);
  for (int64_t k = 0; k < loops; ++k) {
#pragma GCC unroll 12
    for (int i = 0; i < kInt8Chains; ++i) x[i] = _mm512_dpbusd_epi32(x[i], a, b);
  }
  __m512i sum = _mm512_setzero_si512();
#pragma GCC unroll 12
  for (auto& v : x) sum = _mm512_add_epi32(sum, v);
  sink = static_cast<float>(_mm512_cvtsi512_si32(sum));
}
#endif

// Least seconds of several repetitions in which all threads do `work` at once.
double best_time(int threads, int repetitions, const std::function<void(int)>& work) {
  double best = 1e30;
  for (int r = 0; r < repetitions; ++r) {
    if (threads == 1) {
      const double start = now();
      work(0);
      best = std::min(best, now() - start);
      continue;
    }
    std::atomic<int> waiting{threads};
    std::atomic<bool> go{false};
    std::vector<double> ends(static_cast<size_t>(threads));
    std::vector<std::thread> team;
    for (int t = 0; t < threads; ++t)
      team.emplace_back([&, t] {
        --waiting;
        while (!go.load()) std::this_thread::yield();
        work(t);
        ends[static_cast<size_t>(t)] = now();
      });
    while (waiting.load() > 0) std::this_thread::yield();
    const double start = now();
    go = true;
    for (auto& thread : team) thread.join();
    best = std::min(best, *std::max_element(ends.begin(), ends.end()) - start);
  }
  return best;
}

// Reads a buffer in so many places at once: more places keep more prefetchers busy than one.
template <int kPlaces>
void read_all(const std::vector<float>& buffer) {
  constexpr size_t kStep = 8 / kPlaces * kBytes;
  Vector sums[8] = {};
  const auto* data = reinterpret_cast<const char*>(buffer.data());
  const size_t part = buffer.size() * sizeof(float) / kPlaces;
  for (size_t i = 0; i + kStep <= part; i += kStep) {
#pragma GCC unroll 8
    for (size_t s = 0; s < 8; ++s) {
      Vector v;
      std::memcpy(&v, data + s % kPlaces * part + i + s / kPlaces * kBytes, kBytes);
      sums[s] += v;
    }
  }
  float sum = 0;
  for (auto& v : sums) sum += v[0];
  sink = sum;
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  if (threads < 1 || threads > 1024) return 1;
  processor_time = threads == 1 && argc > 2 && std::strcmp(argv[2], "processor") == 0;
  constexpr int64_t kLoops = 3000000;
  const double per_loop = 2.0 * kChains * threads;
  const double fma = per_loop * kLanes * kLoops / best_time(threads, 5, [](int) { multiply_adds(kLoops); });
  double bf16 = 0;
#if defined(__AVX512BF16__)
  bf16 = per_loop * 2 * kLanes * kLoops / best_time(threads, 5, [](int) { bfloat16_dots(kLoops); });
#endif
  double int8 = 0;
#if defined(__AVX512VNNI__)
  int8 = 2.0 * kInt8Chains * threads * 4 * kLanes * kLoops / best_time(threads, 5, [](int) { int8_dots(kLoops); });
#endif
  // 256 MB for each of two buffers, together far beyond any cache.
  const size_t floats = (size_t{256} << 20) / sizeof(float) / static_cast<size_t>(threads);
  std::vector<std::vector<float>> from(static_cast<size_t>(threads)), to(static_cast<size_t>(threads));
  for (size_t t = 0; t < from.size(); ++t) from[t].assign(floats, 1.0f), to[t].assign(floats, 0.0f);
  const double bytes = static_cast<double>(floats) * sizeof(float) * threads;
  const double read =
      bytes / std::min({
                  best_time(threads, 5, [&](int t) { read_all<1>(from[static_cast<size_t>(t)]); }),
                  best_time(threads, 5, [&](int t) { read_all<4>(from[static_cast<size_t>(t)]); }),
                  best_time(threads, 5, [&](int t) { read_all<8>(from[static_cast<size_t>(t)]); }),
              });
  const double copy = 2 * bytes / best_time(threads, 7, [&](int t) {
                        std::memcpy(to[static_cast<size_t>(t)].data(), from[static_cast<size_t>(t)].data(),
                                    floats * sizeof(float));
                      });
  const auto print = [](const char* name, double value) {
    if (value > 0)
      std::printf("\"%s\":%.3f,", name, value * 1e-9);
    else
      std::printf("\"%s\":null,", name);
  };
  std::printf("{");
  print("gigaflops", fma);
  print("bfloat16Gigaflops", bf16);
  print("int8Gigaflops", int8);
  std::printf("\"readGigabytes\":%.3f,\"copyGigabytes\":%.3f}\n", read * 1e-9, copy * 1e-9);
  return 0;
}
