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
 *
 * Dtypes: activations and their gradients are `void*` with a dtype F32, F16 or BF16; everything declared
 * `float*` (biases, norms, statistics, gradients of parameters, losses) is float32. A half output is the
 * float32 result rounded to nearest even once. Weights may also be
 *   I8  one signed byte each, row by row, w = q · scales[row], scales float32 (rows), q = round(w / scale),
 *       scale = max |w| of the row / 127;
 *   I4  groups of 32 along a row, 16 bytes a group: byte j holds element j in its low and element j + 16 in
 *       its high four bits, each 0 … 15 for q = −8 … 7; w = q · scales[row, group], scales F16
 *       (rows, cols / 32), scale = the group's value of largest magnitude / −8; cols a multiple of 32.
 * The quants and the scales are arrays of their own, so that 16 bytes can be loaded at once.
 */
#ifndef ALLMREC_BACKEND_H
#define ALLMREC_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ALLMREC_BACKEND_ABI 3u

typedef enum {
  ALLMREC_OK = 0,
  ALLMREC_INVALID_ARGUMENT = 1,
  ALLMREC_OUT_OF_MEMORY = 2,
  ALLMREC_UNSUPPORTED = 3,
  ALLMREC_DEVICE_ERROR = 4,
  ALLMREC_INTERNAL = 5,
  ALLMREC_DEVICE_LOST = 6 /* an error the device does not recover from: close it */
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
  ALLMREC_ACT_TANH = 6,
  ALLMREC_ACT_RELU_BITS = 7 /* what RELU's backward needs, see allmrec_activation_args */
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
 * element-wise in place; it has c's dtype.
 * A of F16 or BF16: B of F32 is rounded to A's dtype (mixed-precision training), B of the other half is an
 * error. A of F32: B of half is widened. B of I8 or I4 (b_scales; ldb = k or n, its stored row length) may be
 * used in either orientation; a device may then round A to 8 bits, row by row or in groups of 32 along k,
 * each with its own scale max |a| / 127. c may be F32 whatever A is; half only when A is. compute_dtype: F32,
 * or BF16 where a device may round float32 operands to bfloat16 before it multiplies. fixed_order: 1 = a row
 * of C has the same bits whatever m is and whatever the other rows hold, so that a result does not depend on
 * what it is computed beside. A device that leaves products to a library need not keep to it. */
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
  void* c;
  int64_t ldc;
  float alpha;
  const float* bias;
  const void* residual;
  int64_t ld_residual;
  int32_t activation;
  int32_t accumulate;
  int32_t c_dtype;
  const void* b_scales; /* I8, I4 */
  int32_t compute_dtype;
  int32_t fixed_order;
} allmrec_gemm_args;

/* out (cols) = sum over rows of x (rows, cols): bias gradients. */
typedef struct {
  int64_t rows, cols;
  const void* x;
  int64_t ldx;
  float* out;
  int32_t accumulate;
  int32_t dtype; /* of x */
} allmrec_column_sum_args;

/* y = (x − mean) · rstd · gamma + beta over the last axis, rstd = 1 / sqrt(var + eps), var biased.
 * mean and rstd (rows) are saved when not NULL. */
typedef struct {
  int64_t rows, cols;
  const void* x;
  const float* gamma;
  const float* beta;
  float eps;
  void* y;
  float* mean;
  float* rstd;
  int32_t dtype; /* of x and y */
} allmrec_layer_norm_args;

/* dx (+)= …; d_gamma and d_beta (cols), NULL when frozen, accumulate by `accumulate_params`. */
typedef struct {
  int64_t rows, cols;
  const void* dy;
  const void* x;
  const float* gamma;
  const float* mean;
  const float* rstd;
  void* dx; /* NULL when not needed */
  int32_t accumulate;
  float* d_gamma;
  float* d_beta;
  int32_t accumulate_params;
  int32_t dtype; /* of dy, x and dx */
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
  const void* q;
  int64_t ldq;
  const void* k;
  int64_t ldk;
  const void* v;
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
  void* out;
  int64_t ldout;
  float* lse;
  int32_t dtype;         /* of q, k, v and out; with half, pad_k and pad_v stay float32 */
  int64_t max_q_length;  /* the longest sequence's number of query rows, or 0 = not known */
  int64_t max_kv_length; /* the largest kv_len, or 0 = not known; both only choose how work is laid out */
  int32_t kv_dtype;      /* F32: k and v have `dtype`. F16, BF16: they are stored so beside a dtype of F32 (a
                            cache), forward only; a device may not offer it and says UNSUPPORTED */
  int32_t compute_dtype; /* F32, or BF16 where float32 q, k, v and weights may be rounded to bfloat16 */
} allmrec_attention_args;

