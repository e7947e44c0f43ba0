/*
 * The op table: the plain C contract between models and a back end.
 *
 * A back end is a table of function pointers. `cpu` is compiled in; others are shared libraries opened at run
 * time that export `allmrec_backend_entry`. Nothing but C types crosses; no exception does. Every call is
 * ordered on the device's one compute stream and returns a status; `last_error` has the sentence.
 *
 * Letters: T packed tokens, B sequences, C hidden width, H heads, D head width (C = H·D), V vocabulary,
 * R rows, N columns. All matrices are row-major; `ld*` is the distance between rows in elements. Pointers
 * are device pointers unless their name says host. Arithmetic accumulates in float32 (sums of losses and
 * norms in float64). `accumulate` = 1 adds to the output, 0 overwrites it (whatever it held, NaN included).
 * Sizes of zero are valid everywhere and do nothing (outputs of a reduction over nothing are zero).
 */
#ifndef ALLMREC_BACKEND_H
#define ALLMREC_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ALLMREC_BACKEND_ABI 1u

typedef enum {
  ALLMREC_OK = 0,
  ALLMREC_INVALID_ARGUMENT = 1,
  ALLMREC_OUT_OF_MEMORY = 2,
  ALLMREC_UNSUPPORTED = 3,
  ALLMREC_DEVICE_ERROR = 4,
  ALLMREC_INTERNAL = 5
} allmrec_status;

typedef enum {
  ALLMREC_F32 = 0,
  ALLMREC_F16 = 1,
  ALLMREC_BF16 = 2,
  ALLMREC_I8 = 3,
  ALLMREC_I4 = 4,
  ALLMREC_I32 = 5
} allmrec_dtype;

typedef enum {
  ALLMREC_ACT_NONE = 0,
  ALLMREC_ACT_RELU = 1,
  ALLMREC_ACT_LEAKY_RELU = 2, /* slope 0.01 */
  ALLMREC_ACT_GELU = 3,       /* exact, erf */
  ALLMREC_ACT_GELU_TANH = 4,
  ALLMREC_ACT_SIGMOID = 5,
  ALLMREC_ACT_TANH = 6
} allmrec_activation;

/* Counter-based randomness: Philox4x32-10, key = seed, counter = (element / 8, stream); element e takes the
 * 16 bits number e % 8 of the 128 (low half of word 0, high half of word 0, low half of word 1, …). An
 * element is KEPT when its 16 bits >= round(p · 65536), and scaled by 1 / (1 − p). The same bits on every
 * back end. */
typedef struct {
  float p; /* 0 = no dropout */
  uint64_t seed;
  uint64_t stream; /* one per op of a step: never reused within a step */
} allmrec_dropout;

/* C (m, n) = act(alpha · op(A) (m, k) · op(B) (k, n) + bias (n) + residual (m, n)) + (accumulate ? C : 0).
 * trans_a: A is stored (k, m); trans_b: B is stored (n, k), the layout of a linear layer's weight.
 * bias and residual may be NULL; act only NONE or RELU here. residual must not alias c unless ld equal and
 * element-wise in place. */
typedef struct {
  int64_t m, n, k;
  const void* a;
  int64_t lda;
  int32_t a_dtype;
  int32_t trans_a;
  const void* b;
  int64_t ldb;
  int32_t b_dtype;
  int32_t trans_b;
  float* c;
  int64_t ldc;
  float alpha;
  const float* bias;
  const float* residual;
  int64_t ld_residual;
  int32_t activation;
  int32_t accumulate;
} allmrec_gemm_args;

/* out (cols) = sum over rows of x (rows, cols): bias gradients. */
typedef struct {
  int64_t rows, cols;
  const float* x;
  int64_t ldx;
  float* out;
  int32_t accumulate;
} allmrec_column_sum_args;

/* y = (x − mean) · rstd · gamma + beta over the last axis, rstd = 1 / sqrt(var + eps), var biased.
 * mean and rstd (rows) are saved when not NULL. */
typedef struct {
  int64_t rows, cols;
  const float* x;
  const float* gamma;
  const float* beta;
  float eps;
  float* y;
  float* mean;
  float* rstd;
} allmrec_layer_norm_args;

