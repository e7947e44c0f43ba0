#pragma once

// What an op of the table costs at least: floating-point operations (a multiply-add counts two, an elementary
// function one) and bytes (every input read once, every output written once, an output that is added to also
// read once). Divided by a device's ceilings they give the op's floor; the profile mode of the back ends and
// the benchmark use them.
//
// Only what the host knows is counted. Where sizes live in device arrays the figure is a bound, and says so:
//   attention      every query row is taken to see the longest sequence's keys: twice too many with causal
//                  masks, far too many for batches of very different lengths. `attention_cost` takes the
//                  number of pairs from a caller that knows it.
//   segment_mean   the tokens are not known: the segments alone are counted (a lower bound).
//   spmm           the edges are not known: one a row (a lower bound). `spmm_cost` takes their number.
//   rows           as if no row were named twice; the old values scatter_add reads are left out.
//   embedding      each token's row is read, also where several tokens share one.

#include <algorithm>
#include <string>

#include "backend.h"

namespace allmrec {

struct Cost {
  double flops;
  double bytes;
};

// Which of a device's arithmetic rates bounds an op.
enum class Arithmetic { float32, half, int8 };

// The most a device can do, per second; 0 = not known.
struct Ceilings {
  double float32_flops = 0;
  double half_flops = 0;
  double int8_flops = 0;
  double bytes = 0;
  std::string source;

