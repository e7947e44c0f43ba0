// Cases of attention and its backward that the float32 ones (op_attention_cases.cpp) do not reach: halves on
// the matrix units and on the ordinary ones, several tiles of query rows and keys, tiles nobody sees, wide
// heads, decoding over long keys, hints that are missing or too large.
#include <cmath>

#include "op_fixture.h"
#include "spread.h"

namespace allmrec::test {

namespace {

// kWindow: a row sees its last 40 keys only, so the first tiles of a long cache are seen by nobody. kNothing:
// the first sequence has no keys, and no row of the second sees any.
enum Pattern { kCausal, kFull, kPrompt, kCache, kWindow, kNothing };
enum Hints { kNone, kTrue, kLarge };  // of max_q_length and max_kv_length

struct Shape {
  const char* name;
  int32_t dtype;
  Pattern pattern;
  int64_t heads, head_dim;
  std::vector<int32_t> lengths;
  int32_t cached;
  int64_t gap;  // ld − heads · head_dim
  float p;
  bool padding;
  Hints hints;
};
constexpr int32_t kF32 = ALLMREC_F32, kF16 = ALLMREC_F16, kBf16 = ALLMREC_BF16;
const std::vector<Shape> kShapes = {
    // Matrix units; tiles of 64 × 64 or 64 × 32.
    {"f16, 64 wide, causal, 4 tiles", kF16, kCausal, 2, 64, {200, 0, 1, 67}, 0, 0, 0, false, kNone},
    {"bf16, 64 wide, causal, strided", kBf16, kCausal, 1, 64, {150}, 0, 8, 0, false, kTrue},
    {"f16, 128 wide, causal", kF16, kCausal, 1, 128, {139, 5}, 0, 8, 0, false, kTrue},
    {"bf16, 128 wide, full", kBf16, kFull, 1, 128, {70, 33}, 0, 0, 0, false, kNone},
    {"f16, 80 wide, full", kF16, kFull, 2, 80, {71}, 0, 0, 0, false, kTrue},
    {"f16, 96 wide, causal", kF16, kCausal, 1, 96, {100}, 0, 16, 0, false, kNone},
    {"bf16, 24 wide, candidates", kBf16, kPrompt, 1, 24, {230, 20}, 0, 0, 0, false, kTrue},
    {"f16, 64 wide, candidates", kF16, kPrompt, 1, 64, {260}, 0, 0, 0, false, kNone},
    {"f16, 64 wide, dropout", kF16, kFull, 3, 64, {131, 9}, 0, 0, 0.2f, false, kTrue},
    {"bf16, 80 wide, dropout", kBf16, kCausal, 1, 80, {140}, 0, 8, 0.5f, false, kNone},
    {"f16, 128 wide, few rows, long keys", kF16, kWindow, 1, 128, {9, 6}, 230, 0, 0, false, kNone},
    {"bf16, 64 wide, few rows, dropout", kBf16, kWindow, 1, 64, {17}, 220, 0, 0.3f, false, kNone},
    // Ordinary units.
    {"f16, 50 wide, causal", kF16, kCausal, 1, 50, {100, 20}, 0, 0, 0, false, kNone},
    {"bf16, 7 wide, odd strides, dropout", kBf16, kFull, 3, 7, {67}, 0, 5, 0.2f, false, kTrue},
    {"f16, 64 wide, padding, dropout", kF16, kCausal, 2, 64, {70, 40}, 0, 0, 0.1f, true, kTrue},
    {"bf16, 128 wide, padding", kBf16, kCausal, 1, 128, {75}, 0, 0, 0, true, kNone},
    {"f16, 200 wide, candidates", kF16, kPrompt, 1, 200, {70}, 0, 8, 0, false, kTrue},
    {"f32, 100 wide, candidates, strided", kF32, kPrompt, 2, 100, {140}, 0, 4, 0, false, kNone},
    {"f32, 256 wide, causal, dropout", kF32, kCausal, 1, 256, {50}, 0, 0, 0.2f, true, kTrue},
    {"f32, 50 wide, few rows, long keys", kF32, kWindow, 1, 50, {9}, 230, 0, 0.1f, false, kNone},
    {"f32, 30 wide, nothing but padding", kF32, kNothing, 2, 30, {5, 70, 20}, 0, 0, 0.2f, true, kNone},
    {"bf16, 64 wide, nothing to see", kBf16, kNothing, 1, 64, {5, 70, 20}, 0, 0, 0, false, kTrue},
    {"f32, 70 wide, dropout", kF32, kCausal, 1, 70, {75}, 0, 1, 0.3f, true, kNone},
    // Decoding.
    {"f16, 128 wide, decoding", kF16, kCache, 2, 128, {1, 1, 1}, 300, 0, 0, false, kTrue},
    {"bf16, 64 wide, decoding, several rows", kBf16, kCache, 1, 64, {3, 0, 4}, 400, 0, 0, false, kTrue},
    {"f16, 80 wide, decoding, large hints", kF16, kCache, 1, 80, {1, 2}, 130, 0, 0, false, kLarge},
    {"f16, 50 wide, decoding, odd strides", kF16, kCache, 2, 50, {1, 1}, 170, 3, 0, false, kNone},
    {"f32, 64 wide, decoding, more rows than expected",
     kF32,
     kCache,
     1,
     64,
     {11, 1, 0},
     200,
     0,
     0,
     false,
     kNone},
    {"f32, 200 wide, decoding", kF32, kCache, 1, 200, {1}, 500, 0, 0, false, kTrue},
    {"f32, 20 wide, decoding, a window", kF32, kWindow, 2, 20, {2, 1}, 200, 4, 0, false, kTrue},
    {"bf16, 256 wide, decoding, candidates", kBf16, kPrompt, 1, 256, {4}, 270, 0, 0, false, kTrue},
    {"f16, 64 wide, decoding, one part", kF16, kCache, 2, 64, {1, 3}, 40, 0, 0, false, kTrue},
};

reference::Attention make(const Shape& s) {
  reference::Attention a = {};
  a.sequences = static_cast<int64_t>(s.lengths.size());
  a.heads = s.heads, a.head_dim = s.head_dim;
  a.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(s.head_dim)));
  a.q_offsets = {0};
  int32_t keys = 3;
  for (int32_t length : s.lengths) {
    // With a cache a candidate's prompt lies in it.
    const int32_t prompt = s.cached > 0 ? s.cached - 30 : length / 5;
    a.kv_start.push_back(keys);
    a.kv_len.push_back(s.pattern == kNothing && a.kv_len.empty() ? 0 : length + s.cached);
    a.pad_count.push_back(s.padding ? 50 - length % 50 : 0);
    keys += length + s.cached + 2;
    for (int32_t i = 0; i < length; ++i) {
      const int32_t key = s.cached + i;
      int32_t prefix = 0, begin = 0, end = key + 1;
      if (s.pattern == kFull) end = length + s.cached;
      if (s.pattern == kNothing && a.kv_start.size() < 3) end = 0;
      if (s.pattern == kWindow) begin = std::max(0, key - 39);
      if (s.pattern == kPrompt && key >= prompt) {  // candidates of ten tokens
        prefix = prompt;
        begin = std::max(prompt, prompt + (key - prompt) / 10 * 10);
      }
      if (s.pattern == kPrompt && i == 1) prefix = 0, end = begin;  // a row that sees nothing
      a.prefix.push_back(prefix);
      a.own_begin.push_back(begin);
      a.own_end.push_back(end);
    }
    a.q_offsets.push_back(a.q_offsets.back() + length);
  }
  a.tokens = a.q_offsets.back();
  if (s.pattern != kPrompt) a.prefix.clear();
  a.dropout = {s.p, 99, 0x500000002u};
  a.drop_columns = 311;  // odd: rows begin at every place within a counter
  return a;
}