/* dx (+)= …; d_gamma and d_beta (cols), NULL when frozen, accumulate by `accumulate_params`. */
typedef struct {
  int64_t rows, cols;
  const float* dy;
  const float* x;
  const float* gamma;
  const float* mean;
  const float* rstd;
  float* dx; /* NULL when not needed */
  int32_t accumulate;
  float* d_gamma;
  float* d_beta;
  int32_t accumulate_params;
} allmrec_layer_norm_backward_args;

/* Attention over packed sequences. Sequence s owns query rows [q_offsets[s], q_offsets[s+1]) of q/out and key
 * rows kv_start[s] … kv_start[s] + kv_len[s] − 1 of k/v. Query row t sees the keys (relative to its kv_start)
 *     [0, prefix[t])  and  [own_begin[t], own_end[t]),   prefix[t] <= own_begin[t] <= own_end[t] <= kv_len.
 * prefix may be NULL (all zero). Causal: own = [0, i + 1); full: own = [0, kv_len); a candidate behind a
 * shared prompt of length P: prefix = P, own = [candidate's start, i + 1); decoding from a cache: own = [0,
 * kv_len). A row that sees nothing gives zeros. Head h uses columns [h·D, (h+1)·D) of q, k, v, out.
 *
 * Virtual padding: when pad_k is not NULL, each query of sequence s sees pad_count[s] further keys, all equal
 * to pad_k / pad_v (H·D): their scores are one score plus log(pad_count).
 *
 * Dropout on the attention weights: element of (query row t, head h, key j relative to kv_start) is
 * ((t · H + h) · drop_columns + pad_count[s] + j), the virtual padding keys having the elements
 * (t · H + h) · drop_columns + 0 … pad_count[s] − 1; drop_columns >= max(pad_count + kv_len). The padding's
 * weight is multiplied by (number kept) / (1 − p), every other by 0 or 1 / (1 − p). lse (T, H): log-sum-exp
 * of the scaled scores before dropout, padding included; may be NULL for inference. */
typedef struct {
  int64_t num_sequences, tokens; /* B, T = q_offsets[B] */
  int32_t heads, head_dim;
  float scale;
  const float* q;
  int64_t ldq;
  const float* k;
  int64_t ldk;
  const float* v;
  int64_t ldv;
  const int32_t* q_offsets;
  const int32_t* kv_start;
  const int32_t* kv_len;
  const int32_t* prefix;
  const int32_t* own_begin;
  const int32_t* own_end;
  const float* pad_k;
  const float* pad_v;
  const int32_t* pad_count;
  allmrec_dropout dropout;
  int64_t drop_columns;
  float* out;
  int64_t ldout;
  float* lse;
} allmrec_attention_args;

/* Gradients of the above: `forward` holds its arguments (out and lse as it left them). dq, dk, dv have their
 * own row distances; they are overwritten (accumulate 0) or added to. d_pad_k / d_pad_v (H·D) NULL when not
 * needed; always added to. */
typedef struct {
  allmrec_attention_args forward;
  const float* d_out;
  int64_t ld_dout;
  float* dq;
  int64_t ld_dq;
  float* dk;
  int64_t ld_dk;
  float* dv;
  int64_t ld_dv;
  int32_t accumulate;
  float* d_pad_k;
  float* d_pad_v;
} allmrec_attention_backward_args;

/* y = act(x). Backward: dx (+)= dy · act'(·), where `saved` is the INPUT x for GELU, GELU_TANH and LEAKY_RELU
 * and the OUTPUT y for RELU, SIGMOID and TANH. */
typedef struct {
  int64_t n;
  int32_t kind;
  const float* x;
  float* y;
} allmrec_activation_args;

typedef struct {
  int64_t n;
  int32_t kind;
  const float* dy;
  const float* saved;
  float* dx;
  int32_t accumulate;
} allmrec_activation_backward_args;

/* y = alpha · a + beta · b (b may be NULL) + (accumulate ? y : 0); any aliasing allowed. */
typedef struct {
  int64_t n;
  float alpha;
  const float* a;
  float beta;
  const float* b;
  float* y;
  int32_t accumulate;
} allmrec_add_args;

/* y (+)= a · b, element by element. */
typedef struct {
  int64_t n;
  const float* a;
  const float* b;
  float* y;
  int32_t accumulate;
} allmrec_mul_args;

