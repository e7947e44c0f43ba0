// Randomised stress of the two ops that carry the arithmetic: matrix product and attention (forward and
// backward), on every instruction set the processor has, against plain loops in float64, and bit by bit
// between 1, 2 and 3 threads. Usage: gemm_attention_test [rounds] [seed]
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "../cpp/core/philox.h"
#include "../cpp/cpu/backend.h"
#include "check.h"

namespace {

using std::vector;
std::mt19937 rng(1);
const float kNaN = std::numeric_limits<float>::quiet_NaN();
const allmrec_backend* backend = allmrec::cpu_backend();
std::string context;

int64_t pick(int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(rng);
}
bool coin() {
  return pick(0, 1) == 1;
}
vector<float> randoms(int64_t n) {
  std::uniform_real_distribution<float> uniform(-1, 1);
  vector<float> x(static_cast<size_t>(n));
  for (float& v : x) v = uniform(rng);
  return x;
}

// ‖x − reference‖ / ‖reference‖ over all elements; NaN on either side only is infinite.
double relative_error(const vector<float>& x, const vector<double>& reference) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    if (std::isnan(x[i]) != std::isnan(reference[i])) return INFINITY;
    if (std::isnan(x[i]) || (std::isinf(reference[i]) && x[i] == reference[i])) continue;
    error += (x[i] - reference[i]) * (x[i] - reference[i]);
    norm += reference[i] * reference[i];
  }
  return std::sqrt(error / (norm + 1e-30));
}

void expect_close(const char* what, const vector<float>& x, const vector<double>& reference,
                  double tolerance) {
  const double error = relative_error(x, reference);
  CHECK(error < tolerance);
  if (!(error < tolerance)) std::printf("  %s of %s: error %g\n", what, context.c_str(), error);
}

void expect_same(const char* what, const vector<float>& x, const vector<float>& y) {
  const bool same = x.size() == y.size() && (x.empty() || std::memcmp(x.data(), y.data(), x.size() * 4) == 0);
  CHECK(same);
  if (!same) std::printf("  %s of %s differs between runs\n", what, context.c_str());
}

struct Devices {
  explicit Devices(const char* set) {
    setenv("ALLMREC_ISA", set, 1);
    char reason[256] = "";
    for (int threads = 1; threads <= 3; ++threads) {
      allmrec_device* device = nullptr;
      if (backend->open(0, threads, &device, reason, sizeof(reason)) != ALLMREC_OK) return;
      list.push_back(device);
    }
  }
  ~Devices() {
    for (allmrec_device* device : list) backend->close(device);
  }
  vector<allmrec_device*> list;
};

void expect_ok(allmrec_device* device, allmrec_status status) {
  CHECK(status == ALLMREC_OK);
  if (status != ALLMREC_OK) std::printf("  %s: %s\n", context.c_str(), backend->last_error(device));
}

uint16_t to_half(float x, bool bf16) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if (bf16) return static_cast<uint16_t>(bits >> 16);
  const int exponent = static_cast<int>((bits >> 23) & 255) - 127 + 15;
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  if (exponent <= 0) return sign;
  return static_cast<uint16_t>(sign | (exponent << 10) | ((bits >> 13) & 0x3ff));
}
float from_half(uint16_t h, bool bf16) {
  if (bf16) {
    const uint32_t bits = static_cast<uint32_t>(h) << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
  }
  const float magnitude = std::ldexp(1.0f + static_cast<float>(h & 0x3ff) / 1024.0f, ((h >> 10) & 31) - 15);
  return (h & 0x7fff) == 0 ? 0.0f : (h & 0x8000) ? -magnitude : magnitude;
}