Values stored(Fixture& f, int32_t dtype, Values x) {
  f.upload_as(dtype, x);  // rounds x
  return x;
}
void* upload(Fixture& f, int32_t dtype, const Values& x, int64_t width, int64_t gap) {
  Values spaced = spread(x, width, gap);
  return f.upload_as(dtype, spaced);
}

int64_t key_rows(const reference::Attention& a) {
  return a.kv_start.back() + a.kv_len.back() + 2;
}
// `of_owned` where a sequence owns the row, `otherwise` in the rows between.
Values by_owner(const reference::Attention& a, const Values& of_owned, const Values& otherwise) {
  const int64_t width = a.heads * a.head_dim;
  Values x = otherwise;
  for (int64_t s = 0; s < a.sequences; ++s) {
    for (int64_t e = a.kv_start[s] * width; e < (a.kv_start[s] + a.kv_len[s]) * width; ++e)
      x[e] = of_owned[e];
  }
  return x;
}

// Inputs of the case, rounded to its dtype, on host and device. Keys and values that no sequence owns are NaN
// on the device.
allmrec_attention_args inputs(Fixture& f, const Shape& s, reference::Attention& a) {
  const int64_t width = a.heads * a.head_dim, ld = width + s.gap, keys = key_rows(a);
  a.q = stored(f, s.dtype, f.uniform(a.tokens * width, -2, 2));
  a.k = stored(f, s.dtype, f.uniform(keys * width, -2, 2));
  a.v = stored(f, s.dtype, f.uniform(keys * width));
  if (s.padding) a.pad_k = f.uniform(width, -2, 2), a.pad_v = f.uniform(width);
  const Values none(a.k.size(), std::nan(""));
  allmrec_attention_args args = {};
  args.num_sequences = a.sequences, args.tokens = a.tokens;
  args.heads = static_cast<int32_t>(a.heads), args.head_dim = static_cast<int32_t>(a.head_dim);
  args.scale = static_cast<float>(a.scale), args.dtype = s.dtype;
  args.q = upload(f, s.dtype, a.q, width, s.gap), args.ldq = ld;
  args.k = upload(f, s.dtype, by_owner(a, a.k, none), width, s.gap), args.ldk = ld;
  args.v = upload(f, s.dtype, by_owner(a, a.v, none), width, s.gap), args.ldv = ld;
  args.q_offsets = f.upload(a.q_offsets), args.kv_start = f.upload(a.kv_start),
  args.kv_len = f.upload(a.kv_len);
  args.prefix = f.upload(a.prefix), args.own_begin = f.upload(a.own_begin),
  args.own_end = f.upload(a.own_end);
  args.pad_k = f.upload(a.pad_k), args.pad_v = f.upload(a.pad_v);
  if (args.pad_k) args.pad_count = f.upload(a.pad_count);
  args.dropout = a.dropout, args.drop_columns = a.drop_columns;
  args.out = f.output_as(s.dtype, a.tokens * ld), args.ldout = ld;
  args.lse = f.output(a.tokens * a.heads);
  for (int64_t i = 0; i < a.sequences && s.hints != kNone; ++i) {
    args.max_q_length = std::max<int64_t>(args.max_q_length, s.lengths[i]);
    args.max_kv_length = std::max<int64_t>(args.max_kv_length, a.kv_len[i]);
  }
  if (s.hints == kLarge) args.max_kv_length = 4096;  // a cache's capacity
  return args;
}