/* Gradients of the above: `forward` holds its arguments (out and lse as it left them). dq, dk, dv have their
 * own row distances; they are overwritten (accumulate 0) or added to. d_pad_k / d_pad_v (H·D) NULL when not
 * needed; always added to. */
typedef struct {
  allmrec_attention_args forward; /* its dtype is also that of d_out, dq, dk and dv */
  const void* d_out;
  int64_t ld_dout;
  void* dq;
  int64_t ld_dq;
  void* dk;
  int64_t ld_dk;
  void* dv;
  int64_t ld_dv;
  int32_t accumulate;
  float* d_pad_k;
  float* d_pad_v;
} allmrec_attention_backward_args;

/* y = act(x). Backward: dx (+)= dy · act'(·), where `saved` is the INPUT x for GELU, GELU_TANH and LEAKY_RELU
 * and the OUTPUT y for RELU, SIGMOID and TANH. RELU_BITS: y is one bit for each number, 0 where x <= 0, in
 * (n + 7) / 8 bytes, the first in a byte's lowest bit; its backward is RELU's, with such bits as `saved`. */
typedef struct {
  int64_t n;
  int32_t kind;
  const void* x;
  void* y;
  int32_t dtype;
} allmrec_activation_args;

typedef struct {
  int64_t n;
  int32_t kind;
  const void* dy;
  const void* saved;
  void* dx;
  int32_t accumulate;
  int32_t dtype;
} allmrec_activation_backward_args;

/* y = alpha · a + beta · b (b may be NULL) + (accumulate ? y : 0); any aliasing allowed. */
typedef struct {
  int64_t n;
  float alpha;
  const void* a;
  float beta;
  const void* b;
  void* y;
  int32_t accumulate;
  int32_t dtype; /* of a, b and y */
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
  const void* x;
  const void* residual;
  void* y;
  int32_t accumulate;
  int32_t dtype; /* of x, residual and y */
} allmrec_dropout_args;

/* out[t] = scale · row + positions[position_ids[t]] + constant, row = ids[t] >= 0 ? table[ids[t]] :
 * soft[−ids[t] − 1]. table may have any dtype; soft (S, C), positions (P, C) and constant (C) may be NULL.
 * Then dropout on the sum. */
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
  void* out;
  int32_t out_dtype;
  const void* table_scales; /* I8, I4 */
} allmrec_embedding_args;

/* Gradients, each NULL when not needed, all ADDED to: d_table (rows, C) and d_soft (S, C) scaled by `scale`,
 * d_positions (P, C), d_constant (C). Deterministic: rows are summed in token order. */
typedef struct {
  int64_t tokens, cols;
  const int32_t* ids;
  const int32_t* position_ids;
  const void* dy;
  float scale;
  allmrec_dropout dropout;
  float* d_table;
  int64_t table_rows;
  float* d_soft;
  int64_t soft_rows;
  float* d_positions;
  int64_t position_rows;
  float* d_constant;
  int32_t dy_dtype;
} allmrec_embedding_backward_args;

/* gather: out[i] = x[rows[i]]; scatter_add: out[rows[i]] += x[i], in order of i; put: out[rows[i]] = x[i],
 * rows distinct, a negative row is left out (how new keys and values enter a cache). `count` rows of `cols`.
 */
typedef struct {
  int64_t count, cols;
  const int32_t* rows;
  const void* x;
  int64_t ldx;
  void* out;
  int64_t ldout;
  int32_t dtype; /* of x and out */
} allmrec_rows_args;

/* out[b] (C) = mean of rows offsets[b] … offsets[b+1] − 1 of x; an empty segment gives zeros.
 * Backward: dx[t] (+)= dy[b] / length. */
typedef struct {
  int64_t segments, cols;
  const int32_t* offsets;
  const void* x; /* backward: dy (segments, C) */
  void* out;     /* backward: dx (tokens, C) */
  int32_t accumulate;
  int32_t dtype; /* of x and out */
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
  const void* x;
  int64_t ldx;
  void* y;
  int64_t ldy;
  int32_t accumulate;
  int32_t dtype; /* of x and y */
} allmrec_copy_2d_args;

/* y = x, each of dtype F16, BF16 or F32. */
typedef struct {
  int64_t n;
  const void* x;
  int32_t x_dtype;
  void* y;
  int32_t y_dtype;
} allmrec_cast_args;

/* x (rows, cols) of F32, F16 or BF16 → quants and scales of dtype I8 or I4 as described at the top. */
typedef struct {
  int64_t rows, cols;
  const void* x;
  int32_t x_dtype;
  int32_t dtype;
  void* quants;
  void* scales;
} allmrec_quantize_args;

/* x[i] += by. A captured decoding step advances its own positions and lengths. */
typedef struct {
  int64_t n;
  int32_t* x;
  int32_t by;
} allmrec_advance_args;