  double flops(Arithmetic kind) const {
    return kind == Arithmetic::half ? half_flops : kind == Arithmetic::int8 ? int8_flops : float32_flops;
  }
  // Seconds that the arithmetic and the bytes of some work must take at least.
  double arithmetic_floor(const Cost& cost, Arithmetic kind) const {
    return flops(kind) > 0 ? cost.flops / flops(kind) : 0;
  }
  double bytes_floor(const Cost& cost) const { return bytes > 0 ? cost.bytes / bytes : 0; }
  double floor(const Cost& cost, Arithmetic kind) const {
    return std::max(arithmetic_floor(cost, kind), bytes_floor(cost));
  }
};

namespace costs {

inline double number(int64_t x) {
  return static_cast<double>(x);
}

// Bytes of one element; a quantised weight's scales are `scale_bytes`.
inline double element_bytes(int32_t dtype) {
  switch (dtype) {
    case ALLMREC_F16:
    case ALLMREC_BF16:
      return 2;
    case ALLMREC_I8:
      return 1;
    case ALLMREC_I4:
      return 0.5;
    default:
      return 4;
  }
}

// A matrix as it is stored: its quants and their scales.
inline double matrix_bytes(double rows, double cols, int32_t dtype) {
  const double scales = dtype == ALLMREC_I8 ? 4 * rows : dtype == ALLMREC_I4 ? rows * cols / 32 * 2 : 0;
  return rows * cols * element_bytes(dtype) + scales;
}

// Passes over an output: written, and read before where it is added to.
inline double passes(int32_t accumulate) {
  return accumulate ? 2 : 1;
}

}  // namespace costs

inline Cost cost_of(const allmrec_gemm_args& a) {
  using namespace costs;
  const double m = number(a.m), n = number(a.n), k = number(a.k), size = element_bytes(a.c_dtype);
  double bytes = m * k * element_bytes(a.a_dtype);
  bytes += a.trans_b ? matrix_bytes(n, k, a.b_dtype) : matrix_bytes(k, n, a.b_dtype);
  bytes += m * n * size * passes(a.accumulate) + (a.bias ? 4 * n : 0) + (a.residual ? m * n * size : 0);
  return {2 * m * n * k, bytes};
}

inline Cost cost_of(const allmrec_column_sum_args& a) {
  using namespace costs;
  const double n = number(a.rows) * number(a.cols);
  return {n, n * element_bytes(a.dtype) + 4 * number(a.cols) * passes(a.accumulate)};
}

inline Cost cost_of(const allmrec_layer_norm_args& a) {
  using namespace costs;
  const double rows = number(a.rows), cols = number(a.cols);
  const double saved = (a.mean ? 4 * rows : 0) + (a.rstd ? 4 * rows : 0);
  return {8 * rows * cols, 2 * rows * cols * element_bytes(a.dtype) + 8 * cols + saved};
}

inline Cost cost_of(const allmrec_layer_norm_backward_args& a) {
  using namespace costs;
  const double rows = number(a.rows), cols = number(a.cols), size = element_bytes(a.dtype);
  double bytes = 2 * rows * cols * size + 8 * rows + 4 * cols;
  if (a.dx) bytes += rows * cols * size * passes(a.accumulate);
  if (a.d_gamma) bytes += 4 * cols * passes(a.accumulate_params);
  if (a.d_beta) bytes += 4 * cols * passes(a.accumulate_params);
  return {(a.dx ? 10.0 : 0.0) * rows * cols + (a.d_gamma ? 4.0 : 0.0) * rows * cols, bytes};
}

// pairs: how many (query row, key) pairs are seen, for one head. keys: rows of k and v that are read.
inline Cost attention_cost(const allmrec_attention_args& a, double pairs, double keys) {
  using namespace costs;
  const double width = number(a.heads) * number(a.head_dim), size = element_bytes(a.dtype);
  const double tokens = number(a.tokens),
               kv_size = a.kv_dtype == ALLMREC_F32 ? size : element_bytes(a.kv_dtype);
  const double bytes = 2 * width * (tokens * size + keys * kv_size) + (a.lse ? 4 * tokens * a.heads : 0);
  return {4 * pairs * width + 4 * pairs * a.heads, bytes};
}

// Five products instead of two: the scores again, dV, dP, dQ, dK.
inline Cost attention_backward_cost(const allmrec_attention_backward_args& a, double pairs, double keys) {
  using namespace costs;
  const allmrec_attention_args& f = a.forward;
  const double width = number(f.heads) * number(f.head_dim), size = element_bytes(f.dtype);
  const double tokens = number(f.tokens), written = passes(a.accumulate);
  const double bytes = (3 * tokens + 2 * keys + written * (tokens + 2 * keys)) * width * size;
  return {10 * pairs * width + 8 * pairs * f.heads, bytes + 4 * tokens * f.heads};
}

namespace costs {

// The longest sequence's keys, or the mean length of the queries' sequences where nobody says.
inline double longest_keys(const allmrec_attention_args& a) {
  if (a.max_kv_length > 0) return number(a.max_kv_length);
  return number(a.tokens) / std::max(1.0, number(a.num_sequences));
}

}  // namespace costs

inline Cost cost_of(const allmrec_attention_args& a) {
  const double keys = costs::longest_keys(a);
  return attention_cost(a, costs::number(a.tokens) * keys, costs::number(a.num_sequences) * keys);
}

inline Cost cost_of(const allmrec_attention_backward_args& a) {
  const double keys = costs::longest_keys(a.forward);
  return attention_backward_cost(a, costs::number(a.forward.tokens) * keys,
                                 costs::number(a.forward.num_sequences) * keys);
}

inline Cost cost_of(const allmrec_activation_args& a) {
  using namespace costs;
  const double written = a.kind == ALLMREC_ACT_RELU_BITS ? 0.125 : element_bytes(a.dtype);
  return {4 * number(a.n), number(a.n) * (element_bytes(a.dtype) + written)};
}

inline Cost cost_of(const allmrec_activation_backward_args& a) {
  using namespace costs;
  const double size = element_bytes(a.dtype), saved = a.kind == ALLMREC_ACT_RELU_BITS ? 0.125 : size;
  return {6 * number(a.n), number(a.n) * (saved + (1 + passes(a.accumulate)) * size)};
}

inline Cost cost_of(const allmrec_add_args& a) {
  using namespace costs;
  const double n = number(a.n), inputs = a.b ? 2 : 1;
  return {(2 * inputs - 1 + (a.accumulate ? 1 : 0)) * n,
          (inputs + passes(a.accumulate)) * n * element_bytes(a.dtype)};
}

inline Cost cost_of(const allmrec_mul_args& a) {
  using namespace costs;
  return {passes(a.accumulate) * number(a.n), 4 * (2 + passes(a.accumulate)) * number(a.n)};
}

inline Cost cost_of(const allmrec_dropout_args& a) {
  using namespace costs;
  const double n = number(a.n);
  return {2 * n, (1 + (a.residual ? 1 : 0) + passes(a.accumulate)) * n * element_bytes(a.dtype)};
}

inline Cost cost_of(const allmrec_embedding_args& a) {
  using namespace costs;
  const double tokens = number(a.tokens), cols = number(a.cols);
  double bytes = matrix_bytes(tokens, cols, a.table_dtype) + 4 * tokens;
  if (a.positions) bytes += 4 * cols * std::min(tokens, number(a.position_rows)) + 4 * tokens;
  if (a.constant) bytes += 4 * cols;
  return {2 * tokens * cols, bytes + tokens * cols * element_bytes(a.out_dtype)};
}

inline Cost cost_of(const allmrec_embedding_backward_args& a) {
  using namespace costs;
  const double tokens = number(a.tokens), cols = number(a.cols);
  double bytes = tokens * cols * element_bytes(a.dy_dtype) + 4 * tokens, sums = 0;
  const auto target = [&](const float* gradient, double rows) {
    if (!gradient) return;
    bytes += 8 * cols * std::min(tokens, rows);
    sums += tokens * cols;
  };
  target(a.d_table, number(a.table_rows));
  target(a.d_soft, number(a.soft_rows));
  target(a.d_positions, number(a.position_rows));
  target(a.d_constant, 1);
  return {2 * sums, bytes};
}

inline Cost cost_of(const allmrec_rows_args& a) {
  using namespace costs;
  return {0, number(a.count) * (4 + 2 * number(a.cols) * element_bytes(a.dtype))};
}

inline Cost cost_of(const allmrec_segment_mean_args& a) {
  using namespace costs;
  const double n = number(a.segments) * number(a.cols);
  return {n, (1 + passes(a.accumulate)) * n * element_bytes(a.dtype)};
}

inline Cost cost_of(const allmrec_row_dot_args& a) {
  const double n = costs::number(a.rows) * costs::number(a.cols);
  return {2 * n, 8 * n + 4 * costs::number(a.rows)};
}

inline Cost cost_of(const allmrec_row_dot_backward_args& a) {
  using namespace costs;
  const double n = number(a.rows) * number(a.cols);
  double bytes = 4 * number(a.rows), flops = 0;
  if (a.da) bytes += 4 * n * (1 + passes(a.accumulate_a)), flops += 2 * n;
  if (a.db) bytes += 4 * n * (1 + passes(a.accumulate_b)), flops += 2 * n;
  return {flops, bytes};
}

inline Cost cost_of(const allmrec_bce_args& a) {
  const double arrays = 1 + (a.targets ? 1 : 0) + (a.weights ? 1 : 0) + (a.d_logits ? 1 : 0);
  return {10 * costs::number(a.n), 4 * arrays * costs::number(a.n)};
}

inline Cost cost_of(const allmrec_mse_args& a) {
  using namespace costs;
  const double arrays = 2 + (a.da ? passes(a.accumulate_a) : 0) + (a.db ? passes(a.accumulate_b) : 0);
  return {3 * number(a.n), 4 * arrays * number(a.n)};
}

inline Cost cost_of(const allmrec_cross_entropy_args& a) {
  const double n = costs::number(a.rows) * costs::number(a.cols);
  return {(a.d_logits ? 6.0 : 3.0) * n, (a.d_logits ? 8.0 : 4.0) * n + 8 * costs::number(a.rows)};
}

inline Cost cost_of(const allmrec_l2_normalize_args& a) {
  const double n = costs::number(a.rows) * costs::number(a.cols);
  return {3 * n, 8 * n + 4 * costs::number(a.rows)};
}

inline Cost cost_of(const allmrec_l2_normalize_backward_args& a) {
  using namespace costs;
  const double n = number(a.rows) * number(a.cols);
  return {5 * n, 4 * (2 + passes(a.accumulate)) * n + 4 * number(a.rows)};
}

inline Cost cost_of(const allmrec_sum_args& a) {
  return {costs::number(a.n), 4 * costs::number(a.n)};
}

inline Cost cost_of(const allmrec_top_k_args& a) {
  using namespace costs;
  const double n = number(a.rows) * number(a.cols);
  return {n, 4 * n + 8 * number(a.rows) * number(a.k)};
}

inline Cost cost_of(const allmrec_gru_args& a) {
  using namespace costs;
  const double cells = number(a.batch) * number(a.steps) * number(a.hidden), h = number(a.hidden);
  return {cells * (6 * h + 14), 4 * (cells * (4 + (a.saved ? 4 : 0)) + 3 * h * h + number(a.batch) * h)};
}

inline Cost cost_of(const allmrec_gru_backward_args& a) {
  using namespace costs;
  const allmrec_gru_args& f = a.forward;
  const double cells = number(f.batch) * number(f.steps) * number(f.hidden), h = number(f.hidden);
  const double weights = a.d_w_hh ? 2 : 0;
  return {cells * ((a.d_w_hh ? 12 : 6) * h + 24),
          4 * (cells * 9 + (1 + weights) * 3 * h * h + 2 * number(f.batch) * h)};
}

inline Cost cost_of(const allmrec_adam_args& a) {
  double n = 0;
  for (int64_t i = 0; i < a.count; ++i) n += costs::number(a.tensors[i].n);
  return {14 * n, (a.zero_grad ? 32 : 28) * n};
}

inline Cost cost_of(const allmrec_squared_norm_args& a) {
  double n = 0;
  for (int64_t i = 0; i < a.count; ++i) n += costs::number(a.sizes[i]);
  return {2 * n, 4 * n};
}

inline Cost cost_of(const allmrec_random_args& a) {
  return {2 * costs::number(a.n), 4 * costs::number(a.n)};
}

inline Cost cost_of(const allmrec_copy_2d_args& a) {
  using namespace costs;
  const double n = number(a.rows) * number(a.cols);
  return {a.accumulate ? n : 0, (1 + passes(a.accumulate)) * n * element_bytes(a.dtype)};
}

inline Cost cost_of(const allmrec_cast_args& a) {
  using namespace costs;
  return {0, number(a.n) * (element_bytes(a.x_dtype) + element_bytes(a.y_dtype))};
}

inline Cost cost_of(const allmrec_quantize_args& a) {
  using namespace costs;
  const double rows = number(a.rows), cols = number(a.cols);
  return {3 * rows * cols, rows * cols * element_bytes(a.x_dtype) + matrix_bytes(rows, cols, a.dtype)};
}

inline Cost cost_of(const allmrec_advance_args& a) {
  return {0, 8 * costs::number(a.n)};
}

inline Cost cost_of(const allmrec_conv_args& a) {
  using namespace costs;
  const double tokens = number(a.batch) * number(a.steps), in = number(a.c_in), out = number(a.c_out);
  return {2 * tokens * a.taps * in * out, 4 * (tokens * (in + out) + a.taps * in * out + (a.bias ? out : 0))};
}

inline Cost cost_of(const allmrec_conv_backward_args& a) {
  using namespace costs;
  const allmrec_conv_args& f = a.forward;
  const double tokens = number(f.batch) * number(f.steps), in = number(f.c_in), out = number(f.c_out);
  const double products = (a.dx ? 1 : 0) + (a.d_w ? 1 : 0);
  double bytes = tokens * out;
  if (a.dx) bytes += f.taps * in * out + tokens * in * passes(a.accumulate);
  if (a.d_w) bytes += tokens * in + 2 * f.taps * in * out;
  if (a.d_bias) bytes += 2 * out;
  return {products * 2 * tokens * f.taps * in * out, 4 * bytes};
}

// Every edge reads a row of x; a matrix that stays in a cache reads less from memory.
inline Cost spmm_cost(const allmrec_spmm_args& a, double edges) {
  using namespace costs;
  const double rows = number(a.rows), cols = number(a.cols);
  return {2 * edges * cols, edges * (8 + 4 * cols) + 4 * rows * (1 + cols * passes(a.accumulate))};
}

inline Cost cost_of(const allmrec_spmm_args& a) {
  return spmm_cost(a, costs::number(a.rows));
}

inline Cost cost_of(const allmrec_rank_catalogue_args& a) {
  using namespace costs;
  const double rows = number(a.rows), items = number(a.items_count), cols = number(a.cols);
  return {2 * rows * items * cols,
          4 * (rows * cols + items * cols + (a.item_bias ? items : 0)) + 8 * rows * number(a.k)};
}

// The fastest arithmetic the arguments allow a device to use.
template <typename Args>
Arithmetic arithmetic_of(const Args&) {
  return Arithmetic::float32;
}
inline Arithmetic arithmetic_of(const allmrec_gemm_args& a) {
  if (a.b_dtype == ALLMREC_I8 || a.b_dtype == ALLMREC_I4) return Arithmetic::int8;
  return a.a_dtype == ALLMREC_F32 && a.compute_dtype == ALLMREC_F32 ? Arithmetic::float32 : Arithmetic::half;
}
inline Arithmetic arithmetic_of(const allmrec_attention_args& a) {
  return a.dtype == ALLMREC_F32 && a.compute_dtype == ALLMREC_F32 ? Arithmetic::float32 : Arithmetic::half;
}
inline Arithmetic arithmetic_of(const allmrec_attention_backward_args& a) {
  return arithmetic_of(a.forward);
}

}  // namespace allmrec