void test_attention(Fixture& f, int variant) {
  const Shape& s = kShapes[variant];
  reference::Attention a = make(s);
  allmrec_attention_args args = inputs(f, s, a);
  const reference::AttentionOutput expected = reference::attention(a);
  f.run(&allmrec_backend::attention, args);
  f.expect_matrix("out", args.out, a.tokens, a.heads * a.head_dim, args.ldout, expected.out, s.dtype);
  // Scores are float32 whatever the storage. What lse is for a row that sees nothing is not said.
  const Values lse = f.download(args.lse, a.tokens * a.heads);
  double difference = 0, norm = 0;
  for (size_t i = 0; i < lse.size(); ++i) {
    if (std::isinf(expected.lse[i])) continue;
    difference += std::pow(lse[i] - expected.lse[i], 2);
    norm += std::pow(expected.lse[i], 2);
  }
  f.expect_true("lse", difference <= norm * 1e-12);
}

void test_attention_backward(Fixture& f, int variant) {
  const Shape& s = kShapes[variant];
  reference::Attention a = make(s);
  const int64_t width = a.heads * a.head_dim, keys = key_rows(a);
  allmrec_attention_backward_args args = {};
  args.forward = inputs(f, s, a);
  f.run(&allmrec_backend::attention, args.forward);
  const Values d_out = stored(f, s.dtype, f.uniform(a.tokens * width));
  const reference::AttentionGradients g = reference::attention_backward(a, d_out);
  const int64_t gap = s.gap % 8 == 0 ? s.gap + 8 : s.gap + 1;  // the gradients' own row distance
  args.d_out = upload(f, s.dtype, d_out, width, s.gap), args.ld_dout = width + s.gap;
  args.ld_dq = args.ld_dk = args.ld_dv = width + gap;
  for (const bool accumulate : {false, true}) {
    // What is there before: overwritten, NaN; added to, gradients of about the size of those that come. Rows
    // of keys that no sequence owns stay as they are.
    const auto before = [&](const Values& gradient) {
      return stored(f, s.dtype, f.uniform(static_cast<int64_t>(gradient.size()), -0.5, 0.5));
    };
    const auto sum = [&](const Values& x, const Values& y) {
      Values z = x;
      for (size_t i = 0; i < z.size() && accumulate; ++i) z[i] += y[i];
      return z;
    };
    const auto start = [&](const Values& x) {
      Values spaced = spread(accumulate ? x : Values(x.size(), std::nan("")), width, gap);
      return f.output_as(s.dtype, spaced);
    };
    const auto expected_keys = [&](const Values& gradient, const Values& x) {
      return by_owner(a, sum(gradient, x), accumulate ? x : Values(x.size(), std::nan("")));
    };
    const Values q_before = before(g.dq), k_before = before(g.dk), pad_before = f.uniform(width);
    args.dq = start(q_before), args.dk = start(k_before), args.dv = start(k_before);
    args.d_pad_k = s.padding ? f.output(pad_before) : nullptr;
    args.d_pad_v = s.padding && !accumulate ? f.output(pad_before) : nullptr;  // each may be missing
    args.accumulate = accumulate;
    f.run(&allmrec_backend::attention_backward, args);
    f.expect_matrix("dq", args.dq, a.tokens, width, args.ld_dq, sum(g.dq, q_before), s.dtype);
    f.expect_matrix("dk", args.dk, keys, width, args.ld_dk, expected_keys(g.dk, k_before), s.dtype);
    f.expect_matrix("dv", args.dv, keys, width, args.ld_dv, expected_keys(g.dv, k_before), s.dtype);
    const auto expect_padding = [&](const char* what, const float* p, Values gradient) {
      for (int64_t i = 0; i < width; ++i) gradient[i] += pad_before[i];
      f.expect(what, p, gradient);
    };
    if (args.d_pad_k) expect_padding("d_pad_k", args.d_pad_k, g.d_pad_k);
    if (args.d_pad_v) expect_padding("d_pad_v", args.d_pad_v, g.d_pad_v);
  }
}

}  // namespace

void half_attention_cases(Cases& cases) {
  for (size_t i = 0; i < kShapes.size(); ++i) {
    const Shape& s = kShapes[i];
    const Tolerance forward = s.dtype == kF32 ? kSum : s.dtype == kF16 ? kHalf : kBfloat16;
    const Tolerance backward = s.dtype == kF32 ? kCancel : s.dtype == kF16 ? kHalf : kBfloat16;
    cases.push_back(
        {"attention", s.name, forward.value, forward.reason, test_attention, static_cast<int>(i)});
    cases.push_back({"attention_backward", s.name, backward.value, backward.reason, test_attention_backward,
                     static_cast<int>(i)});
  }
}

}  // namespace allmrec::test