/* Dilated causal convolution over a batch padded to `steps` (NextItNet's layer):
 * y[b, t] (c_out) = bias + Σ_{j < taps} w[j] (c_out, c_in) · x[b, t − (taps − 1 − j) · dilation], rows before
 * the beginning being zero. x (B, S, c_in), w (taps, c_out, c_in), y (B, S, c_out). */
typedef struct {
  int64_t batch, steps, c_in, c_out;
  int32_t taps, dilation;
  const float* x;
  const float* w;
  const float* bias; /* or NULL */
  float* y;
} allmrec_conv_args;

/* dx overwritten or added to; d_w and d_bias added to; each NULL when not needed. */
typedef struct {
  allmrec_conv_args forward;
  const float* dy;
  float* dx;
  int32_t accumulate;
  float* d_w;
  float* d_bias;
} allmrec_conv_backward_args;

/* out (rows, C) (+)= Σ over the edges e of a row: values[e] · x[columns[e]]. CSR: offsets (rows + 1). Edges
 * are summed in their order. LightGCN's propagation; of a symmetric matrix also its own backward. */
typedef struct {
  int64_t rows, cols;
  const int32_t* offsets;
  const int32_t* columns;
  const float* values;
  const float* x;
  float* out;
  int32_t accumulate;
} allmrec_spmm_args;

/* top_k of the scores queries (R, C) · items (N, C)ᵀ + item_bias (N, or NULL), which are never stored whole.
 * Ties, exclusions and short rows as in top_k. */
typedef struct {
  int64_t rows, items_count, cols;
  const float* queries;
  const float* items;
  const float* item_bias;
  const int32_t* exclude_offsets;
  const int32_t* exclude_columns;
  int32_t k;
  int32_t* indices; /* (R, k) */
  float* values;    /* (R, k) */
} allmrec_rank_catalogue_args;

typedef struct allmrec_device allmrec_device;
typedef struct allmrec_graph allmrec_graph;

typedef struct {
  int64_t in_use; /* bytes handed out */
  int64_t cached; /* bytes kept for the next request */
  int64_t peak;   /* the most ever in use */
  int64_t free;   /* bytes the device still has, or −1 */
  int64_t total;  /* bytes of the device, or −1 */
} allmrec_memory_info;

typedef struct {
  const char* op;
  int64_t calls;
  double milliseconds; /* on the device */
  double flops;        /* multiply-adds count two */
  double bytes;        /* read and written at least once */
} allmrec_profile_row;

typedef struct {
  const char* name;        /* "AMD EPYC …", "NVIDIA H200" */
  const char* instruction; /* "avx512", "avx2", "generic", "sm_90" */
  int64_t memory_bytes;
  int32_t threads;       /* CPU threads or multiprocessors */
  const char* libraries; /* what it uses besides its own kernels, or why not; may be NULL */
} allmrec_device_info;

typedef struct allmrec_backend {
  uint32_t abi_version;
  uint32_t struct_size;
  const char* name;    /* "cpu", "cuda", "cudaemu" */
  const char* version; /* of the package it was built from */

  /* Settings of the back end as a whole, before a device is opened. cuda: "cublaslt" = a library's path,
   * "auto" (default) or "off". Unknown keys are an error. */
  allmrec_status (*configure)(const char* key, const char* value);

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

  allmrec_status (*memory)(allmrec_device*, allmrec_memory_info* out);
  allmrec_status (*trim)(allmrec_device*); /* gives cached memory back */

  /* Between begin and end ops are recorded instead of run. Uploads are recorded with a copy of their data;
   * downloads and synchronize are errors. Memory freed meanwhile stays the graph's. end: *graph NULL makes a
   * new graph; otherwise that graph is brought up to date with what was recorded. launch runs it, in order
   * with everything else. A device without graphs says UNSUPPORTED at begin. cancel ends a recording that
   * failed. */
  allmrec_status (*capture_begin)(allmrec_device*);
  allmrec_status (*capture_end)(allmrec_device*, allmrec_graph** graph);
  void (*capture_cancel)(allmrec_device*);
  allmrec_status (*graph_launch)(allmrec_device*, allmrec_graph*);
  void (*graph_free)(allmrec_device*, allmrec_graph*);

  /* Between begin and end every op is timed. end: rows by op name, valid until the next call. */
  allmrec_status (*profile_begin)(allmrec_device*);
  allmrec_status (*profile_end)(allmrec_device*, const allmrec_profile_row** rows, int64_t* count);

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
  X(put_rows, allmrec_rows_args)                               \
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
  X(cast, allmrec_cast_args)                                   \
  X(quantize, allmrec_quantize_args)                           \
  X(advance, allmrec_advance_args)                             \
  X(conv, allmrec_conv_args)                                   \
  X(conv_backward, allmrec_conv_backward_args)                 \
  X(spmm, allmrec_spmm_args)                                   \
  X(rank_catalogue, allmrec_rank_catalogue_args)

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