/* y (+)= x · mask / (1 − p) + residual. residual NULL or (n). Backward is the same call on dy. x may alias y.
 */
typedef struct {
  int64_t n;
  allmrec_dropout dropout;
  const float* x;
  const float* residual;
  float* y;
  int32_t accumulate;
} allmrec_dropout_args;

/* out[t] = scale · row + positions[position_ids[t]] + constant, row = ids[t] >= 0 ? table[ids[t]] :
 * soft[−ids[t] − 1]. table may be F32, F16 or BF16; soft (S, C), positions (P, C) and constant (C) may be
 * NULL. Then dropout on the sum. */
typedef struct {
  int64_t tokens, cols;
  const int32_t* ids;
  const void* table;
  int32_t table_dtype;
  int64_t table_rows;
  const float* soft;
  int64_t soft_rows;
  float scale;
  const float* positions;
  int64_t position_rows;
  const int32_t* position_ids;
  const float* constant;
  allmrec_dropout dropout;
  float* out;
} allmrec_embedding_args;

/* Gradients, each NULL when not needed, all ADDED to: d_table (rows, C) and d_soft (S, C) scaled by `scale`,
 * d_positions (P, C), d_constant (C). Deterministic: rows are summed in token order. */
typedef struct {
  int64_t tokens, cols;
  const int32_t* ids;
  const int32_t* position_ids;
  const float* dy;
  float scale;
  allmrec_dropout dropout;
  float* d_table;
  int64_t table_rows;
  float* d_soft;
  int64_t soft_rows;
  float* d_positions;
  int64_t position_rows;
  float* d_constant;
} allmrec_embedding_backward_args;

/* gather: out[i] = x[rows[i]]; scatter_add: out[rows[i]] += x[i], in order of i. `count` rows of `cols`. */
typedef struct {
  int64_t count, cols;
  const int32_t* rows;
  const float* x;
  int64_t ldx;
  float* out;
  int64_t ldout;
} allmrec_rows_args;

/* out[b] (C) = mean of rows offsets[b] … offsets[b+1] − 1 of x; an empty segment gives zeros.
 * Backward: dx[t] (+)= dy[b] / length. */
typedef struct {
  int64_t segments, cols;
  const int32_t* offsets;
  const float* x; /* backward: dy (segments, C) */
  float* out;     /* backward: dx (tokens, C) */
  int32_t accumulate;
} allmrec_segment_mean_args;

/* out[i] = scale · <a_i, b_i>. Backward: da_i (+)= scale · g_i · b_i, db_i (+)= scale · g_i · a_i, each NULL
 * if unneeded. */
typedef struct {
  int64_t rows, cols;
  const float* a;
  const float* b;
  float scale;
  float* out;
} allmrec_row_dot_args;

typedef struct {
  int64_t rows, cols;
  const float* a;
  const float* b;
  float scale;
  const float* g;
  float* da;
  int32_t accumulate_a;
  float* db;
  int32_t accumulate_b;
} allmrec_row_dot_backward_args;

/* loss[0] (+)= scale · Σ_i w_i · (softplus(x_i) − y_i · x_i); dx_i = scale · w_i · (σ(x_i) − y_i)
 * (overwritten; NULL ok). targets NULL: every target equals `target`. weights NULL: ones. Stable for large
 * |x|. */
typedef struct {
  int64_t n;
  const float* logits;
  const float* targets;
  float target;
  const float* weights;
  float scale;
  float* loss;
  int32_t accumulate_loss;
  float* d_logits;
} allmrec_bce_args;

/* loss[0] (+)= scale · Σ (a − b)²; da (+)= 2·scale·(a − b), db (+)= −2·scale·(a − b); da, db NULL when not
 * needed. */
typedef struct {
  int64_t n;
  const float* a;
  const float* b;
  float scale;
  float* loss;
  int32_t accumulate_loss;
  float* da;
  int32_t accumulate_a;
  float* db;
  int32_t accumulate_b;
} allmrec_mse_args;

/* Rows of logits (R, V), row distance ld. targets (R), −1 = ignored row (contributes nothing, gradient zero).
 * log_prob (R) = logits[target] − logsumexp, 0 for ignored; loss[0] (+)= −scale · Σ log_prob; both may be
 * NULL. d_logits NULL or (R, V), may alias logits: scale · (softmax − onehot). */