void gemm_case(const Devices& devices) {
  static const int64_t kSizes[] = {0,  1,  2,  3,  5,  7,  8,  11,  13,  16,  17, 24,
                                   31, 33, 48, 50, 63, 64, 65, 100, 129, 200, 300};
  const auto size = [] { return kSizes[pick(0, 22)]; };
  allmrec_gemm_args g{};
  g.m = size(), g.n = size(), g.k = size();
  if (pick(0, 9) == 0) g.k = pick(700, 2600);
  if (pick(0, 19) == 0) g.n = pick(2000, 3000), g.k = pick(400, 600), g.m = pick(1, 60);
  g.trans_a = coin(), g.trans_b = coin();
  g.lda = (g.trans_a ? g.m : g.k) + pick(0, 5);
  g.ldb = (g.trans_b ? g.k : g.n) + pick(0, 5);
  g.ldc = g.n + pick(0, 5);
  g.ld_residual = g.n + pick(0, 5);
  g.alpha = coin() ? 1.0f : 0.37f;
  g.accumulate = coin();
  g.activation = coin() ? ALLMREC_ACT_RELU : ALLMREC_ACT_NONE;
  g.b_dtype = static_cast<int32_t>(pick(0, 2));
  const bool in_place = pick(0, 4) == 0 && !g.accumulate;
  vector<float> a = randoms((g.trans_a ? g.k : g.m) * g.lda), b = randoms((g.trans_b ? g.n : g.k) * g.ldb);
  vector<uint16_t> half(b.size());
  for (size_t i = 0; i < b.size() && g.b_dtype != ALLMREC_F32; ++i) {
    half[i] = to_half(b[i], g.b_dtype == ALLMREC_BF16);
    b[i] = from_half(half[i], g.b_dtype == ALLMREC_BF16);
  }
  const vector<float> bias = randoms(g.n);
  vector<float> start = randoms(g.m * g.ldc), residual = randoms(g.m * g.ld_residual);
  if (!g.accumulate && !in_place) {
    for (int64_t i = 0; i < g.m; ++i) std::fill_n(start.begin() + i * g.ldc, g.n, kNaN);
  }
  if (in_place) g.ld_residual = g.ldc, residual = start;
  g.a = a.data();
  g.b = g.b_dtype == ALLMREC_F32 ? static_cast<const void*>(b.data()) : half.data();
  g.bias = coin() ? bias.data() : nullptr;
  const bool with_residual = in_place || coin();
  context = "gemm " + std::to_string(g.m) + "x" + std::to_string(g.n) + "x" + std::to_string(g.k) +
            " trans " + std::to_string(g.trans_a) + std::to_string(g.trans_b) + " dtype " +
            std::to_string(g.b_dtype) + " act " + std::to_string(g.activation) + " accumulate " +
            std::to_string(g.accumulate);
  vector<double> expected(start.begin(), start.end());
  for (int64_t i = 0; i < g.m; ++i) {
    for (int64_t j = 0; j < g.n; ++j) {
      double sum = 0;
      for (int64_t p = 0; p < g.k; ++p) {
        sum += static_cast<double>(a[g.trans_a ? p * g.lda + i : i * g.lda + p]) *
               b[g.trans_b ? j * g.ldb + p : p * g.ldb + j];
      }
      sum *= g.alpha;
      if (g.bias) sum += bias[j];
      if (with_residual) sum += residual[i * g.ld_residual + j];
      if (g.activation == ALLMREC_ACT_RELU) sum = std::max(0.0, sum);
      expected[i * g.ldc + j] = g.accumulate ? start[i * g.ldc + j] + sum : sum;
    }
  }
  vector<float> first;
  for (allmrec_device* device : devices.list) {
    vector<float> c = start;
    g.c = c.data();
    g.residual = !with_residual ? nullptr : in_place ? c.data() : residual.data();
    expect_ok(device, backend->gemm(device, &g));
    if (first.empty()) {
      first = c;
      expect_close("c", c, expected, 2e-6);
    } else {
      expect_same("c", c, first);
    }
  }
}

// Packed sequences with random visible ranges, and everything attention's two directions read and write.
struct AttentionCase {
  allmrec_attention_args a{};
  allmrec_attention_backward_args b{};
  int64_t kv_rows = 0;
  vector<int32_t> q_offsets{0}, kv_start, kv_len, prefix, own_begin, own_end, pad_count;
  vector<float> q, k, v, pad_k, pad_v, d_out, dq, dk, dv, d_pad_k, d_pad_v;
  vector<uint16_t> half_k, half_v;  // what the forward reads where kv_dtype is a half type
  int32_t kv_dtype = ALLMREC_F32;

