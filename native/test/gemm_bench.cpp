// Speed of the matrix product and of attention on the shapes of our models, beside the machine's measured
// multiply-add peak (for decode: beside the bytes of weights read).
// Usage: ALLMREC_ISA=… gemm_bench [threads] [part of a name]
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "../cpp/cpu/backend.h"

namespace {

using std::vector;
using Clock = std::chrono::steady_clock;

const allmrec_backend* backend = allmrec::cpu_backend();
allmrec_device* device = nullptr;
const char* filter = "";
double peak = 0;  // GFLOP/s of all threads

double seconds(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// One thread is timed by its own processor time, which other programs do not lengthen much; several by the
// wall clock.
bool one_thread = true;
double now() {
  timespec t{};
  clock_gettime(one_thread ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// The best of several runs: on a shared machine the others were interrupted.
double best_time(const std::function<void()>& fn) {
  fn();
  double best = 1e30;
  const auto start = Clock::now();
  for (int i = 0; i < 5 || (seconds(start) < 0.4 && i < 2000); ++i) {
    const double begin = now();
    fn();
    best = std::min(best, now() - begin);
  }
  return best;
}

typedef float Wide __attribute__((vector_size(64)));
typedef float Half __attribute__((vector_size(32)));
template <typename V>
__attribute__((always_inline)) inline float multiply_add_chains(int64_t n) {
  V x[12];
  for (int i = 0; i < 12; ++i) x[i] = V{} + static_cast<float>(i);
  const V a = V{} + 0.999f, b = V{} + 0.001f;
  for (int64_t k = 0; k < n; ++k) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) x[i] = x[i] * a + b;
  }
  float sum = 0;
  for (auto& v : x) sum += v[0];
  return sum;
}
#if defined(__x86_64__)
__attribute__((target("avx512f,fma"))) float chains_avx512(int64_t n) {
  return multiply_add_chains<Wide>(n);
}
__attribute__((target("avx2,fma"))) float chains_avx2(int64_t n) {
  return multiply_add_chains<Half>(n);
}
#endif
float chains_generic(int64_t n) {
  return multiply_add_chains<float __attribute__((vector_size(16)))>(n);
}

double measure_peak(const std::string& set, int threads) {
  auto chains = chains_generic;
  int lanes = 4;
#if defined(__x86_64__)
  if (set == "avx512") chains = chains_avx512, lanes = 16;
  if (set == "avx2") chains = chains_avx2, lanes = 8;
#endif
  constexpr int64_t kLoops = 2000000;
  [[maybe_unused]] static volatile float sink;
  const double time = best_time([&] {
    vector<std::thread> team;
    for (int i = 1; i < threads; ++i) team.emplace_back([&] { sink = chains(kLoops); });
    sink = chains(kLoops);
    for (auto& t : team) t.join();
  });
  return 2.0 * 12 * lanes * kLoops * threads / time * 1e-9;
}

vector<float> numbers(int64_t n) {
  vector<float> x(static_cast<size_t>(n));
  uint32_t state = 12345;
  for (float& v : x) v = static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) * 1.2e-7f - 1.0f;
  return x;
}

void check(allmrec_status status) {
  if (status != ALLMREC_OK) std::printf("FAILED: %s\n", backend->last_error(device));
}

void gemm(const char* name, int64_t m, int64_t n, int64_t k, bool trans_a, bool trans_b,
          int32_t dtype = ALLMREC_F32) {
  const char* types[] = {"f32", "f16", "bf16"};
  char label[128];
  std::snprintf(label, sizeof(label), "%s %lldx%lldx%lld %c%c %s", name, static_cast<long long>(m),
                static_cast<long long>(n), static_cast<long long>(k), trans_a ? 'T' : 'N',
                trans_b ? 'T' : 'N', types[dtype]);
  if (!std::strstr(label, filter)) return;
  // Weights of a decode step come from memory, not from a cache: take turns over 128 MB of them.
  const int64_t copies = m <= 8 ? std::max<int64_t>(1, (int64_t{32} << 20) / (n * k)) : 1;
  const vector<float> a = numbers(m * k), b = numbers(n * k * copies);
  vector<float> c(static_cast<size_t>(m * n));
  allmrec_gemm_args g{};
  g.m = m, g.n = n, g.k = k, g.a = a.data(), g.lda = trans_a ? m : k, g.trans_a = trans_a;
  g.ldb = trans_b ? k : n, g.trans_b = trans_b, g.b_dtype = dtype, g.c = c.data(), g.ldc = n, g.alpha = 1;
  int64_t turn = 0;
  const size_t bytes = static_cast<size_t>(n * k) * (dtype == ALLMREC_F32 ? 4 : 2);
  const double time =
      best_time([&] {
        for (int64_t i = 0; i < copies; ++i) {
          g.b = reinterpret_cast<const char*>(b.data()) + static_cast<size_t>(turn++ % copies) * bytes;
          check(backend->gemm(device, &g));
        }
      }) /
      static_cast<double>(copies);
  const double flops = 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
  std::printf("%-44s %9.3f ms %8.1f GFLOP/s %5.1f %%", label, time * 1e3, flops / time * 1e-9,
              flops / time * 1e-7 / peak);
  if (m <= 8) std::printf(" %6.1f GB/s", static_cast<double>(bytes) / time * 1e-9);
  std::printf("\n");
}

// Sequences of `rows` queries; `keys` 0 = causal over themselves, −1 = full over themselves, else a cache of
// that length. `candidate` > 0: after `prompt` rows, items of that many rows that see the prompt and
// themselves.
void attention(const char* name, int64_t sequences, int32_t rows, int32_t heads, int32_t dim, int32_t keys,
               bool backward, float p = 0, int32_t prompt = 0, int32_t candidate = 0) {
  char label[128];
  std::snprintf(label, sizeof(label), "attention %s%s %lldx%d H %d D %d", name, p > 0 ? " dropout" : "",
                static_cast<long long>(sequences), rows, heads, dim);
  if (!std::strstr(label, filter)) return;
  const int32_t length = keys > 0 ? keys : rows;
  const int64_t width = int64_t{heads} * dim, tokens = sequences * rows;
  const vector<float> q = numbers(tokens * width * 3), kv = numbers(sequences * length * width * 2),
                      g = numbers(tokens * width);
  vector<float> out(static_cast<size_t>(tokens * width)), lse(static_cast<size_t>(tokens * heads));
  vector<float> dq(out.size()), dk(static_cast<size_t>(sequences * length * width)), dv(dk.size());
  vector<int32_t> offsets{0}, start, len, prefix, begin, end;
  double pairs = 0;
  for (int32_t s = 0; s < sequences; ++s) {
    start.push_back(s * length);
    len.push_back(length);
    offsets.push_back((s + 1) * rows);
    for (int32_t i = 0; i < rows; ++i) {
      const bool item = candidate > 0 && i >= prompt;
      prefix.push_back(item ? prompt : 0);
      begin.push_back(item ? prompt + (i - prompt) / candidate * candidate : 0);
      end.push_back(keys == 0 ? i + 1 : length);
      pairs += prefix.back() + end.back() - begin.back();
    }
  }
  allmrec_attention_args a{};
  a.num_sequences = sequences, a.tokens = tokens, a.heads = heads, a.head_dim = dim;
  a.scale = 1.0f / std::sqrt(static_cast<float>(dim));
  a.q = q.data(), a.ldq = width, a.k = kv.data(), a.ldk = 2 * width, a.v = kv.data() + width,
  a.ldv = 2 * width;
  a.q_offsets = offsets.data(), a.kv_start = start.data(), a.kv_len = len.data();
  a.prefix = prefix.data(), a.own_begin = begin.data(), a.own_end = end.data();
  a.dropout = {p, 1, 2}, a.drop_columns = length;
  a.out = out.data(), a.ldout = width, a.lse = lse.data();
  const double flops = 4.0 * pairs * static_cast<double>(width);
  const double time = best_time([&] { check(backend->attention(device, &a)); });
  std::printf("%-44s %9.3f ms %8.1f GFLOP/s %5.1f %%\n", label, time * 1e3, flops / time * 1e-9,
              flops / time * 1e-7 / peak);
  if (!backward) return;
  allmrec_attention_backward_args b{};
  b.forward = a, b.d_out = g.data(), b.ld_dout = width, b.dq = dq.data(), b.ld_dq = width;
  b.dk = dk.data(), b.ld_dk = width, b.dv = dv.data(), b.ld_dv = width;
  const double back = best_time([&] { check(backend->attention_backward(device, &b)); });
  std::printf("%-44s %9.3f ms %8.1f GFLOP/s %5.1f %%\n", "  backward", back * 1e3, 2.5 * flops / back * 1e-9,
              2.5 * flops / back * 1e-7 / peak);
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  one_thread = threads == 1;
  if (argc > 2) filter = argv[2];
  char reason[256] = "";
  if (backend->open(0, threads, &device, reason, sizeof(reason)) != ALLMREC_OK) {
    std::printf("%s\n", reason);
    return 1;
  }
  allmrec_device_info info{};
  backend->info(device, &info);
  peak = measure_peak(info.instruction, info.threads);
  std::printf("%s, %s, %d threads, multiply-add peak %.1f GFLOP/s\n", info.name, info.instruction,
              info.threads, peak);
  gemm("sasrec forward", 6400, 50, 50, false, true);
  gemm("sasrec dX", 6400, 50, 50, false, false);
  gemm("sasrec dW", 50, 50, 6400, true, false);
  gemm("sasrec sparse", 768, 50, 50, false, true);
  gemm("sasrec catalogue", 64, 3000, 50, false, true);
  gemm("opt qkv", 512, 768, 768, false, true);
  gemm("opt fc1", 512, 3072, 768, false, true);
  gemm("opt fc2", 512, 768, 3072, false, true);
  gemm("opt fc1 dX", 512, 768, 3072, false, false);
  gemm("opt candidates", 1200, 768, 768, false, true);
  gemm("opt fc1", 512, 3072, 768, false, true, ALLMREC_F16);
  gemm("opt head", 20, 50272, 768, false, true);
  gemm("encoder fc1", 2048, 3072, 768, false, true);
  gemm("encoder dW", 768, 768, 2048, true, false);
  gemm("square", 2048, 2048, 2048, false, false);
  gemm("few rows", 32, 768, 768, false, true);
  gemm("decode", 1, 768, 768, false, true);
  gemm("decode", 1, 3072, 768, false, true);
  gemm("decode", 1, 3072, 768, false, true, ALLMREC_F16);
  gemm("decode", 1, 3072, 768, false, true, ALLMREC_BF16);
  gemm("decode", 8, 3072, 768, false, true);
  gemm("decode", 8, 3072, 768, false, true, ALLMREC_F16);
  attention("sasrec", 128, 50, 1, 50, 0, true);
  attention("sasrec", 128, 50, 1, 50, 0, true, 0.2f);
  attention("sasrec sparse", 128, 6, 1, 50, 0, true, 0.2f);
  attention("opt", 1, 600, 12, 64, 0, true);
  attention("candidates", 1, 840, 12, 64, 0, false, 0, 600, 12);
  attention("encoder", 32, 64, 12, 64, -1, true, 0.1f);
  attention("decode", 1, 1, 12, 64, 600, false);
  backend->close(device);
  return 0;
}
