// Half activations and quantised weights on the CPU: each op against the same op on float32 copies of the
// same values, bit by bit. A half output must be the float32 one rounded once, and what lies between rows
// must stay.
#include <cmath>
#include <cstring>
#include <deque>
#include <random>

#include "../cpp/backend/device.h"
#include "../cpp/io/float_bits.h"
#include "backend_test.h"

namespace allmrec::test {

namespace {

using std::vector;

uint16_t to_half(int32_t dtype, float x) {
  return dtype == ALLMREC_F16 ? io::half_from_float(x) : io::bfloat16_from_float(x);
}
float from_half(int32_t dtype, uint16_t x) {
  return dtype == ALLMREC_F16 ? io::float_from_half(x) : io::float_from_bfloat16(x);
}

// The buffers of one run: with `half` in that dtype, or holding the same values in float32.
class Buffers {
 public:
  Buffers(int32_t dtype, bool half) : dtype_(dtype), half_(half) {}

  int32_t dtype() const { return half_ ? dtype_ : ALLMREC_F32; }
  // How a product of halves is computed, which the same values in float32 have to ask for.
  int32_t compute_dtype() const { return dtype_ == ALLMREC_BF16 ? ALLMREC_BF16 : ALLMREC_F32; }
  // Activations.
  void* in(int64_t n) { return half_ ? static_cast<void*>(halves(n)) : floats(n, true); }
  void* out(int64_t n) {
    void* p = in(n);
    outputs_.push_back({p, n, true});
    return p;
  }
  // Float32 whatever the activations are.
  float* single(int64_t n) { return floats(n, false); }
  float* single_out(int64_t n) {
    float* p = floats(n, false);
    outputs_.push_back({p, n, false});
    return p;
  }
  // Float32 weights beside half activations, which stand for themselves rounded to their dtype.
  float* weight(int64_t n) { return floats(n, !half_); }
  int32_t* ints(vector<int32_t> values) {
    ints_.push_back(std::move(values));
    return ints_.back().data();
  }

  // What the next op reads is what was stored.
  void round(void* p, int64_t n) const {
    float* x = static_cast<float*>(p);
    for (int64_t i = 0; !half_ && i < n; ++i) x[i] = from_half(dtype_, to_half(dtype_, x[i]));
  }

  static bool same(const Buffers& half, const Buffers& single) {
    for (size_t i = 0; i < half.outputs_.size(); ++i) {
      const Output& a = half.outputs_[i];
      const float* x = static_cast<const float*>(single.outputs_[i].data);
      for (int64_t j = 0; j < a.n; ++j) {
        if (a.activation ? static_cast<const uint16_t*>(a.data)[j] != to_half(half.dtype_, x[j])
                         : std::memcmp(static_cast<const float*>(a.data) + j, x + j, 4) != 0) {
          std::printf("output %zu, element %ld\n", i, static_cast<long>(j));
          return false;
        }
      }
    }
    return true;
  }

 private:
  struct Output {
    const void* data;
    int64_t n;
    bool activation;
  };
  float next() { return std::uniform_real_distribution<float>(-1, 1)(engine_); }
  float* floats(int64_t n, bool rounded) {
    floats_.emplace_back(static_cast<size_t>(n));
    for (float& x : floats_.back()) {
      x = next();
      if (rounded) x = from_half(dtype_, to_half(dtype_, x));
    }
    return floats_.back().data();
  }
  uint16_t* halves(int64_t n) {
    halves_.emplace_back(static_cast<size_t>(n));
    for (uint16_t& x : halves_.back()) x = to_half(dtype_, next());
    return halves_.back().data();
  }

