// Every op of the table at the sizes of the real work: SASRec (128 sequences of 50 positions, width 50),
// DistilBERT (120 texts of 128 tokens on a card, 16 on a processor), OPT-125m, and OPT-6.7B on cards.

#include <algorithm>
#include <cmath>
#include <numeric>

#include "harness.h"

namespace allmrec::bench {
namespace {

using Ints = std::vector<int32_t>;

// The memory of one call.
class Buffers {
 public:
  explicit Buffers(Bench& bench) : bench_(bench) {}

  void* bytes(int64_t n) {
    owned_.emplace_back(bench_.shared_device(), static_cast<size_t>(std::max<int64_t>(n, 4)));
    return owned_.back().as<void>();
  }
  // Normal numbers; zeros would be an easy life for a card's power limit.
  float* floats(int64_t n, float std = 1.0f) {
    auto* x = static_cast<float*>(bytes(4 * n));
    bench_.device().random({n, ++seed_, 7, 1, 0.0f, std, x});
    return x;
  }
  float* zeros(int64_t n) {
    auto* x = static_cast<float*>(bytes(4 * n));
    bench_.device().fill(x, n, 0.0f);
    return x;
  }
  void* values(int32_t dtype, int64_t n) {
    float* x = floats(n);
    if (dtype == ALLMREC_F32) return x;
    void* y = bytes(2 * n);
    bench_.device().cast({n, x, ALLMREC_F32, y, dtype});
    drop_before_last();
    return y;
  }
  // A weight (rows, cols) of any dtype; scales get the quantised ones' scales.
  void* weight(int32_t dtype, int64_t rows, int64_t cols, const void** scales) {
    *scales = nullptr;
    if (dtype != ALLMREC_I8 && dtype != ALLMREC_I4) return values(dtype, rows * cols);
    void* s = bytes(dtype == ALLMREC_I8 ? 4 * rows : rows * cols / 32 * 2);
    float* x = floats(rows * cols);
    void* quants = bytes(dtype == ALLMREC_I8 ? rows * cols : rows * cols / 2);
    bench_.device().quantize({rows, cols, x, ALLMREC_F32, dtype, quants, s});
    drop_before_last();
    *scales = s;
    return quants;
  }
  int32_t* ints(const Ints& x) {
    auto* y = static_cast<int32_t*>(bytes(4 * static_cast<int64_t>(x.size())));
    bench_.device().upload(y, x.data(), x.size() * 4);
    return y;
  }
  // n indices below `below`, scattered.
  Ints indices(int64_t n, int64_t below) {
    Ints x(static_cast<size_t>(n));
    uint32_t state = 12345u + static_cast<uint32_t>(owned_.size());
    for (int32_t& v : x) {
      state = state * 1664525u + 1013904223u;
      v = static_cast<int32_t>((static_cast<uint64_t>(state) * static_cast<uint64_t>(below)) >> 32);
    }
    return x;
  }

  std::vector<allmrec_adam_tensor> tensors;  // host arrays some arguments point to
  std::vector<const float*> pointers;
  std::vector<int64_t> sizes;

 private:
  void drop_before_last() {
    bench_.device().synchronize();
    owned_.erase(owned_.end() - 2);
  }
  Bench& bench_;
  std::vector<DeviceBuffer> owned_;
  uint64_t seed_ = 0;
};

// Fills in an op's arguments, and corrects its cost where the arguments alone do not tell it.
template <typename Args>
using Make = std::function<void(Buffers&, Args&, Cost&)>;

template <typename Args>
Work work_of(Bench& bench, Arithmetic kind, void (Device::*op)(const Args&), const Make<Args>& make) {
  Work work;
  work.single_op = true;
  int64_t sets = 1;
  for (int64_t i = 0; i < sets; ++i) {
    auto buffers = std::make_shared<Buffers>(bench);
    Args args{};
    Cost correction{-1, -1};
    make(*buffers, args, correction);
    work.cost = correction.bytes >= 0 ? correction : cost_of(args);
    sets = bench.sets(work.cost, kind);
    Device& device = bench.device();
    work.calls.emplace_back([buffers, args, op, &device] { (device.*op)(args); });
  }
  return work;
}

class Suite {
 public:
  explicit Suite(Bench& bench) : bench_(bench) {}

  void dense();
  void attention();
  void rows();
  void losses();
  void sequences();
  void elements();

 private:
  // Sizes of a quick run.
  int64_t tokens(int64_t n) const { return bench_.quick() ? std::min<int64_t>(n, 24) : n; }
  int64_t width(int64_t n) const { return bench_.quick() ? std::min<int64_t>(n, 64) : n; }
  int64_t vocabulary(int64_t n) const { return bench_.quick() ? std::min<int64_t>(n, 200) : n; }
  int64_t texts() const { return bench_.on_cpu() ? 16 : 120; }
  bool cards_only() const { return !bench_.on_cpu(); }

  template <typename Args>
  void add(const char* op, const std::string& name, const std::string& shape, int32_t dtype,
           void (Device::*method)(const Args&), const Make<Args>& make) {
    RowName row;
    row.suite = "ops", row.op = op, row.name = name, row.shape = shape, row.dtype = dtype;
    bench_.row(row, [&] { return work_of<Args>(bench_, arithmetic_of(dtype), method, make); });
  }

