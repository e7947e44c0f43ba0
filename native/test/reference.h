#pragma once

// The specification of every op in float64: plain loops, one per formula of backend.h, no idea of speed.
// Gradients are written out and checked against central differences of the forwards in gradient_test.cpp.

#include <cstdint>
#include <vector>

#include "../cpp/backend/backend.h"

namespace allmrec::reference {

using Values = std::vector<double>;
using Ints = std::vector<int32_t>;

struct Gemm {
  int64_t m, n, k;
  Values a;
  int64_t lda;
  bool trans_a;
  Values b;
  int64_t ldb;
  bool trans_b;
  double alpha = 1;
  Values bias, residual;  // empty: none; residual (m, n)
  int32_t activation = ALLMREC_ACT_NONE;
};
Values gemm(const Gemm& g);  // (m, n)

Values column_sum(int64_t rows, int64_t cols, const Values& x, int64_t ldx);

struct LayerNorm {
  Values y, mean, rstd;
};
LayerNorm layer_norm(int64_t rows, int64_t cols, const Values& x, const Values& gamma, const Values& beta,
                     double eps);
struct LayerNormGradients {
  Values dx, d_gamma, d_beta;
};
LayerNormGradients layer_norm_backward(int64_t rows, int64_t cols, const Values& dy, const Values& x,
                                       const Values& gamma, double eps);

// Rows of q, k, v are heads · head_dim wide, without gaps.
struct Attention {
  int64_t sequences, tokens, heads, head_dim;
  double scale;
  Values q, k, v;
  Ints q_offsets, kv_start, kv_len, prefix, own_begin, own_end;  // prefix may be empty
  Values pad_k, pad_v;                                           // empty: no virtual padding
  Ints pad_count;
  allmrec_dropout dropout = {};
  int64_t drop_columns = 0;
};
struct AttentionOutput {
  Values out, lse;  // lse is −infinity for a row that sees nothing
};
AttentionOutput attention(const Attention& a);
struct AttentionGradients {
  Values dq, dk, dv, d_pad_k, d_pad_v;
};
AttentionGradients attention_backward(const Attention& a, const Values& d_out);

Values activation(int32_t kind, const Values& x);
Values activation_backward(int32_t kind, const Values& dy, const Values& x);  // from the input for every kind

Values dropout_factors(const allmrec_dropout& dropout, int64_t n);  // 0 or 1 / (1 − p)

struct Embedding {
  int64_t tokens, cols;
  Ints ids;
  Values table, soft;
  double scale = 1;
  Values positions;  // empty: none
  Ints position_ids;
  Values constant;  // empty: none
  allmrec_dropout dropout = {};
};
Values embedding(const Embedding& e);
struct EmbeddingGradients {
  Values d_table, d_soft, d_positions, d_constant;
};
EmbeddingGradients embedding_backward(const Embedding& e, const Values& dy);

Values gather_rows(int64_t cols, const Ints& rows, const Values& x, int64_t ldx);
void scatter_add_rows(int64_t cols, const Ints& rows, const Values& x, int64_t ldx, Values& out,
                      int64_t ldout);
Values segment_mean(int64_t cols, const Ints& offsets, const Values& x);
Values segment_mean_backward(int64_t cols, const Ints& offsets, const Values& dy, int64_t tokens);
Values row_dot(int64_t rows, int64_t cols, const Values& a, const Values& b, double scale);

struct Loss {
  double loss;
  Values gradient;
};
// targets or weights empty: `target`, ones.
Loss bce(const Values& logits, const Values& targets, double target, const Values& weights, double scale);
Loss mse(const Values& a, const Values& b, double scale);  // gradient to a

struct CrossEntropy {
  double loss;
  Values log_prob, d_logits;  // d_logits (rows, cols)
};
CrossEntropy cross_entropy(int64_t rows, int64_t cols, const Values& logits, int64_t ld, const Ints& targets,
                           double scale);

struct Normalized {
  Values y, norm;
};
Normalized l2_normalize(int64_t rows, int64_t cols, const Values& x, double eps);
Values l2_normalize_backward(int64_t rows, int64_t cols, const Values& dy, const Values& y,
                             const Values& norm);

struct TopK {
  Ints indices;
  Values values;
};
TopK top_k(int64_t rows, int64_t cols, const Values& scores, int64_t ld, const Ints& exclude_offsets,
           const Ints& exclude_columns, int32_t k);

struct Gru {
  int64_t batch, steps, hidden;
  Values gates_x, w_hh, b_hh, h0;  // b_hh empty: none
};
struct GruOutput {
  Values out, saved;
};
GruOutput gru(const Gru& g);
struct GruGradients {
  Values d_gates_x, d_h0, d_w_hh, d_b_hh;
};
GruGradients gru_backward(const Gru& g, const Values& d_out, const Values& d_hn);

struct Adam {
  double lr, beta1, beta2, eps, weight_decay, grad_scale;
  int64_t step;
};
void adam(const Adam& options, Values& param, const Values& grad, Values& m, Values& v);

Values random(int64_t n, uint64_t seed, uint64_t stream, bool normal, double a, double b);

double half_value(uint16_t bits);
double bfloat16_value(uint16_t bits);

}  // namespace allmrec::reference