typedef struct {
  int64_t rows, cols;
  const float* logits;
  int64_t ld;
  const int32_t* targets;
  float scale;
  float* log_prob;
  float* loss;
  int32_t accumulate_loss;
  float* d_logits;
  int64_t ld_d;
} allmrec_cross_entropy_args;

/* y = x / max(‖x‖₂, eps) row by row; norm (R) saved. Backward: dx (+)= (dy − y·<dy, y>) / norm. */
typedef struct {
  int64_t rows, cols;
  const float* x;
  float eps;
  float* y;
  float* norm;
} allmrec_l2_normalize_args;

typedef struct {
  int64_t rows, cols;
  const float* dy;
  const float* y;
  const float* norm;
  float* dx;
  int32_t accumulate;
} allmrec_l2_normalize_backward_args;

/* out[0] (+)= scale · Σ x. */
typedef struct {
  int64_t n;
  const float* x;
  float scale;
  float* out;
  int32_t accumulate;
} allmrec_sum_args;

/* The k largest of each row, descending; ties by the lower column. Fewer than k columns: indices −1, values
 * −inf. exclude: CSR of columns to leave out per row (offsets R + 1, ascending columns), or NULL. */
typedef struct {
  int64_t rows, cols;
  const float* scores;
  int64_t ld;
  const int32_t* exclude_offsets;
  const int32_t* exclude_columns;
  int32_t k;
  int32_t* indices; /* (R, k) */
  float* values;    /* (R, k) */
} allmrec_top_k_args;

/* One GRU layer over a batch padded to `steps` (PyTorch's gates in the order r, z, n):
 * gates_x (B, S, 3H) = x·W_ihᵀ + b_ih computed before; h0 (B, H); out (B, S, H).
 * n = tanh(gx_n + r · (h·W_hn + b_hn)). saved (B, S, 4H): r, z, n and (h·W_hn + b_hn), for the backward. */
typedef struct {
  int64_t batch, steps, hidden;
  const float* gates_x;
  const float* w_hh; /* (3H, H) */
  const float* b_hh; /* (3H) or NULL */
  const float* h0;
  float* out;
  float* saved;
} allmrec_gru_args;

/* d_out (B, S, H) and d_hn (B, H; NULL ok) → d_gates_x (B, S, 3H; overwritten), d_h0 (B, H; overwritten),
 * d_w_hh, d_b_hh (added to; NULL ok). */
typedef struct {
  allmrec_gru_args forward;
  const float* d_out;
  const float* d_hn;
  float* d_gates_x;
  float* d_h0;
  float* d_w_hh;
  float* d_b_hh;
} allmrec_gru_backward_args;

/* Adam as torch.optim.Adam: m, v in float32; step counts from 1; g is multiplied by grad_scale first
 * (clipping); weight_decay is L2 added to the gradient. zero_grad clears g in the same pass. */
typedef struct {
  float* param;
  float* grad;
  float* m;
  float* v;
  int64_t n;
} allmrec_adam_tensor;

typedef struct {
  const allmrec_adam_tensor* tensors; /* host array */
  int64_t count;
  float lr, beta1, beta2, eps, weight_decay;
  int64_t step;
  float grad_scale;
  int32_t zero_grad;
} allmrec_adam_args;

/* out[0] = Σ over tensors of Σ x² (float64 on the way). Host array of pointers and sizes. */
typedef struct {
  const float* const* tensors;
  const int64_t* sizes;
  int64_t count;
  float* out;
} allmrec_squared_norm_args;

/* x = low + (high − low)·u, u in [0, 1) of 24 bits; or normal(mean, std) by Box–Muller. Element e takes word
 * e % 4 of Philox4x32-10 with key seed and counter (e / 4, stream); normals take word pairs (2i, 2i + 1). */
typedef struct {
  int64_t n;
  uint64_t seed, stream;
  int32_t normal;
  float a, b; /* low, high or mean, std */
  float* x;
} allmrec_random_args;

/* A block of rows × cols copied (or added) between matrices of different row distance. */
typedef struct {
  int64_t rows, cols;
  const float* x;
  int64_t ldx;
  float* y;
  int64_t ldy;
  int32_t accumulate;
} allmrec_copy_2d_args;

