// Cases of attention and its backward: causal, full, a shared prompt with candidates, a cache, virtual
// padding and dropout.
#include <cmath>

#include "op_fixture.h"
#include "spread.h"

namespace allmrec::test {

namespace {

enum Pattern { kCausal, kFull, kPrompt, kCache };

struct Shape {
  Pattern pattern;
  int64_t heads, head_dim;
  std::vector<int32_t> lengths;
  bool padding;
  float p;
  int64_t gap;  // ld − heads · head_dim
};
const std::vector<Shape> kShapes = {
    {kCausal, 1, 50, {5, 1, 0, 23, 50}, false, 0.0f, 0},
    {kCausal, 1, 50, {6, 30, 1}, true, 0.2f, 0},
    {kFull, 3, 16, {17, 64, 3}, false, 0.1f, 5},
    {kPrompt, 2, 64, {40, 29}, false, 0.0f, 0},
    {kCache, 4, 8, {1, 3}, false, 0.0f, 7},
    {kFull, 2, 7, {9, 33}, true, 0.5f, 1},
    {kCausal, 1, 64, {130}, true, 0.0f, 0},
    {kFull, 2, 4, {0, 0}, false, 0.0f, 0},
};
const std::vector<std::string> kNames = {"causal, an empty sequence", "causal, padding, dropout",
                                         "full, dropout, strided",    "candidates behind a prompt",
                                         "decoding from a cache",     "full, padding, dropout",
                                         "causal, 130 keys, padding", "no tokens"};

reference::Attention make(Fixture& f, const Shape& s) {
  reference::Attention a = {};
  a.sequences = static_cast<int64_t>(s.lengths.size());
  a.heads = s.heads, a.head_dim = s.head_dim, a.scale = 1 / std::sqrt(static_cast<double>(s.head_dim));
  a.scale = static_cast<float>(a.scale);
  const int64_t width = s.heads * s.head_dim;
  a.q_offsets = {0};
  int32_t keys = 3;  // rows before the first key that nobody owns
  for (int32_t length : s.lengths) {
    const int32_t cached = s.pattern == kCache ? 11 : 0;
    const int32_t prompt = length / 3;
    a.kv_start.push_back(keys);
    a.kv_len.push_back(length + cached);
    a.pad_count.push_back(s.padding ? 50 - length % 50 : 0);
    keys += length + cached + 2;
    for (int32_t i = 0; i < length; ++i) {
      int32_t prefix = 0, begin = 0, end = i + 1;
      if (s.pattern == kFull) end = length;
      if (s.pattern == kCache) end = cached + i + 1;
      if (s.pattern == kPrompt && i >= prompt) {  // candidates of four tokens
        prefix = prompt;
        begin = prompt + (i - prompt) / 4 * 4;
      }
      if (s.pattern == kPrompt && i == 1) end = begin;  // a row that sees nothing
      a.prefix.push_back(prefix);
      a.own_begin.push_back(begin);
      a.own_end.push_back(end);
    }
    a.q_offsets.push_back(a.q_offsets.back() + length);
  }
  a.tokens = a.q_offsets.back();
  if (s.pattern != kPrompt) a.prefix.clear();
  a.q = f.uniform(a.tokens * width, -2, 2);
  a.k = f.uniform(keys * width, -2, 2);
  a.v = f.uniform(keys * width);
  if (s.padding) a.pad_k = f.uniform(width, -2, 2), a.pad_v = f.uniform(width);
  a.dropout = {s.p, 99, 0x500000002u};
  a.drop_columns = 200;
  return a;
}

allmrec_attention_args device_args(Fixture& f, const reference::Attention& a, int64_t gap) {
  const int64_t width = a.heads * a.head_dim, ld = width + gap;
  allmrec_attention_args args = {};
  args.num_sequences = a.sequences, args.tokens = a.tokens;
  args.heads = static_cast<int32_t>(a.heads), args.head_dim = static_cast<int32_t>(a.head_dim);
  args.scale = static_cast<float>(a.scale);
  args.q = f.upload(spread(a.q, width, gap)), args.ldq = ld;
  args.k = f.upload(spread(a.k, width, gap)), args.ldk = ld;
  args.v = f.upload(spread(a.v, width, gap)), args.ldv = ld;
  args.q_offsets = f.upload(a.q_offsets), args.kv_start = f.upload(a.kv_start),
  args.kv_len = f.upload(a.kv_len);
  args.prefix = f.upload(a.prefix), args.own_begin = f.upload(a.own_begin),
  args.own_end = f.upload(a.own_end);
  args.pad_k = f.upload(a.pad_k), args.pad_v = f.upload(a.pad_v);
  if (args.pad_k) args.pad_count = f.upload(a.pad_count);
  args.dropout = a.dropout, args.drop_columns = a.drop_columns;
  args.out = f.output(a.tokens * ld), args.ldout = ld;
  args.lse = f.output(a.tokens * a.heads);
  return args;
}

void test_attention(Fixture& f, int variant) {
  const Shape& s = kShapes[variant];
  const reference::Attention a = make(f, s);
  const int64_t width = a.heads * a.head_dim;
  const reference::AttentionOutput expected = reference::attention(a);
  allmrec_attention_args args = device_args(f, a, s.gap);
  f.run(&allmrec_backend::attention, args);
  f.expect_matrix("out", args.out, a.tokens, width, args.ldout, expected.out);
  // What lse is for a row that sees nothing is not said: compared elsewhere only.
  const Values lse = f.download(args.lse, a.tokens * a.heads);
  double difference = 0, norm = 0;
  for (size_t i = 0; i < lse.size(); ++i) {
    if (std::isinf(expected.lse[i])) continue;
    difference += std::pow(lse[i] - expected.lse[i], 2);
    norm += std::pow(expected.lse[i], 2);
  }
  f.expect_true("lse", difference <= norm * 1e-12);
  args.out = f.output(a.tokens * args.ldout);
  args.lse = nullptr;
  f.run(&allmrec_backend::attention, args);
  f.expect_matrix("out without lse", args.out, a.tokens, width, args.ldout, expected.out);
}

void test_attention_backward(Fixture& f, int variant) {
  const Shape& s = kShapes[variant];
  const reference::Attention a = make(f, s);
  const int64_t width = a.heads * a.head_dim, keys = static_cast<int64_t>(a.k.size()) / width;
  allmrec_attention_backward_args args = {};
  args.forward = device_args(f, a, s.gap);
  f.run(&allmrec_backend::attention, args.forward);
  const Values d_out = f.uniform(a.tokens * width);
  const reference::AttentionGradients g = reference::attention_backward(a, d_out);
  const Values pad_before = f.uniform(width);
  args.d_out = f.upload(spread(d_out, width, s.gap)), args.ld_dout = width + s.gap;
  const int64_t ld = width + 2 * s.gap;  // their own row distance
  args.ld_dq = args.ld_dk = args.ld_dv = ld;
  for (const bool accumulate : {false, true}) {
    // Rows of k and v that no sequence owns need not be written when overwriting: zeros are expected of the
    // others.
    const Values q_before = accumulate ? f.uniform(a.tokens * width) : Values(a.tokens * width);
    const Values k_before = accumulate ? f.uniform(keys * width) : Values(keys * width);
    const auto sum = [](const Values& x, const Values& y) {
      Values z = x;
      for (size_t i = 0; i < z.size(); ++i) z[i] += y[i];
      return z;
    };
    args.dq = accumulate ? f.output(spread(q_before, width, ld - width)) : f.output(a.tokens * ld);
    args.dk = f.output(spread(k_before, width, ld - width));
    args.dv = f.output(spread(k_before, width, ld - width));
    if (!accumulate) {  // owned rows hold NaN before
      Values poisoned = k_before;
      for (int64_t i = 0; i < a.sequences; ++i) {
        for (int64_t e = a.kv_start[i] * width; e < (a.kv_start[i] + a.kv_len[i]) * width; ++e)
          poisoned[e] = std::nan("");
      }
      args.dk = f.output(spread(poisoned, width, ld - width));
      args.dv = f.output(spread(poisoned, width, ld - width));
    }
    args.d_pad_k = s.padding ? f.output(pad_before) : nullptr;
    args.d_pad_v = s.padding ? f.output(pad_before) : nullptr;
    args.accumulate = accumulate;
    f.run(&allmrec_backend::attention_backward, args);
    f.expect_matrix("dq", args.dq, a.tokens, width, ld, sum(g.dq, q_before));
    f.expect_matrix("dk", args.dk, keys, width, ld, sum(g.dk, k_before));
    f.expect_matrix("dv", args.dv, keys, width, ld, sum(g.dv, k_before));
    if (s.padding) {
      f.expect("d_pad_k", args.d_pad_k, sum(g.d_pad_k, pad_before));
      f.expect("d_pad_v", args.d_pad_v, sum(g.d_pad_v, pad_before));
    }
  }
}

}  // namespace

void attention_cases(Cases& cases) {
  add_cases(cases, "attention", kSum, test_attention, kNames);
  add_cases(cases, "attention_backward", kCancel, test_attention_backward, kNames);
}

}  // namespace allmrec::test
