#pragma once

#include <string>
#include <vector>

#include "tape.h"

// The differentiable ops models are written with. Shapes: T tokens or rows, C width. Each allocates its
// output in the tape's arena and records its backward when an input wants a gradient.
namespace allmrec::ops {

// The dtype of an output is that of the first input, unless another is asked for.
constexpr int32_t kSameDtype = -1;

// y (T, out) = act(x (T, in) · Wᵀ + b + residual); act NONE or RELU. bias and residual may be empty.
Tensor linear(Tape& tape, const Tensor& x, ParameterView weight, ParameterView bias = {},
              int activation = ALLMREC_ACT_NONE, const Tensor* residual = nullptr,
              int32_t out_dtype = kSameDtype);

// y += x · Wᵀ + b in place: a residual connection whose input nothing needs any more. Records nothing.
void add_linear(Tape& tape, const Tensor& x, ParameterView weight, ParameterView bias, const Tensor& y);

// Several linear layers side by side in one output (T, Σ out): query, key and value projections. Weights that
// lie one behind another (ParameterSet::add_together) of one input take one product.
struct Projection {
  Tensor x;
  ParameterView weight;
  ParameterView bias;
};
Tensor projections(Tape& tape, const std::vector<Projection>& parts);

// alpha · a (M, C) · b (N, C)ᵀ
Tensor matmul_transposed(Tape& tape, const Tensor& a, const Tensor& b, float alpha = 1.0f);

Tensor layer_norm(Tape& tape, const Tensor& x, Parameter& gamma, Parameter& beta, float eps);
Tensor activation(Tape& tape, int kind, const Tensor& x);
Tensor add(Tape& tape, const Tensor& a, const Tensor& b);
Tensor scale(Tape& tape, const Tensor& x, float factor);
// Element by element.
Tensor mul(Tape& tape, const Tensor& a, const Tensor& b);
// x · mask / (1 − p) + residual
Tensor dropout(Tape& tape, const Tensor& x, float p, const Tensor* residual = nullptr);
Tensor cast(Tape& tape, const Tensor& x, int32_t dtype);
// The same values without a gradient.
Tensor detach(const Tensor& x);

struct EmbeddingInput {
  IntTensor ids;  // >= 0: row of the table; −k − 1: row k of `soft`
  Parameter* table = nullptr;
  Tensor soft;
  float scale = 1.0f;
  Parameter* positions = nullptr;
  IntTensor position_ids;
  ParameterView constant;  // one row added everywhere (BERT's token type 0)
  float dropout_rate = 0.0f;
  int32_t dtype = ALLMREC_F32;  // of the output
};
Tensor embedding(Tape& tape, const EmbeddingInput& input);

// Which keys each query row sees; see allmrec_attention_args.
struct AttentionPlan {
  int64_t num_sequences = 0;
  int64_t tokens = 0;
  IntTensor q_offsets, kv_start, kv_len, prefix, own_begin, own_end;
  int64_t max_q_length = 0;  // of one sequence; 0 = not known
  int64_t max_kv_length = 0;
};
// Self-attention over packed sequences: each row sees its own sequence, up to itself if causal.
AttentionPlan self_attention_plan(Tape& tape, const std::vector<int32_t>& offsets, bool causal);

struct AttentionInput {
  Tensor q;  // queries in columns [q_column, q_column + H·D)
  int64_t q_column = 0;
  Tensor kv;
  int64_t k_column = 0;
  int64_t v_column = 0;
  int heads = 1;
  int head_dim = 0;
  float scale = 0.0f;  // 0 = 1 / sqrt(D)
  AttentionPlan plan;
  // Virtual padding keys (H·D), with where their gradients go (null when frozen).
  const float* pad_k = nullptr;
  const float* pad_v = nullptr;
  float* d_pad_k = nullptr;
  float* d_pad_v = nullptr;
  IntTensor pad_count;
  float dropout_rate = 0.0f;
  int64_t drop_columns = 0;
};
Tensor attention(Tape& tape, const AttentionInput& input);

Tensor gather_rows(Tape& tape, const Tensor& x, const IntTensor& rows);
Tensor gather_rows(Tape& tape, Parameter& table, const IntTensor& rows, int32_t dtype = ALLMREC_F32);
// Columns [first, first + count) of x.
Tensor columns(Tape& tape, const Tensor& x, int64_t first, int64_t count);
// The rows of a, then those of b; either may be empty.
Tensor concat_rows(Tape& tape, const Tensor& a, const Tensor& b);
// (T, A) beside (T, B)
Tensor concat_columns(Tape& tape, const Tensor& a, const Tensor& b);
Tensor segment_mean(Tape& tape, const Tensor& x, const IntTensor& offsets);
Tensor l2_normalize(Tape& tape, const Tensor& x, float eps = 1e-12f);
// (T, 1): scale · <a_i, b_i>
Tensor row_dot(Tape& tape, const Tensor& a, const Tensor& b, float scale = 1.0f);

// x (B·S, I) → all hidden states (B·S, H), PyTorch's weights and gate order.
Tensor gru_layer(Tape& tape, const Tensor& x, int64_t batch, int64_t steps, Parameter& w_ih, Parameter& w_hh,
                 Parameter& b_ih, Parameter& b_hh, const Tensor& h0);

// x (B·S, in) → (B·S, out): a dilated causal convolution along each of B sequences of `steps`. weight (taps,
// out, in): the last tap is the present.
Tensor causal_conv(Tape& tape, const Tensor& x, int64_t batch, int64_t steps, Parameter& weight,
                   Parameter& bias, int dilation);

// A square sparse matrix in rows (CSR) on the device.
struct SparseMatrix {
  int64_t rows = 0;
  const int32_t* offsets = nullptr;  // (rows + 1)
  const int32_t* columns = nullptr;
  const float* values = nullptr;
};
// The mean of x, A·x, …, A^layers·x over a symmetric A: LightGCN's propagation of all nodes' embeddings x (N,
// C).
Tensor propagate(Tape& tape, const SparseMatrix& a, Parameter& x, int layers);

// Loss terms. Each adds weight · loss to the tape's total and leaves its gradient at once.
// scale · Σ w_i · BCE(logit_i, target); row_weights (T) or empty.
void bce_loss(Tape& tape, const std::string& name, const Tensor& logits, float target, float scale,
              float weight, const float* row_weights = nullptr);
// Mean over all elements.
void mse_loss(Tape& tape, const std::string& name, const Tensor& a, const Tensor& b, float weight);
// −scale · Σ log softmax(logits)[target]; target −1 is ignored.
void cross_entropy_loss(Tape& tape, const std::string& name, const Tensor& logits, const IntTensor& targets,
                        float scale, float weight);
// The same for logits = x · Wᵀ that are too many to keep: computed, used and dropped in blocks of rows.
void linear_cross_entropy_loss(Tape& tape, const std::string& name, const Tensor& x,
                               ParameterView weight_matrix, const IntTensor& targets, float scale,
                               float weight);
// Σ x · w: what the gradient fixtures use.
void weighted_sum_loss(Tape& tape, const std::string& name, const Tensor& x, const Tensor& w, float weight);

}  // namespace allmrec::ops
