#pragma once

#include <initializer_list>
#include <string>

#include "../core/error.h"
#include "backend.h"

// What every entry of an op table checks before a kernel may touch memory: that sizes are not
// negative, that row distances hold a row, that pointers a non-empty call needs are there and that enums have
// a known value. Contents of device arrays (ids, offsets) are the caller's to have right.

namespace allmrec::validation {

class Check {
 public:
  explicit Check(const char* op) : op_(op) {}

  const Check& size(const char* name, int64_t value) const {
    if (value < 0) fail(name, "must not be negative, is " + std::to_string(value));
    return *this;
  }
  const Check& at_least(const char* name, int64_t value, int64_t least) const {
    if (value < least)
      fail(name, "must be at least " + std::to_string(least) + ", is " + std::to_string(value));
    return *this;
  }
  const Check& pointer(const char* name, const void* value, bool needed = true) const {
    if (needed && !value) fail(name, "must not be null");
    return *this;
  }
  const Check& one_of(const char* name, int32_t value, std::initializer_list<int32_t> known) const {
    for (int32_t k : known) {
      if (k == value) return *this;
    }
    fail(name, "has the unknown or unsupported value " + std::to_string(value));
  }
  // Of activations and what they are cast to.
  const Check& storage(const char* name, int32_t dtype) const {
    return one_of(name, dtype, {ALLMREC_F32, ALLMREC_F16, ALLMREC_BF16});
  }
  const Check& weight(const char* name, int32_t dtype) const {
    return one_of(name, dtype, {ALLMREC_F32, ALLMREC_F16, ALLMREC_BF16, ALLMREC_I8, ALLMREC_I4});
  }
  const Check& rule(bool holds, const char* name, const char* what) const {
    if (!holds) fail(name, what);
    return *this;
  }
  const Check& dropout(const allmrec_dropout& d) const {
    if (!(d.p >= 0.0f && d.p <= 1.0f)) fail("dropout.p", "must lie in [0, 1], is " + std::to_string(d.p));
    return *this;
  }