  AttentionCase() {
    static const int32_t kDims[] = {1, 5, 8, 16, 24, 50, 64, 80, 128};
    a.num_sequences = pick(0, 5), a.heads = static_cast<int32_t>(pick(1, 3));
    a.head_dim = kDims[pick(0, 8)];
    a.scale = 1.0f / std::sqrt(static_cast<float>(a.head_dim)) * (coin() ? 1.0f : 6.0f);
    const int kind = static_cast<int>(pick(0, 4));  // causal, full, shared prompt, decode, anything
    const int64_t longest = pick(0, 9) == 0 ? 400 : 70;
    for (int64_t s = 0; s < a.num_sequences; ++s) {
      const int32_t rows = static_cast<int32_t>(kind == 3 ? pick(0, 2) : pick(0, longest));
      int32_t keys = kind == 3 || kind == 4 ? static_cast<int32_t>(pick(0, longest)) : rows;
      const int32_t prompt = static_cast<int32_t>(pick(0, rows));
      for (int32_t i = 0, begin = prompt; i < rows; ++i) {
        int32_t p = 0, from = 0, to = i + 1;
        if (kind == 1 || kind == 3) to = keys;
        if (kind == 2 && i >= prompt) {
          if (pick(0, 5) == 0) begin = i;
          p = prompt, from = begin;
        }
        if (kind == 4) {
          p = static_cast<int32_t>(pick(0, keys)), from = static_cast<int32_t>(pick(p, keys));
          to = static_cast<int32_t>(pick(from, keys));
        }
        prefix.push_back(p), own_begin.push_back(from), own_end.push_back(to);
      }
      kv_start.push_back(static_cast<int32_t>(kv_rows));
      kv_len.push_back(keys);
      pad_count.push_back(static_cast<int32_t>(pick(0, 40)));
      kv_rows += keys + (coin() ? 3 : 0);
      q_offsets.push_back(q_offsets.back() + rows);
    }
    a.tokens = q_offsets.back();
    const int64_t width = int64_t{a.heads} * a.head_dim;
    a.ldq = width + pick(0, 3), a.ldk = 2 * width, a.ldv = width + pick(0, 3), a.ldout = width + pick(0, 3);
    q = randoms(a.tokens * a.ldq), k = randoms(kv_rows * a.ldk), v = randoms(kv_rows * a.ldv);
    pad_k = randoms(width), pad_v = randoms(width);
    if (pick(0, 2) == 0) kv_dtype = coin() ? ALLMREC_F16 : ALLMREC_BF16;
    if (kv_dtype != ALLMREC_F32) half_k = round(k), half_v = round(v);
    a.q = q.data(), a.k = k.data(), a.v = v.data();
    a.q_offsets = q_offsets.data(), a.kv_start = kv_start.data(), a.kv_len = kv_len.data();
    a.prefix = kind == 2 || kind == 4 ? prefix.data() : nullptr;
    a.own_begin = own_begin.data(), a.own_end = own_end.data();
    if (coin()) a.pad_k = pad_k.data(), a.pad_v = pad_v.data(), a.pad_count = pad_count.data();
    if (coin()) a.dropout = {0.3f, 77, 5};
    a.drop_columns = 440 + pick(0, 7);
    b.ld_dout = width + pick(0, 3), b.ld_dq = width + pick(0, 3), b.ld_dk = width + pick(0, 3),
    b.ld_dv = 2 * width;
    d_out = randoms(a.tokens * b.ld_dout);
    b.accumulate = coin();
    dq = randoms(a.tokens * b.ld_dq), dk = randoms(kv_rows * b.ld_dk), dv = randoms(kv_rows * b.ld_dv);
    d_pad_k = randoms(width), d_pad_v = randoms(width);
    context = "attention B " + std::to_string(a.num_sequences) + " T " + std::to_string(a.tokens) + " H " +
              std::to_string(a.heads) + " D " + std::to_string(a.head_dim) + " kind " + std::to_string(kind) +
              (a.pad_k ? " padding" : "") + (a.dropout.p > 0 ? " dropout" : "") +
              (b.accumulate ? " accumulate" : "");
  }

  vector<uint16_t> round(vector<float>& x) const {
    vector<uint16_t> halves;
    for (float& value : x) {
      halves.push_back(to_half(value, kv_dtype == ALLMREC_BF16));
      value = from_half(halves.back(), kv_dtype == ALLMREC_BF16);
    }
    return halves;
  }

  void forward(allmrec_device* device, allmrec_attention_args args) const {
    if (kv_dtype != ALLMREC_F32) args.k = half_k.data(), args.v = half_v.data(), args.kv_dtype = kv_dtype;
    expect_ok(device, backend->attention(device, &args));
  }

  double kept(int64_t element) const {
    if (!(a.dropout.p > 0)) return 1;
    return allmrec::dropout_keeps(a.dropout.p, a.dropout.seed, a.dropout.stream,
                                  static_cast<uint64_t>(element))
               ? allmrec::dropout_scale(a.dropout.p)
               : 0;
  }