  struct Product {
    int64_t m, n, k;
    bool trans_a = false, trans_b = true;
    int32_t dtype = ALLMREC_F32;  // of B
    int32_t activations = -1;     // of A and C; −1 = as B, or half beside quantised weights
    bool bias = false, relu = false, residual = false;
    int32_t compute = ALLMREC_F32;  // BF16: float32 operands may be rounded
  };
  void gemm(const std::string& name, Product p);

  struct Sequences {
    int64_t count, queries, keys;  // keys = queries unless there is a cache
    int32_t heads, dim;
    int32_t dtype = ALLMREC_F32;
    enum { causal, full, cache, candidates } mask = causal;
    int64_t prompt = 0, title = 0;  // candidates: rows of the prompt, and of each title
    float dropout = 0;
    bool backward = false;
    int32_t kv_dtype = ALLMREC_F32;  // a half cache beside float32 queries
    int32_t compute_dtype = ALLMREC_F32;
  };
  void attention_of(const std::string& name, Sequences s);
  void processor_attention();
  double fill_attention(Buffers& b, allmrec_attention_args& a, const Sequences& s);

  Bench& bench_;
};

std::string dims(std::initializer_list<int64_t> sizes) {
  std::string text;
  for (int64_t n : sizes) text += (text.empty() ? "" : "x") + std::to_string(n);
  return text;
}

void Suite::gemm(const std::string& name, Product p) {
  const bool quantised = p.dtype == ALLMREC_I8 || p.dtype == ALLMREC_I4;
  p.m = bench_.quick() ? std::min<int64_t>(p.m, 24) : p.m, p.n = width(p.n), p.k = width(p.k);
  const int32_t a_dtype = p.activations >= 0 ? p.activations : quantised ? ALLMREC_F16 : p.dtype;
  const std::string shape = dims({p.m, p.n, p.k}) + (p.trans_a ? " T" : " N") + (p.trans_b ? "T" : "N");
  const bool rounds = p.compute != ALLMREC_F32 && p.dtype == ALLMREC_F32;
  add<allmrec_gemm_args>(
      "gemm", "gemm " + name + (rounds ? " rounded" : ""), shape, rounds ? p.compute : p.dtype, &Device::gemm,
      [=](Buffers& b, allmrec_gemm_args& g, Cost&) {
        g.compute_dtype = p.compute;
        g.m = p.m, g.n = p.n, g.k = p.k, g.trans_a = p.trans_a, g.trans_b = p.trans_b;
        g.a_dtype = g.c_dtype = a_dtype, g.b_dtype = p.dtype;
        g.lda = p.trans_a ? p.m : p.k, g.ldb = p.trans_b ? p.k : p.n, g.ldc = g.ld_residual = p.n;
        g.a = b.values(a_dtype, p.m * p.k);
        g.b = b.weight(p.dtype, p.trans_b ? p.n : p.k, g.ldb, &g.b_scales);
        g.c = b.bytes(p.m * p.n * 4);
        if (p.bias) g.bias = b.floats(p.n);
        if (p.residual) g.residual = b.values(a_dtype, p.m * p.n);
        g.activation = p.relu ? ALLMREC_ACT_RELU : ALLMREC_ACT_NONE;
        g.alpha = 1;
      });
}

void Suite::dense() {
  const int32_t all[] = {ALLMREC_F32, ALLMREC_F16, ALLMREC_BF16, ALLMREC_I8, ALLMREC_I4};
  const int32_t floating[] = {ALLMREC_F32, ALLMREC_F16, ALLMREC_BF16};
  const auto biased = [](Product p) {
    p.bias = true;
    return p;
  };
  gemm("sasrec projection", biased({6400, 50, 50}));
  gemm("sasrec dX", {6400, 50, 50, false, false});
  gemm("sasrec dW", {50, 50, 6400, true, false});
  gemm("sasrec catalogue", {128, 24000, 50});
  const int64_t encoder_tokens = texts() * 128;
  if (bench_.on_cpu()) {  // float32 parameters, products in bfloat16: an encoder's training
    const auto rounded = [&](Product p) {
      p.compute = ALLMREC_BF16;
      gemm("distilbert", p);
    };
    rounded(biased({encoder_tokens, 3072, 768}));
    rounded({encoder_tokens, 768, 3072, false, false});
    rounded({768, 3072, encoder_tokens, true, false});
  }
  for (int32_t dtype : floating) {
    gemm("distilbert fc1", biased({encoder_tokens, 3072, 768, false, true, dtype}));
    gemm("distilbert dX", {encoder_tokens, 768, 3072, false, false, dtype});
    Product weight_gradient{768, 3072, encoder_tokens, true, false, dtype};
    gemm("distilbert dW", weight_gradient);
  }
  for (int32_t dtype : all) {
    const int32_t half = bench_.on_cpu() ? ALLMREC_F32 : -1;  // a processor widens the weights
    const auto layer = [&](int64_t rows, int64_t out, int64_t in) {
      Product p = biased({rows, out, in, false, true, dtype, dtype == ALLMREC_F32 ? -1 : half});
      p.relu = out > in;
      if (bench_.on_cpu() && dtype == ALLMREC_BF16) p.compute = ALLMREC_BF16;
      return p;
    };
    gemm("opt-125m fc1", layer(512, 3072, 768));
    gemm("opt-125m fc2", layer(512, 768, 3072));
    for (int64_t rows : {1, 8}) gemm("opt-125m fc1", layer(rows, 3072, 768));
    gemm("opt-125m head", {20, 50272, 768, false, true, dtype, half});
    if (!cards_only() || dtype == ALLMREC_F32) continue;
    gemm("opt-6.7b qkv", layer(700, 12288, 4096));
    gemm("opt-6.7b out", layer(700, 4096, 4096));
    gemm("opt-6.7b fc1", layer(700, 16384, 4096));
    gemm("opt-6.7b fc2", layer(700, 4096, 16384));
    gemm("opt-6.7b fc1", layer(3600, 16384, 4096));
    Product back{2000, 4096, 16384, false, false, dtype};
    gemm("opt-6.7b fc1 dX", back);
    gemm("opt-6.7b head", {200, 50272, 4096, false, true, dtype});
    for (int64_t rows : {1, 2, 4, 8, 16, 64, 128}) gemm("opt-6.7b fc1", layer(rows, 16384, 4096));
    gemm("opt-6.7b fc2", layer(1, 4096, 16384));
  }
  if (cards_only())
    for (int32_t dtype : floating) gemm("8192 cubed", {8192, 8192, 8192, false, false, dtype});

  for (int32_t dtype : floating) {
    const int64_t rows = tokens(encoder_tokens), cols = width(3072);
    add<allmrec_column_sum_args>("column_sum", "column_sum distilbert", dims({rows, cols}), dtype,
                                 &Device::column_sum, [=](Buffers& b, allmrec_column_sum_args& a, Cost&) {
                                   a = {rows, cols, b.values(dtype, rows * cols), cols, b.floats(cols),
                                        0,    dtype};
                                 });
  }
}

// Returns the number of (query, key) pairs of one head.
double Suite::fill_attention(Buffers& b, allmrec_attention_args& a, const Sequences& s) {
  const bool shared = s.mask != Sequences::cache;  // q, k and v stand side by side in one matrix
  const int64_t c = int64_t{s.heads} * s.dim, total = s.count * s.queries, keys = s.count * s.keys;
  const int64_t size = s.dtype == ALLMREC_F32 ? 4 : 2;
  Ints offsets{0}, start, length, prefix, begin, end;
  double pairs = 0;
  for (int64_t n = 0; n < s.count; ++n) {
    start.push_back(static_cast<int32_t>(n * s.keys));
    length.push_back(static_cast<int32_t>(s.keys));
    offsets.push_back(static_cast<int32_t>((n + 1) * s.queries));
    for (int64_t i = 0; i < s.queries; ++i) {
      const bool item = s.mask == Sequences::candidates && i >= s.prompt;
      prefix.push_back(static_cast<int32_t>(item ? s.prompt : 0));
      begin.push_back(static_cast<int32_t>(item ? s.prompt + (i - s.prompt) / s.title * s.title : 0));
      const bool whole = s.mask == Sequences::full;
      end.push_back(static_cast<int32_t>(whole ? s.keys : s.keys - s.queries + i + 1));
      pairs += prefix.back() + end.back() - begin.back();
    }
  }
  a.num_sequences = s.count, a.tokens = total, a.heads = s.heads, a.head_dim = s.dim;
  a.scale = 1.0f / std::sqrt(static_cast<float>(s.dim));
  a.dtype = s.dtype, a.max_q_length = s.queries, a.max_kv_length = s.keys;
  const auto at = [size](const void* p, int64_t element) {
    return static_cast<const void*>(static_cast<const char*>(p) + element * size);
  };
  if (shared) {
    a.q = b.values(s.dtype, total * 3 * c);
    a.k = at(a.q, c), a.v = at(a.q, 2 * c);
    a.ldq = a.ldk = a.ldv = 3 * c;
  } else {
    const int32_t kv_dtype = s.kv_dtype == ALLMREC_F32 ? s.dtype : s.kv_dtype;
    a.q = b.values(s.dtype, total * c), a.ldq = c;
    a.k = b.values(kv_dtype, keys * 2 * c);
    a.v = static_cast<const char*>(a.k) + c * (kv_dtype == ALLMREC_F32 ? 4 : 2);
    a.ldk = a.ldv = 2 * c;
    a.kv_dtype = s.kv_dtype;
  }
  a.compute_dtype = s.compute_dtype;
  a.q_offsets = b.ints(offsets), a.kv_start = b.ints(start), a.kv_len = b.ints(length);
  if (s.mask == Sequences::candidates) a.prefix = b.ints(prefix);
  a.own_begin = b.ints(begin), a.own_end = b.ints(end);
  a.dropout = {s.dropout, 1, 2}, a.drop_columns = s.keys;
  a.out = b.bytes(total * c * size), a.ldout = c;
  if (s.mask != Sequences::cache) a.lse = static_cast<float*>(b.bytes(total * s.heads * 4));
  return pairs;
}

void Suite::attention_of(const std::string& name, Sequences s) {
  if (bench_.quick()) {
    s.count = std::min<int64_t>(s.count, 2);
    s.heads = std::min(s.heads, 2);
    s.prompt = std::min<int64_t>(s.prompt, 12), s.title = std::min<int64_t>(s.title, 3);
    s.queries = s.mask == Sequences::candidates ? s.prompt + 2 * s.title : std::min<int64_t>(s.queries, 20);
    s.keys = s.mask == Sequences::cache ? std::min<int64_t>(s.keys, 70) : s.queries;
  }
  const std::string shape = dims({s.count, s.queries}) +
                            (s.mask == Sequences::cache ? " cache " + std::to_string(s.keys) : "") + " H" +
                            std::to_string(s.heads) + " D" + std::to_string(s.dim) +
                            (s.kv_dtype != ALLMREC_F32 ? std::string(" kv ") + dtype_name(s.kv_dtype) : "") +
                            (s.compute_dtype != ALLMREC_F32 ? " computed in bfloat16" : "");
  const double keys = static_cast<double>(s.count * s.keys);
  add<allmrec_attention_args>("attention", "attention " + name, shape, s.dtype, &Device::attention,
                              [=](Buffers& b, allmrec_attention_args& a, Cost& cost) {
                                const double pairs = fill_attention(b, a, s);
                                cost = attention_cost(a, pairs, keys);
                              });
  if (!s.backward) return;
  add<allmrec_attention_backward_args>(
      "attention_backward", "attention " + name + " backward", shape, s.dtype, &Device::attention_backward,
      [=](Buffers& b, allmrec_attention_backward_args& a, Cost& cost) {
        const double pairs = fill_attention(b, a.forward, s);
        const int64_t c = int64_t{s.heads} * s.dim, total = s.count * s.queries;
        const int64_t size = s.dtype == ALLMREC_F32 ? 4 : 2;
        bench_.device().attention(a.forward);  // out and lse are what backward reads
        auto* d = static_cast<char*>(b.bytes(total * 3 * c * size));
        a.d_out = b.values(s.dtype, total * c), a.ld_dout = c;
        a.dq = d, a.dk = d + c * size, a.dv = d + 2 * c * size;
        a.ld_dq = a.ld_dk = a.ld_dv = 3 * c;
        cost = attention_backward_cost(a, pairs, keys);
      });
}

// Half caches beside float32 queries, and float32 products rounded to bfloat16: a card offers neither.
void Suite::processor_attention() {
  for (int32_t heads : {12, 32}) {
    const std::string name = heads == 12 ? "opt-125m" : "opt-1.3b";
    for (int64_t count : {1, 8}) {
      for (int32_t kv_dtype : {ALLMREC_F32, ALLMREC_F16, ALLMREC_BF16}) {
        Sequences decode{count, 1, 512, heads, 64, ALLMREC_F32, Sequences::cache};
        decode.kv_dtype = kv_dtype;
        attention_of(name + " decode", decode);
      }
    }
    Sequences behind{1, 128, 512, heads, 64, ALLMREC_F32, Sequences::cache};
    behind.kv_dtype = ALLMREC_F16;
    attention_of(name + " prefill behind a cache", behind);
  }
  attention_of("opt-125m candidates", {1, 700, 700, 12, 64, ALLMREC_F32, Sequences::candidates, 500, 10});
  for (int32_t compute_dtype : {ALLMREC_F32, ALLMREC_BF16}) {
    const auto long_causal = [&](int64_t tokens, int32_t heads, int32_t dim) {
      Sequences s{1, tokens, tokens, heads, dim};
      s.backward = true, s.compute_dtype = compute_dtype;
      attention_of("causal", s);
    };
    long_causal(512, 12, 64);
    long_causal(2048, 12, 64);
    long_causal(512, 16, 128);
    long_causal(2048, 16, 128);
    Sequences encoder{texts(), 64, 64, 12, 64, ALLMREC_F32, Sequences::full};
    encoder.backward = true, encoder.dropout = 0.1f, encoder.compute_dtype = compute_dtype;
    attention_of("distilbert dropout", encoder);
  }
}

void Suite::attention() {
  Sequences sasrec{128, 50, 50, 1, 50};
  sasrec.backward = true;
  attention_of("sasrec", sasrec);
  sasrec.dropout = 0.2f;
  attention_of("sasrec dropout", sasrec);
  if (bench_.on_cpu()) processor_attention();
  for (int32_t dtype : {ALLMREC_F32, ALLMREC_F16, ALLMREC_BF16}) {
    Sequences encoder{texts(), 128, 128, 12, 64, dtype, Sequences::full};
    encoder.backward = true;
    attention_of("distilbert", encoder);
    Sequences decode{1, 1, 512, 12, 64, dtype, Sequences::cache};
    attention_of("opt-125m decode", decode);
    Sequences prefill{1, 512, 512, 12, 64, dtype};
    attention_of("opt-125m prefill", prefill);
    if (!cards_only() || dtype == ALLMREC_F32) continue;
    attention_of("opt-6.7b prefill", {1, 700, 700, 32, 128, dtype});
    Sequences stage{2, 1000, 1000, 32, 128, dtype};
    stage.backward = true;
    attention_of("opt-6.7b stage 2", stage);
    Sequences scoring{4, 900, 900, 32, 128, dtype, Sequences::candidates, 700, 10};
    attention_of("opt-6.7b candidates", scoring);
    for (int64_t count : {1, 8}) {
      Sequences cached{count, 1, 1024, 32, 128, dtype, Sequences::cache};
      attention_of("opt-6.7b decode", cached);
    }
  }
}

void Suite::rows() {
  const int64_t sasrec = tokens(6400), items = vocabulary(24001), encoder = tokens(texts() * 128);
  struct Shape {
    const char* name;
    int64_t rows, cols;
    int32_t dtype;
  };
  std::vector<Shape> norms{{"sasrec", sasrec, 50, ALLMREC_F32}};
  for (int32_t dtype : {ALLMREC_F32, ALLMREC_F16, ALLMREC_BF16}) {
    norms.push_back({"distilbert", encoder, width(768), dtype});
    if (cards_only() && dtype != ALLMREC_F32) norms.push_back({"opt-6.7b", tokens(3600), width(4096), dtype});
  }
  for (const Shape& s : norms) {
    const int64_t r = s.rows, c = s.cols, n = r * c;
    const int32_t dtype = s.dtype;
    add<allmrec_layer_norm_args>("layer_norm", std::string("layer_norm ") + s.name, dims({r, c}), dtype,
                                 &Device::layer_norm, [=](Buffers& b, allmrec_layer_norm_args& a, Cost&) {
                                   a.rows = r, a.cols = c, a.x = b.values(dtype, n), a.y = b.bytes(4 * n);
                                   a.gamma = b.floats(c), a.beta = b.floats(c), a.eps = 1e-5f,
                                   a.dtype = dtype;
                                   a.mean = b.floats(r), a.rstd = b.floats(r);
                                 });
    for (bool frozen : {false, true}) {
      add<allmrec_layer_norm_backward_args>(
          "layer_norm_backward", std::string("layer_norm backward ") + (frozen ? "frozen " : "") + s.name,
          dims({r, c}), dtype, &Device::layer_norm_backward,
          [=](Buffers& b, allmrec_layer_norm_backward_args& a, Cost&) {
            a.rows = r, a.cols = c, a.dy = b.values(dtype, n), a.x = b.values(dtype, n), a.dtype = dtype;
            a.gamma = b.floats(c), a.mean = b.floats(r), a.rstd = b.floats(r), a.dx = b.bytes(4 * n);
            if (!frozen) a.d_gamma = b.zeros(c), a.d_beta = b.zeros(c), a.accumulate_params = 1;
          });
    }
  }

  add<allmrec_embedding_args>("embedding", "embedding sasrec", dims({sasrec, 50}), ALLMREC_F32,
                              &Device::embedding, [=](Buffers& b, allmrec_embedding_args& a, Cost&) {
                                Ints positions(static_cast<size_t>(sasrec));
                                for (size_t i = 0; i < positions.size(); ++i)
                                  positions[i] = static_cast<int32_t>(i % 50);
                                a.tokens = sasrec, a.cols = 50, a.ids = b.ints(b.indices(sasrec, items));
                                a.table = b.floats(items * 50), a.table_rows = items, a.scale = 7.07f;
                                a.positions = b.floats(50 * 50), a.position_rows = 50;
                                a.position_ids = b.ints(positions), a.dropout = {0.2f, 1, 2};
                                a.out = b.bytes(sasrec * 50 * 4);
                              });
  add<allmrec_embedding_backward_args>(
      "embedding_backward", "embedding backward sasrec", dims({3 * sasrec, 50}), ALLMREC_F32,
      &Device::embedding_backward, [=](Buffers& b, allmrec_embedding_backward_args& a, Cost&) {
        const int64_t n = 3 * sasrec;
        a.tokens = n, a.cols = 50, a.ids = b.ints(b.indices(n, items)), a.dy = b.floats(n * 50);
        a.scale = 7.07f, a.d_table = b.zeros(items * 50), a.table_rows = items;
      });
  if (cards_only()) {
    for (int32_t dtype : {ALLMREC_F16, ALLMREC_I8}) {
      const int64_t t = tokens(3600), c = width(4096), v = vocabulary(50272);
      add<allmrec_embedding_args>("embedding", "embedding opt-6.7b", dims({t, c}), dtype, &Device::embedding,
                                  [=](Buffers& b, allmrec_embedding_args& a, Cost&) {
                                    a.tokens = t, a.cols = c, a.ids = b.ints(b.indices(t, v));
                                    a.table = b.weight(dtype, v, c, &a.table_scales), a.table_dtype = dtype;
                                    a.table_rows = v, a.scale = 1, a.positions = b.floats(2050 * c);
                                    a.position_rows = 2050, a.position_ids = b.ints(b.indices(t, 2050));
                                    a.out = b.bytes(t * c * 2), a.out_dtype = ALLMREC_F16;
                                  });
    }
  }

  const auto moved = [&](const char* op, void (Device::*method)(const allmrec_rows_args&), bool in_order,
                         int64_t count, int64_t cols, int64_t table, int32_t dtype) {
    add<allmrec_rows_args>(op, op, dims({count, cols}), dtype, method,
                           [=](Buffers& b, allmrec_rows_args& a, Cost&) {
                             Ints index = b.indices(count, table);
                             if (in_order) std::iota(index.begin(), index.end(), 0);
                             const bool gather = std::string(op) == "gather_rows";
                             a.count = count, a.cols = a.ldx = a.ldout = cols, a.rows = b.ints(index);
                             a.x = b.values(dtype, (gather ? table : count) * cols);
                             a.out = gather ? b.bytes(count * cols * 4) : b.values(dtype, table * cols);
                             a.dtype = dtype;
                           });
  };
  const int64_t many = tokens(25600), table = vocabulary(30000), c = width(768);
  moved("gather_rows", &Device::gather_rows, false, many, c, table, ALLMREC_F32);
  moved("gather_rows", &Device::gather_rows, false, many, c, table, ALLMREC_F16);
  moved("scatter_add_rows", &Device::scatter_add_rows, false, many, c, table, ALLMREC_F32);
  moved("put_rows", &Device::put_rows, true, many, c, table, ALLMREC_F16);

  const int64_t segments = texts(), length = bench_.quick() ? 5 : 128;
  for (bool backward : {false, true}) {
    const char* op = backward ? "segment_mean_backward" : "segment_mean";
    add<allmrec_segment_mean_args>(
        op, op, dims({segments, length, c}), ALLMREC_F32,
        backward ? &Device::segment_mean_backward : &Device::segment_mean,
        [=](Buffers& b, allmrec_segment_mean_args& a, Cost& cost) {
          Ints offsets;
          for (int64_t i = 0; i <= segments; ++i) offsets.push_back(static_cast<int32_t>(i * length));
          const int64_t small = segments * c, large = small * length;
          a.segments = segments, a.cols = c, a.offsets = b.ints(offsets);
          a.x = b.floats(backward ? small : large);
          a.out = b.bytes(4 * (backward ? large : small));
          cost = {static_cast<double>(large), 4.0 * static_cast<double>(small + large)};
        });
  }
  const int64_t n = sasrec * 50;
  add<allmrec_row_dot_args>("row_dot", "row_dot sasrec", dims({sasrec, 50}), ALLMREC_F32, &Device::row_dot,
                            [=](Buffers& b, allmrec_row_dot_args& a, Cost&) {
                              a = {sasrec, 50, b.floats(n), b.floats(n), 1.0f, b.floats(sasrec)};
                            });
  add<allmrec_row_dot_backward_args>(
      "row_dot_backward", "row_dot backward sasrec", dims({sasrec, 50}), ALLMREC_F32,
      &Device::row_dot_backward, [=](Buffers& b, allmrec_row_dot_backward_args& a, Cost&) {
        a = {sasrec, 50, b.floats(n), b.floats(n), 1.0f, b.floats(sasrec), b.floats(n), 0, b.floats(n), 0};
      });
  const int64_t r = tokens(texts() * 64);
  add<allmrec_l2_normalize_args>("l2_normalize", "l2_normalize", dims({r, c}), ALLMREC_F32,
                                 &Device::l2_normalize, [=](Buffers& b, allmrec_l2_normalize_args& a, Cost&) {
                                   a = {r, c, b.floats(r * c), 1e-12f, b.floats(r * c), b.floats(r)};
                                 });
  add<allmrec_l2_normalize_backward_args>(
      "l2_normalize_backward", "l2_normalize backward", dims({r, c}), ALLMREC_F32,
      &Device::l2_normalize_backward, [=](Buffers& b, allmrec_l2_normalize_backward_args& a, Cost&) {
        float* norm = static_cast<float*>(b.bytes(4 * r));
        bench_.device().fill(norm, r, 27.0f);
        a = {r, c, b.floats(r * c), b.floats(r * c), norm, b.floats(r * c), 0};
      });
}

void Suite::losses() {
  struct Logits {
    const char* name;
    int64_t rows, cols;
  };
  const Logits shapes[] = {{"opt targets", tokens(24), vocabulary(50272)},
                           {"opt candidates", tokens(200), vocabulary(50272)},
                           {"sasrec softmax", tokens(1024), vocabulary(24001)}};
  for (const Logits& s : shapes) {
    const int64_t r = s.rows, v = s.cols;
    for (bool gradient : {false, true}) {
      add<allmrec_cross_entropy_args>(
          "cross_entropy", std::string("cross_entropy ") + (gradient ? "gradient " : "") + s.name,
          dims({r, v}), ALLMREC_F32, &Device::cross_entropy,
          [=](Buffers& b, allmrec_cross_entropy_args& a, Cost&) {
            auto* logits = b.floats(r * v);
            a.rows = r, a.cols = a.ld = a.ld_d = v, a.logits = logits, a.targets = b.ints(b.indices(r, v));
            a.scale = 1e-3f, a.log_prob = b.floats(r), a.loss = b.zeros(1);
            // In place, as the models do; from call to call the numbers shrink, which costs the same.
            if (gradient) a.d_logits = logits;
          });
    }
  }
  const int64_t n = bench_.quick() ? 100 : 12800, large = tokens(texts() * 128) * width(768);
  add<allmrec_bce_args>("bce", "bce sasrec", dims({n}), ALLMREC_F32, &Device::bce,
                        [=](Buffers& b, allmrec_bce_args& a, Cost&) {
                          a = {n, b.floats(n), nullptr, 1.0f, b.floats(n), 1e-3f, b.zeros(1), 1, b.floats(n)};
                        });
  add<allmrec_mse_args>(
      "mse", "mse", dims({large}), ALLMREC_F32, &Device::mse, [=](Buffers& b, allmrec_mse_args& a, Cost&) {
        a = {large, b.floats(large), b.floats(large), 1e-3f, b.zeros(1), 1, b.zeros(large), 0, b.zeros(large),
             0};
      });
  add<allmrec_sum_args>("sum", "sum", dims({large}), ALLMREC_F32, &Device::sum,
                        [=](Buffers& b, allmrec_sum_args& a, Cost&) {
                          a = {large, b.floats(large), 1.0f, b.zeros(1), 0};
                        });
  // DistilBERT's weights: a hundred tensors of all sizes, 66 million numbers.
  const int64_t tensors = bench_.quick() ? 5 : 100;
  const auto size_of = [this](int64_t i) {
    return bench_.quick() ? 37 * (i + 1)
           : i % 2        ? int64_t{768}
           : i == 0       ? int64_t{23440896}
                          : int64_t{873600};
  };
  add<allmrec_adam_args>(
      "adam", "adam distilbert", std::to_string(tensors) + " tensors", ALLMREC_F32, &Device::adam,
      [=](Buffers& b, allmrec_adam_args& a, Cost&) {
        for (int64_t i = 0; i < tensors; ++i) {
          const int64_t s = size_of(i);
          b.tensors.push_back({b.floats(s), b.floats(s, 1e-3f), b.zeros(s), b.zeros(s), s});
        }
        a = {b.tensors.data(), tensors, 1e-4f, 0.9f, 0.98f, 1e-8f, 0.0f, 3, 1.0f, 1};
      });
  add<allmrec_squared_norm_args>("squared_norm", "squared_norm distilbert",
                                 std::to_string(tensors) + " tensors", ALLMREC_F32, &Device::squared_norm,
                                 [=](Buffers& b, allmrec_squared_norm_args& a, Cost&) {
                                   for (int64_t i = 0; i < tensors; ++i) {
                                     b.sizes.push_back(size_of(i));
                                     b.pointers.push_back(b.floats(b.sizes.back()));
                                   }
                                   a = {b.pointers.data(), b.sizes.data(), tensors, b.zeros(1)};
                                 });
}

void Suite::sequences() {
  const int64_t batch = bench_.quick() ? 3 : 128, steps = bench_.quick() ? 5 : 50;
  for (int64_t hidden : {int64_t{64}, width(128)}) {
    const int64_t cells = batch * steps * hidden;
    const auto fill = [=](Buffers& b, allmrec_gru_args& a) {
      a.batch = batch, a.steps = steps, a.hidden = hidden;
      a.gates_x = b.floats(3 * cells), a.w_hh = b.floats(3 * hidden * hidden, 0.05f),
      a.b_hh = b.floats(3 * hidden);
      a.h0 = b.floats(batch * hidden), a.out = b.floats(cells), a.saved = b.floats(4 * cells);
    };
    add<allmrec_gru_args>("gru", "gru", dims({batch, steps, hidden}), ALLMREC_F32, &Device::gru,
                          [=](Buffers& b, allmrec_gru_args& a, Cost&) { fill(b, a); });
    add<allmrec_gru_backward_args>(
        "gru_backward", "gru backward", dims({batch, steps, hidden}), ALLMREC_F32, &Device::gru_backward,
        [=](Buffers& b, allmrec_gru_backward_args& a, Cost&) {
          fill(b, a.forward);
          bench_.device().gru(a.forward);
          a.d_out = b.floats(cells), a.d_gates_x = b.floats(3 * cells), a.d_h0 = b.floats(batch * hidden);
          a.d_w_hh = b.zeros(3 * hidden * hidden), a.d_b_hh = b.zeros(3 * hidden);
        });
  }
  const int64_t c = 64, in = batch * steps * c;
  const auto convolution = [=](Buffers& b, allmrec_conv_args& a) {
    a.batch = batch, a.steps = steps, a.c_in = a.c_out = c, a.taps = 3, a.dilation = 4;
    a.x = b.floats(in), a.w = b.floats(3 * c * c), a.bias = b.floats(c), a.y = b.floats(in);
  };
  add<allmrec_conv_args>("conv", "conv nextitnet", dims({batch, steps, c, c}) + " taps 3", ALLMREC_F32,
                         &Device::conv, [=](Buffers& b, allmrec_conv_args& a, Cost&) { convolution(b, a); });
  add<allmrec_conv_backward_args>("conv_backward", "conv backward nextitnet",
                                  dims({batch, steps, c, c}) + " taps 3", ALLMREC_F32, &Device::conv_backward,
                                  [=](Buffers& b, allmrec_conv_backward_args& a, Cost&) {
                                    convolution(b, a.forward);
                                    a.dy = b.floats(in), a.dx = b.floats(in);
                                    a.d_w = b.zeros(3 * c * c), a.d_bias = b.zeros(c);
                                  });
  const int64_t nodes = bench_.quick() ? 40 : bench_.on_cpu() ? 20000 : 100000, degree = 16;
  add<allmrec_spmm_args>("spmm", "spmm lightgcn", dims({nodes, c}) + " degree 16", ALLMREC_F32, &Device::spmm,
                         [=](Buffers& b, allmrec_spmm_args& a, Cost& cost) {
                           Ints offsets;
                           for (int64_t i = 0; i <= nodes; ++i)
                             offsets.push_back(static_cast<int32_t>(i * degree));
                           a.rows = nodes, a.cols = c, a.offsets = b.ints(offsets);
                           a.columns = b.ints(b.indices(nodes * degree, nodes));
                           a.values = b.floats(nodes * degree), a.x = b.floats(nodes * c),
                           a.out = b.floats(nodes * c);
                           cost = spmm_cost(a, static_cast<double>(nodes * degree));
                         });
  const int64_t users = bench_.quick() ? 5 : 256;
  for (int64_t items : {vocabulary(24000), cards_only() ? vocabulary(1000000) : int64_t{0}}) {
    if (items == 0) continue;
    add<allmrec_rank_catalogue_args>("rank_catalogue", "rank_catalogue", dims({users, items, 50}) + " k 20",
                                     ALLMREC_F32, &Device::rank_catalogue,
                                     [=](Buffers& b, allmrec_rank_catalogue_args& a, Cost&) {
                                       a.rows = users, a.items_count = items, a.cols = 50, a.k = 20;
                                       a.queries = b.floats(users * 50), a.items = b.floats(items * 50);
                                       a.indices = static_cast<int32_t*>(b.bytes(users * 80)),
                                       a.values = static_cast<float*>(b.bytes(users * 80));
                                     });
  }
  struct Ranked {
    int64_t rows, columns;
    int32_t k;
  };
  // A catalogue; and the argmax of decoding.
  for (const Ranked& r :
       {Ranked{users, vocabulary(24000), 20}, {1, vocabulary(50272), 1}, {8, vocabulary(50272), 1}}) {
    add<allmrec_top_k_args>("top_k", "top_k", dims({r.rows, r.columns}) + " k " + std::to_string(r.k),
                            ALLMREC_F32, &Device::top_k, [=](Buffers& b, allmrec_top_k_args& a, Cost&) {
                              a.rows = r.rows, a.cols = a.ld = r.columns, a.k = r.k;
                              a.scores = b.floats(r.rows * r.columns);
                              a.indices = static_cast<int32_t*>(b.bytes(r.rows * r.k * 4));
                              a.values = static_cast<float*>(b.bytes(r.rows * r.k * 4));
                            });
  }
}

void Suite::elements() {
  const int64_t small = tokens(6400) * 50, large = tokens(texts() * 128) * width(3072);
  for (int32_t dtype : {ALLMREC_F32, ALLMREC_F16, ALLMREC_BF16}) {
    add<allmrec_activation_args>(
        "activation", "activation gelu distilbert", dims({large}), dtype, &Device::activation,
        [=](Buffers& b, allmrec_activation_args& a, Cost&) {
          a = {large, ALLMREC_ACT_GELU, b.values(dtype, large), b.bytes(4 * large), dtype};
        });
    add<allmrec_activation_backward_args>(
        "activation_backward", "activation gelu backward distilbert", dims({large}), dtype,
        &Device::activation_backward, [=](Buffers& b, allmrec_activation_backward_args& a, Cost&) {
          a = {large, ALLMREC_ACT_GELU, b.values(dtype, large), b.values(dtype, large), b.bytes(4 * large), 0,
               dtype};
        });
    for (int64_t n : {small, large}) {
      add<allmrec_add_args>(
          "add", "add", dims({n}), dtype, &Device::add, [=](Buffers& b, allmrec_add_args& a, Cost&) {
            a = {n, 1.0f, b.values(dtype, n), 1.0f, b.values(dtype, n), b.bytes(4 * n), 0, dtype};
          });
      add<allmrec_dropout_args>(
          "dropout", "dropout", dims({n}), dtype, &Device::dropout,
          [=](Buffers& b, allmrec_dropout_args& a, Cost&) {
            a = {n, {0.2f, 1, 2}, b.values(dtype, n), b.values(dtype, n), b.bytes(4 * n), 0, dtype};
          });
    }
    add<allmrec_copy_2d_args>("copy_2d", "copy_2d", dims({large / 64, 64}), dtype, &Device::copy_2d,
                              [=](Buffers& b, allmrec_copy_2d_args& a, Cost&) {
                                a = {large / 64, 64,   b.values(dtype, large), 64, b.bytes(4 * large), 64,
                                     0,          dtype};
                              });
  }
  add<allmrec_mul_args>("mul", "mul", dims({large}), ALLMREC_F32, &Device::mul,
                        [=](Buffers& b, allmrec_mul_args& a, Cost&) {
                          a = {large, b.floats(large), b.floats(large), b.floats(large), 0};
                        });
  add<allmrec_random_args>("random", "random normal", dims({large}), ALLMREC_F32, &Device::random,
                           [=](Buffers& b, allmrec_random_args& a, Cost&) {
                             a = {large, 1, 2, 1, 0.0f, 1.0f, static_cast<float*>(b.bytes(4 * large))};
                           });
  for (int32_t dtype : {ALLMREC_F16, ALLMREC_BF16})
    add<allmrec_cast_args>("cast", "cast from float32", dims({large}), dtype, &Device::cast,
                           [=](Buffers& b, allmrec_cast_args& a, Cost&) {
                             a = {large, b.floats(large), ALLMREC_F32, b.bytes(2 * large), dtype};
                           });
  const int64_t rows = width(3072), cols = width(768);
  for (int32_t dtype : {ALLMREC_I8, ALLMREC_I4})
    add<allmrec_quantize_args>("quantize", "quantize", dims({rows, cols}), dtype, &Device::quantize,
                               [=](Buffers& b, allmrec_quantize_args& a, Cost&) {
                                 a = {rows,
                                      cols,
                                      b.floats(rows * cols),
                                      ALLMREC_F32,
                                      dtype,
                                      b.bytes(rows * cols),
                                      b.bytes(4 * rows + rows * cols)};
                               });
  add<allmrec_advance_args>("advance", "advance", "64", ALLMREC_I32, &Device::advance,
                            [=](Buffers& b, allmrec_advance_args& a, Cost&) {
                              a = {64, b.ints(Ints(64, 0)), 1};
                            });
}

}  // namespace

void op_suite(Bench& bench) {
  Suite suite(bench);
  suite.dense();
  suite.attention();
  suite.rows();
  suite.losses();
  suite.sequences();
  suite.elements();
}

}  // namespace allmrec::bench