  int32_t dtype_;
  bool half_;
  std::mt19937 engine_{7};
  std::deque<vector<float>> floats_;
  std::deque<vector<uint16_t>> halves_;
  std::deque<vector<int32_t>> ints_;
  vector<Output> outputs_;
};

// Runs `test` on halves and on float32 and compares the outputs.
template <typename Fn>
void compare(const char* what, Fn&& test) {
  for (const int32_t dtype : {ALLMREC_F16, ALLMREC_BF16}) {
    Buffers half(dtype, true), single(dtype, false);
    test(half);
    test(single);
    CHECK_WHAT(Buffers::same(half, single), std::string(what) + ", dtype " + std::to_string(dtype));
  }
}

void gemm_tests(Device& d) {
  for (int variant = 0; variant < 32; ++variant) {
    compare(("gemm " + std::to_string(variant)).c_str(), [&](Buffers& f) {
      const int64_t m = variant & 16 ? 5 : 37, n = 29, k = 41;
      const bool ta = variant & 1, tb = variant & 2, float_b = variant & 4, float_c = variant & 8;
      allmrec_gemm_args g{};
      g.m = m, g.n = n, g.k = k, g.trans_a = ta, g.trans_b = tb;
      g.lda = (ta ? m : k) + 3, g.ldb = (tb ? k : n) + 1, g.ldc = n + 2, g.ld_residual = n + 5;
      g.a = f.in((ta ? k : m) * g.lda), g.a_dtype = f.dtype();
      const int64_t b_size = (tb ? n : k) * g.ldb;
      g.b = float_b ? f.weight(b_size) : f.in(b_size), g.b_dtype = float_b ? ALLMREC_F32 : f.dtype();
      g.c_dtype = float_c ? ALLMREC_F32 : f.dtype();
      g.c = float_c ? f.single_out(m * g.ldc) : f.out(m * g.ldc);
      g.residual = float_c ? f.single(m * g.ld_residual) : f.in(m * g.ld_residual);
      g.bias = f.single(n), g.alpha = 0.5f;
      g.compute_dtype = f.compute_dtype(), g.fixed_order = 1;
      g.activation = variant & 2 ? ALLMREC_ACT_RELU : ALLMREC_ACT_NONE, g.accumulate = variant & 1;
      d.gemm(g);
    });
  }
  compare("gemm, k 0", [&](Buffers& f) {
    allmrec_gemm_args g{};
    g.m = 3, g.n = 4, g.ldc = 4, g.alpha = 1;
    g.a_dtype = g.c_dtype = f.dtype(), g.c = f.out(12), g.bias = f.single(4);
    d.gemm(g);
  });
}

void row_tests(Device& d) {
  compare("column_sum", [&](Buffers& f) {
    d.column_sum({70, 33, f.in(70 * 35), 35, f.single_out(33), 1, f.dtype()});
  });
  for (const int accumulate : {0, 1}) {
    compare("layer_norm", [&](Buffers& f) {
      const int64_t rows = 9, cols = 50;
      const void* x = f.in(rows * cols);
      float *gamma = f.single(cols), *mean = f.single_out(rows), *rstd = f.single_out(rows);
      d.layer_norm({rows, cols, x, gamma, f.single(cols), 1e-5f, f.out(rows * cols), mean, rstd, f.dtype()});
      d.layer_norm_backward({rows, cols, f.in(rows * cols), x, gamma, mean, rstd, f.out(rows * cols),
                             accumulate, f.single_out(cols), f.single_out(cols), accumulate, f.dtype()});
    });
    compare("segment_mean", [&](Buffers& f) {
      const int32_t* offsets = f.ints({2, 5, 5, 9});
      d.segment_mean({3, 17, offsets, f.in(9 * 17), f.out(3 * 17), accumulate, f.dtype()});
      d.segment_mean_backward({3, 17, offsets, f.in(3 * 17), f.out(9 * 17), accumulate, f.dtype()});
    });
    compare("copy_2d", [&](Buffers& f) {
      d.copy_2d({6, 19, f.in(6 * 25), 25, f.out(6 * 21), 21, accumulate, f.dtype()});
    });
  }
  compare("rows", [&](Buffers& f) {
    const int64_t cols = 21, ld = 23;
    d.gather_rows({4, cols, f.ints({5, 0, 5, 2}), f.in(6 * ld), ld, f.out(4 * ld), ld, f.dtype()});
    d.put_rows({4, cols, f.ints({5, -1, 0, 3}), f.in(4 * ld), ld, f.out(6 * ld), ld, f.dtype()});
    d.scatter_add_rows({5, cols, f.ints({5, 0, 5, 2, 5}), f.in(5 * ld), ld, f.out(7 * ld), ld, f.dtype()});
  });
  compare("embedding", [&](Buffers& f) {
    const int64_t tokens = 7, cols = 30;
    const int32_t* ids = f.ints({3, -1, 0, 3, -2, 9, 3});
    const int32_t* positions = f.ints({0, 1, 2, 3, 0, 1, 2});
    allmrec_embedding_args a{};
    a.tokens = tokens, a.cols = cols, a.ids = ids, a.table = f.single(10 * cols), a.table_rows = 10;
    a.soft = f.single(2 * cols), a.soft_rows = 2, a.scale = 2, a.positions = f.single(4 * cols);
    a.position_rows = 4, a.position_ids = positions, a.constant = f.single(cols);
    a.dropout = {0.3f, 5, 6}, a.out = f.out(tokens * cols), a.out_dtype = f.dtype();
    d.embedding(a);
    d.embedding_backward({tokens, cols, ids, positions, f.in(tokens * cols), 2, a.dropout,
                          f.single_out(10 * cols), 10, f.single_out(2 * cols), 2, f.single_out(4 * cols), 4,
                          f.single_out(cols), f.dtype()});
  });
}

void element_tests(Device& d) {
  const int64_t n = 1003;
  for (const int accumulate : {0, 1}) {
    compare("add", [&](Buffers& f) {
      d.add({n, 0.5f, f.in(n), -3, f.in(n), f.out(n), accumulate, f.dtype()});
      d.add({n, 0.5f, f.in(n), 1, nullptr, f.out(n), accumulate, f.dtype()});
      void* y = f.out(n);
      d.add({n, 2, y, 1, y, y, 0, f.dtype()});
    });
    compare("dropout", [&](Buffers& f) {
      d.dropout({n, {0.4f, 1, 2}, f.in(n), f.in(n), f.out(n), accumulate, f.dtype()});
    });
    for (int kind = 0; kind <= ALLMREC_ACT_TANH; ++kind) {
      compare("activation", [&](Buffers& f) {
        d.activation({n, kind, f.in(n), f.out(n), f.dtype()});
        d.activation_backward({n, kind, f.in(n), f.in(n), f.out(n), accumulate, f.dtype()});
      });
    }
  }
}

void attention_tests(Device& d) {
  for (const int accumulate : {0, 1}) {
    compare("attention", [&](Buffers& f) {
      const int64_t width = 2 * 12, tokens = 9, ld = width + 3;
      allmrec_attention_args a{};
      a.num_sequences = 2, a.tokens = tokens, a.heads = 2, a.head_dim = 12, a.scale = 0.3f;
      a.q = f.in(tokens * ld), a.k = f.in(12 * ld), a.v = f.in(12 * ld), a.ldq = a.ldk = a.ldv = ld;
      // Rows 0 and 7 … 8 of k and v belong to no sequence.
      a.q_offsets = f.ints({0, 6, 9}), a.kv_start = f.ints({1, 9}), a.kv_len = f.ints({6, 3});
      a.own_begin = f.ints({0, 0, 0, 0, 0, 0, 0, 0, 0});
      a.own_end = f.ints({1, 2, 3, 4, 5, 6, 1, 2, 3});
      a.pad_k = f.single(width), a.pad_v = f.single(width), a.pad_count = f.ints({2, 0});
      a.dropout = {0.2f, 3, 4}, a.drop_columns = 8;
      a.out = f.out(tokens * ld), a.ldout = ld, a.lse = f.single_out(tokens * 2), a.dtype = f.dtype();
      d.attention(a);
      f.round(a.out, tokens * ld);
      allmrec_attention_backward_args b{};
      b.forward = a, b.d_out = f.in(tokens * ld), b.ld_dout = b.ld_dq = b.ld_dk = b.ld_dv = ld;
      b.dq = f.out(tokens * ld), b.dk = f.out(12 * ld), b.dv = f.out(12 * ld), b.accumulate = accumulate;
      b.d_pad_k = f.single_out(width), b.d_pad_v = f.single_out(width);
      d.attention_backward(b);
    });
  }
}

// Values written as a float, an I8 and an I4 matrix and read back.
struct Quantized {
  Quantized(Device& d, int32_t dtype, int64_t rows, int64_t cols, const vector<float>& x)
      : quants(static_cast<size_t>(rows * cols)), scales(static_cast<size_t>(rows * cols + 1) * 4) {
    d.quantize({rows, cols, x.data(), ALLMREC_F32, dtype, quants.data(), scales.data()});
    for (int64_t i = 0; i < rows * cols; ++i) {
      const int64_t row = i / cols, group = i / 32, j = i % 32;
      if (dtype == ALLMREC_I8) {
        float scale;
        std::memcpy(&scale, &scales[static_cast<size_t>(row) * 4], 4);
        values.push_back(static_cast<float>(static_cast<int8_t>(quants[static_cast<size_t>(i)])) * scale);
        steps.push_back(scale);
      } else {
        uint16_t half;
        std::memcpy(&half, &scales[static_cast<size_t>(group) * 2], 2);
        const float scale = io::float_from_half(half);
        const int byte = quants[static_cast<size_t>(group * 16 + j % 16)];
        values.push_back(static_cast<float>((j < 16 ? byte & 15 : byte >> 4) - 8) * scale);
        steps.push_back(scale);
      }
    }
  }
  vector<unsigned char> quants, scales;
  vector<float> values, steps;
};

void quantized_tests(Device& d) {
  std::mt19937 engine(11);
  std::uniform_real_distribution<float> uniform(-1, 1);
  for (const int32_t dtype : {ALLMREC_I8, ALLMREC_I4}) {
    const int64_t rows = 64, cols = 96;
    vector<float> w(static_cast<size_t>(rows * cols));
    for (float& x : w) x = uniform(engine);
    std::fill_n(w.begin() + 3 * cols, cols, 0.0f);
    const Quantized q(d, dtype, rows, cols, w);
    bool near = true;
    for (size_t i = 0; i < w.size(); ++i) {
      const float step = std::fabs(q.steps[i]);
      // An int4 value of the sign opposite to the largest has one step less to its side.
      near = near && std::fabs(w[i] - q.values[i]) <= step * (dtype == ALLMREC_I8 ? 0.5001f : 1.01f);
    }
    CHECK_WHAT(near, "quantize, dtype " + std::to_string(dtype));
    vector<uint16_t> half(w.size());
    for (size_t i = 0; i < w.size(); ++i) half[i] = io::bfloat16_from_float(w[i]);
    vector<float> wide(w.size());
    for (size_t i = 0; i < w.size(); ++i) wide[i] = io::float_from_bfloat16(half[i]);
    Quantized from_half(d, dtype, rows, cols, wide);
    vector<unsigned char> quants(from_half.quants.size()), scales(from_half.scales.size());
    d.quantize({rows, cols, half.data(), ALLMREC_BF16, dtype, quants.data(), scales.data()});
    CHECK(quants == from_half.quants && scales == from_half.scales);

    for (const int64_t m : {1, 5, 40}) {
      for (const int trans_b : {0, 1}) {
        const int64_t n = trans_b ? rows : cols, k = trans_b ? cols : rows;
        vector<float> a(static_cast<size_t>(m * k)), c(static_cast<size_t>(m * n)), expected(c.size());
        for (float& x : a) x = uniform(engine);
        allmrec_gemm_args g{};
        g.m = m, g.n = n, g.k = k, g.a = a.data(), g.lda = k, g.trans_b = trans_b, g.ldb = cols;
        g.b = q.quants.data(), g.b_scales = q.scales.data(), g.b_dtype = dtype;
        g.c = c.data(), g.ldc = n, g.alpha = 1;
        d.gemm(g);
        g.b = q.values.data(), g.b_dtype = ALLMREC_F32, g.c = expected.data();
        d.gemm(g);
        // Rounding A to 8 bits costs 3.9e-3 of uniform values (see op_quantized_cases.cpp), which scatters by
        // 15 % over the 64 outputs of one row; otherwise sums differ in their order at most.
        const bool rounds = trans_b && d.info().instruction && std::strstr(d.info().instruction, "vnni");
        double error = 0, norm = 0;
        for (size_t i = 0; i < c.size(); ++i) {
          error += std::pow(double{c[i]} - expected[i], 2);
          norm += std::pow(double{expected[i]}, 2);
        }
        CHECK_WHAT(std::sqrt(error / norm) < (rounds ? 6e-3 : 1e-6),
                   "gemm, dtype " + std::to_string(dtype) + ", " + std::to_string(m) + " rows");
      }
    }
    const vector<int32_t> ids = {5, 63, 0, 3};
    vector<float> out(4 * 96), expected;
    for (const int32_t id : ids)
      for (int64_t i = 0; i < cols; ++i) expected.push_back(q.values[static_cast<size_t>(id * cols + i)]);
    allmrec_embedding_args e{};
    e.tokens = 4, e.cols = cols, e.ids = ids.data(), e.table = q.quants.data(), e.table_dtype = dtype;
    e.table_rows = rows, e.table_scales = q.scales.data(), e.scale = 1, e.out = out.data();
    d.embedding(e);
    CHECK_WHAT(out == expected, "embedding, dtype " + std::to_string(dtype));
  }
}

// Every half as float32 and back, every float32 near a tie, and between the two halves.
void cast_tests(Device& d) {
  for (const int32_t dtype : {ALLMREC_F16, ALLMREC_BF16}) {
    vector<uint16_t> halves(1 << 16), back(1 << 16);
    for (size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<uint16_t>(i);
    vector<float> wide(1 << 16);
    d.cast({1 << 16, halves.data(), dtype, wide.data(), ALLMREC_F32});
    d.cast({1 << 16, wide.data(), ALLMREC_F32, back.data(), dtype});
    long wrong = 0;
    for (size_t i = 0; i < halves.size(); ++i) {
      const float x = from_half(dtype, halves[i]);
      if (std::isnan(x) ? !std::isnan(wide[i]) || !std::isnan(from_half(dtype, back[i]))
                        : std::memcmp(&x, &wide[i], 4) != 0 || back[i] != halves[i])
        ++wrong;
    }
    CHECK_WHAT(wrong == 0, "cast there and back, dtype " + std::to_string(dtype));
    vector<float> ties;
    for (uint32_t i = 0; i < (1u << 16); ++i) {
      const uint32_t bits = io::bits_of_float(from_half(dtype, static_cast<uint16_t>(i)));
      if ((bits & 0x7fffffffu) >= 0x7f800000u) continue;
      for (const uint32_t more : {0x0fffu, 0x1000u, 0x1001u, 0x7fffu, 0x8000u, 0x8001u})
        ties.push_back(io::float_from_bits(bits + more));
    }
    vector<uint16_t> rounded(ties.size());
    d.cast({static_cast<int64_t>(ties.size()), ties.data(), ALLMREC_F32, rounded.data(), dtype});
    wrong = 0;
    for (size_t i = 0; i < ties.size(); ++i) wrong += rounded[i] != to_half(dtype, ties[i]);
    CHECK_WHAT(wrong == 0, "cast of ties, dtype " + std::to_string(dtype));
    const int32_t other = dtype == ALLMREC_F16 ? ALLMREC_BF16 : ALLMREC_F16;
    d.cast({1 << 16, halves.data(), dtype, back.data(), other});
    wrong = 0;
    for (size_t i = 0; i < halves.size(); ++i) {
      const float x = from_half(dtype, halves[i]);
      wrong += std::isnan(x) ? !std::isnan(from_half(other, back[i])) : back[i] != to_half(other, x);
    }
    CHECK_WHAT(wrong == 0, "cast between halves, from dtype " + std::to_string(dtype));
  }
}

}  // namespace

void cpu_half_tests() {
  for (const char* instruction : {"generic", "avx2", "avx512", "avx512+vnni+bf16"}) {
    setenv("ALLMREC_ISA", instruction, 1);  // read at open
    std::shared_ptr<Device> device;
    if (!message_of([&] { device = Device::open("cpu", 2); }).empty()) {
      skip(std::string("no ") + instruction);
      continue;
    }
    gemm_tests(*device);
    row_tests(*device);
    element_tests(*device);
    attention_tests(*device);
    quantized_tests(*device);
    cast_tests(*device);
  }
  unsetenv("ALLMREC_ISA");
}

}  // namespace allmrec::test