  // The padding is laid out as real keys here: pad_count copies, then the sequence's own.
  void reference(vector<double>& out, vector<double>& lse, vector<double>& rq, vector<double>& rk,
                 vector<double>& rv, vector<double>& rpk, vector<double>& rpv) const {
    const int64_t D = a.head_dim;
    for (int64_t s = 0; s < a.num_sequences; ++s) {
      const int64_t pad = a.pad_k ? pad_count[s] : 0, keys = pad + kv_len[s];
      if (!b.accumulate) {
        for (int64_t j = 0; j < kv_len[s]; ++j) {
          std::fill_n(rk.begin() + (kv_start[s] + j) * b.ld_dk, D * a.heads, 0.0);
          std::fill_n(rv.begin() + (kv_start[s] + j) * b.ld_dv, D * a.heads, 0.0);
        }
      }
      for (int64_t t = q_offsets[s]; t < q_offsets[s + 1]; ++t) {
        for (int64_t h = 0; h < a.heads; ++h) {
          vector<double> p(static_cast<size_t>(keys), -INFINITY);
          const auto row_of = [&](int64_t j) { return kv_start[s] + j - pad; };
          const auto key = [&](int64_t j) {
            return j < pad ? a.pad_k + h * D : static_cast<const float*>(a.k) + row_of(j) * a.ldk + h * D;
          };
          const auto value = [&](int64_t j) {
            return j < pad ? a.pad_v + h * D : static_cast<const float*>(a.v) + row_of(j) * a.ldv + h * D;
          };
          double top = -INFINITY, total = 0;
          for (int64_t j = 0; j < keys; ++j) {
            const int64_t i = j - pad;
            if (i >= 0 && !((a.prefix && i < prefix[t]) || (i >= own_begin[t] && i < own_end[t]))) continue;
            double sum = 0;
            for (int64_t d = 0; d < D; ++d) sum += static_cast<double>(q[t * a.ldq + h * D + d]) * key(j)[d];
            p[j] = sum * a.scale;
            top = std::max(top, p[j]);
          }
          for (int64_t d = 0; d < D; ++d) out[t * a.ldout + h * D + d] = 0;
          if (!b.accumulate) std::fill_n(rq.begin() + t * b.ld_dq + h * D, D, 0.0);
          lse[t * a.heads + h] = -INFINITY;
          if (top == -INFINITY) continue;
          for (double& x : p) total += x = std::exp(x - top);
          lse[t * a.heads + h] = top + std::log(total);
          double delta = 0;
          vector<double> dp(p.size());
          for (int64_t j = 0; j < keys; ++j) {
            p[j] /= total;
            const double keep = kept((t * a.heads + h) * a.drop_columns + j);
            for (int64_t d = 0; d < D; ++d) {
              out[t * a.ldout + h * D + d] += p[j] * keep * value(j)[d];
              dp[j] += keep * static_cast<double>(d_out[t * b.ld_dout + h * D + d]) * value(j)[d];
              double& dv_of = j < pad ? rpv[h * D + d] : rv[row_of(j) * b.ld_dv + h * D + d];
              dv_of += p[j] * keep * d_out[t * b.ld_dout + h * D + d];
            }
            delta += p[j] * dp[j];
          }
          for (int64_t j = 0; j < keys; ++j) {
            const double ds = p[j] * (dp[j] - delta) * a.scale;
            for (int64_t d = 0; d < D; ++d) {
              rq[t * b.ld_dq + h * D + d] += ds * key(j)[d];
              double& dk_of = j < pad ? rpk[h * D + d] : rk[row_of(j) * b.ld_dk + h * D + d];
              dk_of += ds * q[t * a.ldq + h * D + d];
            }
          }
        }
      }
    }
  }