 private:
  [[noreturn]] void fail(const char* name, const std::string& what) const {
    throw Error(ErrorCode::invalid_argument, std::string(op_) + ": " + name + " " + what);
  }
  const char* op_;
};

// Row distances are checked only where a second row exists.
inline int64_t row_distance_needed(int64_t rows, int64_t cols) {
  return rows > 1 ? cols : 0;
}

inline bool is_half(int32_t dtype) {
  return dtype == ALLMREC_F16 || dtype == ALLMREC_BF16;
}

inline bool is_quantized(int32_t dtype) {
  return dtype == ALLMREC_I8 || dtype == ALLMREC_I4;
}

inline void validate(const Check& c, const allmrec_gemm_args& a) {
  const bool any = a.m > 0 && a.n > 0;
  c.size("m", a.m).size("n", a.n).size("k", a.k);
  c.pointer("a", a.a, any && a.k > 0).pointer("b", a.b, any && a.k > 0).pointer("c", a.c, any);
  c.storage("a_dtype", a.a_dtype).weight("b_dtype", a.b_dtype).storage("c_dtype", a.c_dtype);
  c.rule(!is_half(a.a_dtype) || !is_half(a.b_dtype) || a.a_dtype == a.b_dtype, "b_dtype",
         "must not be the other half type than a_dtype");
  c.rule(!is_half(a.c_dtype) || a.c_dtype == a.a_dtype, "c_dtype", "must be float32 or a_dtype");
  c.pointer("b_scales", a.b_scales, any && a.k > 0 && is_quantized(a.b_dtype));
  c.one_of("activation", a.activation, {ALLMREC_ACT_NONE, ALLMREC_ACT_RELU});
  c.one_of("compute_dtype", a.compute_dtype, {ALLMREC_F32, ALLMREC_BF16})
      .one_of("fixed_order", a.fixed_order, {0, 1});
  if (!any) return;
  c.at_least("lda", a.lda, a.trans_a ? row_distance_needed(a.k, a.m) : row_distance_needed(a.m, a.k));
  c.at_least("ldb", a.ldb, a.trans_b ? row_distance_needed(a.n, a.k) : row_distance_needed(a.k, a.n));
  if (is_quantized(a.b_dtype)) {
    c.rule(a.ldb == (a.trans_b ? a.k : a.n), "ldb", "must be the length of a row of quantised weights");
    c.rule(a.b_dtype != ALLMREC_I4 || a.ldb % 32 == 0, "ldb", "must be a multiple of 32 for int4");
  }
  c.at_least("ldc", a.ldc, row_distance_needed(a.m, a.n));
  if (a.residual) c.at_least("ld_residual", a.ld_residual, row_distance_needed(a.m, a.n));
}

inline void validate(const Check& c, const allmrec_column_sum_args& a) {
  c.size("rows", a.rows).size("cols", a.cols).pointer("out", a.out, a.cols > 0);
  c.pointer("x", a.x, a.rows > 0 && a.cols > 0).at_least("ldx", a.ldx, row_distance_needed(a.rows, a.cols));
  c.storage("dtype", a.dtype);
}

inline void validate(const Check& c, const allmrec_layer_norm_args& a) {
  const bool any = a.rows > 0 && a.cols > 0;
  c.size("rows", a.rows).size("cols", a.cols).pointer("x", a.x, any).pointer("y", a.y, any);
  c.pointer("gamma", a.gamma, any).pointer("beta", a.beta, any);
  c.storage("dtype", a.dtype);
}

inline void validate(const Check& c, const allmrec_layer_norm_backward_args& a) {
  const bool any = a.rows > 0 && a.cols > 0;
  c.size("rows", a.rows).size("cols", a.cols).pointer("dy", a.dy, any).pointer("x", a.x, any);
  c.pointer("gamma", a.gamma, any && a.dx).pointer("mean", a.mean, any).pointer("rstd", a.rstd, any);
  c.storage("dtype", a.dtype);
}

inline void validate(const Check& c, const allmrec_attention_args& a) {
  c.size("num_sequences", a.num_sequences).size("tokens", a.tokens).size("heads", a.heads);
  c.size("head_dim", a.head_dim).dropout(a.dropout).storage("dtype", a.dtype);
  c.size("max_q_length", a.max_q_length).size("max_kv_length", a.max_kv_length);
  c.storage("kv_dtype", a.kv_dtype).one_of("compute_dtype", a.compute_dtype, {ALLMREC_F32, ALLMREC_BF16});
  c.rule(a.kv_dtype == ALLMREC_F32 || a.kv_dtype == a.dtype || a.dtype == ALLMREC_F32, "kv_dtype",
         "must be dtype, or a half type beside float32");
  const int64_t width = int64_t{a.heads} * a.head_dim;
  const bool any = a.num_sequences > 0 && a.tokens > 0 && width > 0;
  c.pointer("q", a.q, any).pointer("k", a.k, any).pointer("v", a.v, any).pointer("out", a.out, any);
  c.pointer("q_offsets", a.q_offsets, any).pointer("kv_start", a.kv_start, any);
  c.pointer("kv_len", a.kv_len, any).pointer("own_begin", a.own_begin, any);
  c.pointer("own_end", a.own_end, any);
  c.pointer("pad_v", a.pad_v, any && a.pad_k).pointer("pad_count", a.pad_count, any && a.pad_k);
  if (!any) return;
  c.at_least("ldq", a.ldq, row_distance_needed(a.tokens, width)).at_least("ldk", a.ldk, width);
  c.at_least("ldv", a.ldv, width).at_least("ldout", a.ldout, row_distance_needed(a.tokens, width));
  if (a.dropout.p > 0) c.at_least("drop_columns", a.drop_columns, 1);
}

inline void validate(const Check& c, const allmrec_attention_backward_args& a) {
  const allmrec_attention_args& f = a.forward;
  validate(c, f);
  c.rule(f.kv_dtype == ALLMREC_F32 || f.kv_dtype == f.dtype, "kv_dtype", "must be dtype in the backward");
  const int64_t width = int64_t{f.heads} * f.head_dim;
  const bool any = f.num_sequences > 0 && f.tokens > 0 && width > 0;
  c.pointer("lse", f.lse, any).pointer("d_out", a.d_out, any).pointer("dq", a.dq, any);
  c.pointer("dk", a.dk, any).pointer("dv", a.dv, any);
  if (!any) return;
  c.at_least("ld_dout", a.ld_dout, row_distance_needed(f.tokens, width));
  c.at_least("ld_dq", a.ld_dq, row_distance_needed(f.tokens, width));
  c.at_least("ld_dk", a.ld_dk, width).at_least("ld_dv", a.ld_dv, width);
}

inline void validate(const Check& c, const allmrec_activation_args& a) {
  c.size("n", a.n)
      .pointer("x", a.x, a.n > 0)
      .pointer("y", a.y, a.n > 0)
      .one_of("kind", a.kind, {0, 1, 2, 3, 4, 5, 6, 7});
  c.storage("dtype", a.dtype);
}

inline void validate(const Check& c, const allmrec_activation_backward_args& a) {
  c.size("n", a.n)
      .pointer("dy", a.dy, a.n > 0)
      .pointer("dx", a.dx, a.n > 0)
      .one_of("kind", a.kind, {0, 1, 2, 3, 4, 5, 6, 7});
  c.pointer("saved", a.saved, a.n > 0 && a.kind != ALLMREC_ACT_NONE);
  c.storage("dtype", a.dtype);
}

inline void validate(const Check& c, const allmrec_add_args& a) {
  c.size("n", a.n).pointer("a", a.a, a.n > 0).pointer("y", a.y, a.n > 0);
  c.storage("dtype", a.dtype);
}

inline void validate(const Check& c, const allmrec_mul_args& a) {
  c.size("n", a.n).pointer("a", a.a, a.n > 0).pointer("b", a.b, a.n > 0).pointer("y", a.y, a.n > 0);
}

inline void validate(const Check& c, const allmrec_dropout_args& a) {
  c.size("n", a.n).pointer("x", a.x, a.n > 0).pointer("y", a.y, a.n > 0).dropout(a.dropout);
  c.storage("dtype", a.dtype);
}

inline void validate(const Check& c, const allmrec_embedding_args& a) {
  const bool any = a.tokens > 0 && a.cols > 0;
  c.size("tokens", a.tokens).size("cols", a.cols).size("table_rows", a.table_rows);
  c.size("soft_rows", a.soft_rows).size("position_rows", a.position_rows).dropout(a.dropout);
  c.pointer("ids", a.ids, any).pointer("out", a.out, any);
  c.pointer("table or soft", a.table ? a.table : a.soft, any);
  c.pointer("position_ids", a.position_ids, any && a.positions);
  c.weight("table_dtype", a.table_dtype).storage("out_dtype", a.out_dtype);
  c.pointer("table_scales", a.table_scales, any && a.table && is_quantized(a.table_dtype));
  c.rule(a.table_dtype != ALLMREC_I4 || a.cols % 32 == 0, "cols", "must be a multiple of 32 for int4");
}

inline void validate(const Check& c, const allmrec_embedding_backward_args& a) {
  const bool any = a.tokens > 0 && a.cols > 0;
  c.size("tokens", a.tokens).size("cols", a.cols).size("table_rows", a.table_rows);
  c.size("soft_rows", a.soft_rows).size("position_rows", a.position_rows).dropout(a.dropout);
  c.pointer("ids", a.ids, any && (a.d_table || a.d_soft)).pointer("dy", a.dy, any);
  c.pointer("position_ids", a.position_ids, any && a.d_positions);
  c.storage("dy_dtype", a.dy_dtype);
}

inline void validate(const Check& c, const allmrec_rows_args& a) {
  const bool any = a.count > 0 && a.cols > 0;
  c.size("count", a.count).size("cols", a.cols).size("ldx", a.ldx).size("ldout", a.ldout);
  c.pointer("rows", a.rows, any).pointer("x", a.x, any).pointer("out", a.out, any);
  c.storage("dtype", a.dtype);
}

inline void validate(const Check& c, const allmrec_segment_mean_args& a) {
  const bool any = a.segments > 0 && a.cols > 0;
  c.size("segments", a.segments).size("cols", a.cols).pointer("offsets", a.offsets, any);
  c.pointer("x", a.x, any).pointer("out", a.out, any);
  c.storage("dtype", a.dtype);
}

inline void validate(const Check& c, const allmrec_row_dot_args& a) {
  const bool any = a.rows > 0 && a.cols > 0;
  c.size("rows", a.rows).size("cols", a.cols).pointer("a", a.a, any).pointer("b", a.b, any);
  c.pointer("out", a.out, a.rows > 0);
}

inline void validate(const Check& c, const allmrec_row_dot_backward_args& a) {
  const bool any = a.rows > 0 && a.cols > 0;
  c.size("rows", a.rows).size("cols", a.cols).pointer("g", a.g, any);
  c.pointer("a", a.a, any && a.db).pointer("b", a.b, any && a.da);
}

inline void validate(const Check& c, const allmrec_bce_args& a) {
  c.size("n", a.n).pointer("logits", a.logits, a.n > 0);
}

inline void validate(const Check& c, const allmrec_mse_args& a) {
  c.size("n", a.n).pointer("a", a.a, a.n > 0).pointer("b", a.b, a.n > 0);
}

inline void validate(const Check& c, const allmrec_cross_entropy_args& a) {
  c.size("rows", a.rows).size("cols", a.cols).pointer("targets", a.targets, a.rows > 0);
  c.pointer("logits", a.logits, a.rows > 0 && a.cols > 0);
  c.at_least("ld", a.ld, row_distance_needed(a.rows, a.cols));
  if (a.d_logits) c.at_least("ld_d", a.ld_d, row_distance_needed(a.rows, a.cols));
}

inline void validate(const Check& c, const allmrec_l2_normalize_args& a) {
  const bool any = a.rows > 0 && a.cols > 0;
  c.size("rows", a.rows).size("cols", a.cols).pointer("x", a.x, any).pointer("y", a.y, any);
}

inline void validate(const Check& c, const allmrec_l2_normalize_backward_args& a) {
  const bool any = a.rows > 0 && a.cols > 0;
  c.size("rows", a.rows).size("cols", a.cols).pointer("dy", a.dy, any).pointer("y", a.y, any);
  c.pointer("norm", a.norm, any).pointer("dx", a.dx, any);
}

inline void validate(const Check& c, const allmrec_sum_args& a) {
  c.size("n", a.n).pointer("x", a.x, a.n > 0).pointer("out", a.out);
}

inline void validate(const Check& c, const allmrec_top_k_args& a) {
  const bool any = a.rows > 0 && a.k > 0;
  c.size("rows", a.rows).size("cols", a.cols).size("k", a.k);
  c.pointer("scores", a.scores, any && a.cols > 0).pointer("indices", a.indices, any);
  c.pointer("values", a.values, any).at_least("ld", a.ld, row_distance_needed(a.rows, a.cols));
  c.pointer("exclude_columns", a.exclude_columns, any && a.exclude_offsets);
}

inline void validate(const Check& c, const allmrec_gru_args& a) {
  const bool any = a.batch > 0 && a.steps > 0 && a.hidden > 0;
  c.size("batch", a.batch).size("steps", a.steps).size("hidden", a.hidden);
  c.pointer("gates_x", a.gates_x, any).pointer("w_hh", a.w_hh, any).pointer("out", a.out, any);
}

inline void validate(const Check& c, const allmrec_gru_backward_args& a) {
  validate(c, a.forward);
  const bool any = a.forward.batch > 0 && a.forward.steps > 0 && a.forward.hidden > 0;
  c.pointer("saved", a.forward.saved, any).pointer("d_out", a.d_out, any);
  c.pointer("d_gates_x", a.d_gates_x, any);
}

inline void validate(const Check& c, const allmrec_adam_args& a) {
  c.size("count", a.count).pointer("tensors", a.tensors, a.count > 0).at_least("step", a.step, 1);
  for (int64_t i = 0; i < a.count; ++i) {
    const allmrec_adam_tensor& t = a.tensors[i];
    c.size("tensor.n", t.n).pointer("tensor.param", t.param, t.n > 0).pointer("tensor.grad", t.grad, t.n > 0);
    c.pointer("tensor.m", t.m, t.n > 0).pointer("tensor.v", t.v, t.n > 0);
  }
}

inline void validate(const Check& c, const allmrec_squared_norm_args& a) {
  c.size("count", a.count).pointer("out", a.out).pointer("tensors", a.tensors, a.count > 0);
  c.pointer("sizes", a.sizes, a.count > 0);
  for (int64_t i = 0; i < a.count; ++i) {
    c.size("sizes[i]", a.sizes[i]).pointer("tensors[i]", a.tensors[i], a.sizes[i] > 0);
  }
}

inline void validate(const Check& c, const allmrec_random_args& a) {
  c.size("n", a.n).pointer("x", a.x, a.n > 0);
}

inline void validate(const Check& c, const allmrec_copy_2d_args& a) {
  const bool any = a.rows > 0 && a.cols > 0;
  c.size("rows", a.rows).size("cols", a.cols).pointer("x", a.x, any).pointer("y", a.y, any);
  if (any) c.size("ldx", a.ldx).at_least("ldy", a.ldy, row_distance_needed(a.rows, a.cols));
  c.storage("dtype", a.dtype);
}

inline void validate(const Check& c, const allmrec_cast_args& a) {
  c.size("n", a.n).pointer("x", a.x, a.n > 0).pointer("y", a.y, a.n > 0);
  c.storage("x_dtype", a.x_dtype).storage("y_dtype", a.y_dtype);
}

inline void validate(const Check& c, const allmrec_quantize_args& a) {
  const bool any = a.rows > 0 && a.cols > 0;
  c.size("rows", a.rows).size("cols", a.cols).pointer("x", a.x, any).pointer("quants", a.quants, any);
  c.pointer("scales", a.scales, any).storage("x_dtype", a.x_dtype);
  c.one_of("dtype", a.dtype, {ALLMREC_I8, ALLMREC_I4});
  c.rule(a.dtype != ALLMREC_I4 || a.cols % 32 == 0, "cols", "must be a multiple of 32 for int4");
}

inline void validate(const Check& c, const allmrec_advance_args& a) {
  c.size("n", a.n).pointer("x", a.x, a.n > 0);
}

inline void validate(const Check& c, const allmrec_conv_args& a) {
  const bool any = a.batch > 0 && a.steps > 0 && a.c_out > 0;
  c.size("batch", a.batch).size("steps", a.steps).size("c_in", a.c_in).size("c_out", a.c_out);
  c.size("taps", a.taps).at_least("dilation", a.dilation, 1);
  const bool products = any && a.c_in > 0 && a.taps > 0;
  c.pointer("x", a.x, products).pointer("w", a.w, products).pointer("y", a.y, any);
}

// The forward's output is not looked at, nor x when no weight wants a gradient, nor w when x wants none.
inline void validate(const Check& c, const allmrec_conv_backward_args& a) {
  const allmrec_conv_args& f = a.forward;
  const bool any = f.batch > 0 && f.steps > 0 && f.c_out > 0;
  const bool products = any && f.c_in > 0 && f.taps > 0;
  c.size("batch", f.batch).size("steps", f.steps).size("c_in", f.c_in).size("c_out", f.c_out);
  c.size("taps", f.taps).at_least("dilation", f.dilation, 1).pointer("dy", a.dy, any);
  c.pointer("x", f.x, products && a.d_w).pointer("w", f.w, products && a.dx);
}

// Without edges there may be no columns, values and rows of x.
inline void validate(const Check& c, const allmrec_spmm_args& a) {
  const bool any = a.rows > 0 && a.cols > 0;
  c.size("rows", a.rows).size("cols", a.cols).pointer("offsets", a.offsets, any).pointer("out", a.out, any);
}

inline void validate(const Check& c, const allmrec_rank_catalogue_args& a) {
  const bool any = a.rows > 0 && a.k > 0;
  c.size("rows", a.rows).size("items_count", a.items_count).size("cols", a.cols).size("k", a.k);
  const bool products = any && a.items_count > 0 && a.cols > 0;
  c.pointer("queries", a.queries, products).pointer("items", a.items, products);
  c.pointer("indices", a.indices, any).pointer("values", a.values, any);
  c.pointer("exclude_columns", a.exclude_columns, any && a.exclude_offsets);
}

}  // namespace allmrec::validation
