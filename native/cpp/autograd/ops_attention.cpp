#include <algorithm>
#include <cmath>

#include "ops.h"

namespace allmrec::ops {

AttentionPlan self_attention_plan(Tape& tape, const std::vector<int32_t>& offsets, bool causal) {
  const size_t sequences = offsets.size() - 1;
  const int32_t tokens = offsets.back();
  std::vector<int32_t> length(sequences), begin(tokens, 0), end(tokens);
  for (size_t s = 0; s < sequences; ++s) {
    length[s] = offsets[s + 1] - offsets[s];
    for (int32_t i = 0; i < length[s]; ++i) end[offsets[s] + i] = causal ? i + 1 : length[s];
  }
  AttentionPlan plan;
  plan.num_sequences = static_cast<int64_t>(sequences);
  plan.tokens = tokens;
  plan.q_offsets = tape.ints(offsets);
  plan.kv_start = tape.ints(offsets.data(), static_cast<int64_t>(sequences));
  plan.kv_len = tape.ints(length);
  plan.own_begin = tape.ints(begin);
  plan.own_end = tape.ints(end);
  for (int32_t n : length) plan.max_q_length = plan.max_kv_length = std::max<int64_t>(plan.max_q_length, n);
  return plan;
}

Tensor attention(Tape& tape, const AttentionInput& in) {
  const int64_t width = static_cast<int64_t>(in.heads) * in.head_dim;
  Tensor y = tape.tensor(in.q.rows, width, in.q.dtype);
  const bool wanted = tape.wants_grad(in.q) || tape.wants_grad(in.kv);
  allmrec_attention_args a{};
  a.num_sequences = in.plan.num_sequences;
  a.tokens = in.plan.tokens;
  a.heads = in.heads;
  a.head_dim = in.head_dim;
  a.scale = in.scale != 0.0f ? in.scale : 1.0f / std::sqrt(static_cast<float>(in.head_dim));
  a.q = in.q.at(0, in.q_column);
  a.ldq = in.q.cols;
  a.k = in.kv.at(0, in.k_column);
  a.ldk = in.kv.cols;
  a.v = in.kv.at(0, in.v_column);
  a.ldv = in.kv.cols;
  a.q_offsets = in.plan.q_offsets.data;
  a.kv_start = in.plan.kv_start.data;
  a.kv_len = in.plan.kv_len.data;
  a.prefix = in.plan.prefix.data;
  a.own_begin = in.plan.own_begin.data;
  a.own_end = in.plan.own_end.data;
  a.pad_k = in.pad_k;
  a.pad_v = in.pad_v;
  a.pad_count = in.pad_count.data;
  a.dropout = tape.dropout(in.dropout_rate);
  a.drop_columns = in.drop_columns;
  a.out = y.data;
  a.ldout = width;
  const Tensor lse = wanted ? tape.tensor(in.q.rows, in.heads) : Tensor{};
  a.lse = lse.f32();
  a.dtype = in.q.dtype;
  a.kv_dtype = in.kv.dtype;
  a.compute_dtype = tape.precision().compute_dtype;
  a.max_q_length = in.plan.max_q_length;
  a.max_kv_length = in.plan.max_kv_length;
  tape.device().attention(a);
  if (!wanted) return y;
  y = tape.variable(y);
  tape.record([&tape, in, a, y, lse] {
    const Tensor dy = tape.take_grad(y);
    if (dy.data == nullptr) return;
    allmrec_attention_backward_args b{};
    b.forward = a;
    b.d_out = dy.data;
    b.ld_dout = y.cols;
    // One flag covers all three gradients, so a target that is new beside one that is not starts from zero.
    // An input without a gradient (keys of a frozen cache) gets a scratch of its own.
    Tensor scratch[2];
    auto target = [&tape, next = &scratch[0]](const Tensor& t) mutable {
      if (t.variable >= 0) return tape.grad_target(t);
      *next = tape.tensor(t.rows, t.cols, t.dtype);
      return Tape::Grad{(next++)->data, 0};
    };
    const bool fused = in.q.data == in.kv.data;
    const Tape::Grad dq = target(in.q);
    const Tape::Grad dkv = fused ? dq : target(in.kv);
    b.accumulate = dq.accumulate | dkv.accumulate;
    if (b.accumulate && !dq.accumulate) tape.clear(in.q, dq.data);
    if (b.accumulate && !dkv.accumulate) tape.clear(in.kv, dkv.data);
    const auto columns = [](const Tensor& like, void* data, int64_t column) {
      Tensor t = like;
      t.data = data;
      return t.at(0, column);
    };
    b.dq = columns(in.q, dq.data, in.q_column);
    b.ld_dq = in.q.cols;
    b.dk = columns(in.kv, dkv.data, in.k_column);
    b.ld_dk = in.kv.cols;
    b.dv = columns(in.kv, dkv.data, in.v_column);
    b.ld_dv = in.kv.cols;
    b.d_pad_k = in.d_pad_k;
    b.d_pad_v = in.d_pad_v;
    tape.device().attention_backward(b);
  });
  return y;
}

}  // namespace allmrec::ops