  void run(const Devices& devices) {
    const vector<float> poison(static_cast<size_t>(a.tokens * a.ldout), 7.0f);
    if (!b.accumulate) {
      const int64_t width = int64_t{a.heads} * a.head_dim;
      for (int64_t t = 0; t < a.tokens; ++t) std::fill_n(dq.begin() + t * b.ld_dq, width, kNaN);
      for (int64_t s = 0; s < a.num_sequences; ++s) {
        for (int64_t j = kv_start[s]; j < kv_start[s] + kv_len[s]; ++j) {
          std::fill_n(dk.begin() + j * b.ld_dk, width, kNaN);
          std::fill_n(dv.begin() + j * b.ld_dv, width, kNaN);
        }
      }
    }
    vector<double> e_out(poison.begin(), poison.end()), e_lse(static_cast<size_t>(a.tokens * a.heads));
    vector<double> e_dq(dq.begin(), dq.end()), e_dk(dk.begin(), dk.end()), e_dv(dv.begin(), dv.end());
    vector<double> e_pk(d_pad_k.begin(), d_pad_k.end()), e_pv(d_pad_v.begin(), d_pad_v.end());
    reference(e_out, e_lse, e_dq, e_dk, e_dv, e_pk, e_pv);
    const vector<double>* expected[] = {&e_out, &e_lse, &e_dq, &e_dk, &e_dv, &e_pk, &e_pv};
    // In bfloat16 the bits must be as settled as in float32.
    for (const int32_t compute_dtype : {ALLMREC_F32, ALLMREC_BF16}) {
      a.compute_dtype = compute_dtype;
      vector<vector<float>> first;
      for (allmrec_device* device : devices.list) {
        const vector<vector<float>> results = both_ways(device, poison);
        for (int i = 0; i < 7 && !first.empty(); ++i) expect_same(kNames[i], results[i], first[i]);
        if (first.empty()) first = results;
      }
      // Factors rounded to 8 bits: scores of up to some ten are off by ten times 2^-8, and weights by e to
      // that.
      for (int i = 0; i < 7; ++i) {
        const double tolerance = compute_dtype == ALLMREC_BF16 ? 0.05 : i < 2 ? 1e-5 : 5e-5;
        expect_close(kNames[i], first[i], *expected[i], tolerance);
      }
      if (!(a.dropout.p > 0)) run_alone(devices.list.back(), first);
    }
  }

  static constexpr const char* kNames[] = {"out", "lse", "dq", "dk", "dv", "d_pad_k", "d_pad_v"};

  // out, lse, dq, dk, dv, d_pad_k, d_pad_v.
  vector<vector<float>> both_ways(allmrec_device* device, const vector<float>& poison) {
    vector<float> out = poison, lse(static_cast<size_t>(a.tokens * a.heads), kNaN);
    vector<float> gq = dq, gk = dk, gv = dv, gpk = d_pad_k, gpv = d_pad_v;
    a.out = out.data(), a.lse = lse.data();
    forward(device, a);
    b.forward = a, b.d_out = d_out.data(), b.dq = gq.data(), b.dk = gk.data(), b.dv = gv.data();
    b.d_pad_k = gpk.data(), b.d_pad_v = gpv.data();
    expect_ok(device, backend->attention_backward(device, &b));
    return {out, lse, gq, gk, gv, gpk, gpv};
  }

  // A sequence computed by itself has the bits it has beside the others (dropout counts rows through all
  // sequences, so it is left out).
  void run_alone(allmrec_device* device, const vector<vector<float>>& together) {
    vector<float> out = together[0], lse = together[1], gq = dq, gk = dk, gv = dv, gpk = d_pad_k,
                  gpv = d_pad_v;
    const int64_t sequences = a.num_sequences, heads = a.heads;
    for (int64_t s = 0; s < sequences; ++s) {
      const int32_t row = q_offsets[s], offsets[] = {0, q_offsets[s + 1] - row};
      allmrec_attention_backward_args one = b;
      allmrec_attention_args& f = one.forward;
      f = a;
      f.num_sequences = 1, f.tokens = offsets[1], f.q_offsets = offsets;
      f.q = q.data() + row * a.ldq, f.out = out.data() + row * a.ldout, f.lse = lse.data() + row * heads;
      f.kv_start = &kv_start[s], f.kv_len = &kv_len[s], f.pad_count = a.pad_count ? &pad_count[s] : nullptr;
      f.prefix = a.prefix ? a.prefix + row : nullptr;
      f.own_begin = a.own_begin + row, f.own_end = a.own_end + row;
      std::fill_n(lse.begin() + row * heads, f.tokens * heads, kNaN);
      forward(device, f);
      one.d_out = d_out.data() + row * b.ld_dout, one.dq = gq.data() + row * b.ld_dq;
      one.dk = gk.data(), one.dv = gv.data(), one.d_pad_k = gpk.data(), one.d_pad_v = gpv.data();
      expect_ok(device, backend->attention_backward(device, &one));
    }
    expect_same("out alone", out, together[0]), expect_same("lse alone", lse, together[1]);
    expect_same("dq alone", gq, together[2]);
    expect_same("dk alone", gk, together[3]), expect_same("dv alone", gv, together[4]);
  }
};

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 150;
  for (const char* set : {"generic", "avx2", "avx512", "avx512+vnni+bf16"}) {
    const Devices devices(set);
    if (devices.list.empty()) {
      std::printf("%s: not on this processor\n", set);
      continue;
    }
    rng.seed(argc > 2 ? static_cast<unsigned>(std::atoi(argv[2])) : 1);
    for (int i = 0; i < rounds; ++i) {
      gemm_case(devices);
      AttentionCase().run(devices);
    }
  }
  return allmrec::test::report();
}