/* y (float32) = x of dtype F16, BF16 or F32. */
typedef struct {
  int64_t n;
  const void* x;
  int32_t x_dtype;
  float* y;
} allmrec_cast_args;

typedef struct allmrec_device allmrec_device;

typedef struct {
  const char* name;        /* "AMD EPYC …", "NVIDIA H200" */
  const char* instruction; /* "avx512", "avx2", "generic", "sm_90" */
  int64_t memory_bytes;
  int32_t threads;
} allmrec_device_info;

typedef struct allmrec_backend {
  uint32_t abi_version;
  uint32_t struct_size;
  const char* name; /* "cpu", "cuda", "cudaemu" */

  /* threads: 0 = as many as the machine has. reason (capacity `reason_size`) gets a code and a sentence on
   * failure. */
  allmrec_status (*open)(int32_t index, int32_t threads, allmrec_device** out, char* reason,
                         size_t reason_size);
  void (*close)(allmrec_device*);
  const char* (*last_error)(allmrec_device*);
  allmrec_status (*info)(allmrec_device*, allmrec_device_info* out);

  allmrec_status (*alloc)(allmrec_device*, size_t bytes, void** out); /* 64-byte aligned */
  void (*free)(allmrec_device*, void*);
  allmrec_status (*upload)(allmrec_device*, void* dst, const void* host_src, size_t bytes);
  allmrec_status (*download)(allmrec_device*, void* host_dst, const void* src, size_t bytes); /* waits */
  allmrec_status (*copy)(allmrec_device*, void* dst, const void* src, size_t bytes);
  allmrec_status (*fill)(allmrec_device*, float* x, int64_t n, float value);
  allmrec_status (*synchronize)(allmrec_device*);

#define ALLMREC_OPS(X)                                         \
  X(gemm, allmrec_gemm_args)                                   \
  X(column_sum, allmrec_column_sum_args)                       \
  X(layer_norm, allmrec_layer_norm_args)                       \
  X(layer_norm_backward, allmrec_layer_norm_backward_args)     \
  X(attention, allmrec_attention_args)                         \
  X(attention_backward, allmrec_attention_backward_args)       \
  X(activation, allmrec_activation_args)                       \
  X(activation_backward, allmrec_activation_backward_args)     \
  X(add, allmrec_add_args)                                     \
  X(mul, allmrec_mul_args)                                     \
  X(dropout, allmrec_dropout_args)                             \
  X(embedding, allmrec_embedding_args)                         \
  X(embedding_backward, allmrec_embedding_backward_args)       \
  X(gather_rows, allmrec_rows_args)                            \
  X(scatter_add_rows, allmrec_rows_args)                       \
  X(segment_mean, allmrec_segment_mean_args)                   \
  X(segment_mean_backward, allmrec_segment_mean_args)          \
  X(row_dot, allmrec_row_dot_args)                             \
  X(row_dot_backward, allmrec_row_dot_backward_args)           \
  X(bce, allmrec_bce_args)                                     \
  X(mse, allmrec_mse_args)                                     \
  X(cross_entropy, allmrec_cross_entropy_args)                 \
  X(l2_normalize, allmrec_l2_normalize_args)                   \
  X(l2_normalize_backward, allmrec_l2_normalize_backward_args) \
  X(sum, allmrec_sum_args)                                     \
  X(top_k, allmrec_top_k_args)                                 \
  X(gru, allmrec_gru_args)                                     \
  X(gru_backward, allmrec_gru_backward_args)                   \
  X(adam, allmrec_adam_args)                                   \
  X(squared_norm, allmrec_squared_norm_args)                   \
  X(random, allmrec_random_args)                               \
  X(copy_2d, allmrec_copy_2d_args)                             \
  X(cast, allmrec_cast_args)

#define ALLMREC_DECLARE(op, args) allmrec_status (*op)(allmrec_device*, const args*);
  ALLMREC_OPS(ALLMREC_DECLARE)
#undef ALLMREC_DECLARE
} allmrec_backend;

/* The one symbol a plug-in exports. */
typedef const allmrec_backend* (*allmrec_backend_entry_fn)(void);

#ifdef __cplusplus
}
#endif

#endif
