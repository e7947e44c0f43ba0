#include "half_adapter.h"

#include <algorithm>
#include <new>
#include <vector>

#include "../core/memory_limit.h"

namespace allmrec::cpu {

namespace {

bool is_half(int32_t dtype) {
  return dtype == ALLMREC_F16 || dtype == ALLMREC_BF16;
}

// The float32 copies of one call. They are as dense as can be: a copy's row distance is its row length.
class Copies {
 public:
  explicit Copies(Device& device) : device_(device) {}
  Copies(const Copies&) = delete;
  Copies& operator=(const Copies&) = delete;
  ~Copies() {
    for (void* block : blocks_) device_.memory.free(block);
  }

  // Replaces p (rows × cols, row distance ld) by a copy. NULL and float32 stay what they are.
  void input(const void*& p, int64_t rows, int64_t cols, int64_t& ld, int32_t dtype) {
    if (p && is_half(dtype)) p = copy(p, rows, cols, ld, dtype, ALLMREC_F32);
  }
  void input(const void*& p, int64_t n, int32_t dtype) {
    int64_t ld = n;
    input(p, 1, n, ld, dtype);
  }
  // read: the op adds to p, or leaves some of its rows alone.
  void output(void*& p, int64_t rows, int64_t cols, int64_t& ld, int32_t dtype, bool read) {
    if (!p || !is_half(dtype)) return;
    CastRows back{rows, cols, nullptr, cols, ALLMREC_F32, p, ld, dtype};
    if (read) {
      p = copy(p, rows, cols, ld, dtype, ALLMREC_F32);
    } else {
      p = alloc(rows * cols * 4);
      ld = cols;
    }
    back.x = p;
    back_.push_back(back);
  }
  void output(void*& p, int64_t n, int32_t dtype, bool read) {
    int64_t ld = n;
    output(p, 1, n, ld, dtype, read);
  }
  void* copy(const void* p, int64_t rows, int64_t cols, int64_t& ld, int32_t from, int32_t to) {
    void* made = alloc(rows * cols * (to == ALLMREC_F32 ? 4 : 2));
    convert({rows, cols, p, ld, from, made, cols, to});
    ld = cols;
    return made;
  }
  // After the op: the outputs to where they belong.
  void finish() {
    for (const CastRows& back : back_) convert(back);
  }

 private:
  void* alloc(int64_t bytes) {
    blocks_.push_back(nullptr);
    blocks_.back() = device_.memory.alloc(static_cast<size_t>(bytes));
    if (!blocks_.back())
      throw Error(ErrorCode::out_of_memory, "Out of memory: " + bytes_text(bytes) +
                                                " are not to be had for a float32 copy. " + memory_text() +
                                                ".");
    return blocks_.back();
  }
  // One row that is not split otherwise is a cast.
  void convert(const CastRows& c) {
    if (c.ldx == c.cols && c.ldy == c.cols) {
      device_.kernels->cast(device_, {c.rows * c.cols, c.x, c.x_dtype, c.y, c.y_dtype});
    } else {
      device_.kernels->cast_rows(device_, c);
    }
  }

  Device& device_;
  std::vector<void*> blocks_;
  std::vector<CastRows> back_;
};

// Rows of k and v that any sequence has.
int64_t key_rows(const allmrec_attention_args& a) {
  int64_t rows = 0;
  for (int64_t s = 0; s < a.num_sequences; ++s)
    rows = std::max<int64_t>(rows, int64_t{a.kv_start[s]} + a.kv_len[s]);
  return rows;
}

}  // namespace

// B of float32 beside a half A is rounded to A's dtype; other Bs are read as they are by the kernel. Where
// there is arithmetic in bfloat16, A stays as it is as well.
void run(Device& device, void (*kernel)(Device&, const allmrec_gemm_args&), const allmrec_gemm_args& a) {
  if (!is_half(a.a_dtype) || a.m == 0 || a.n == 0) return kernel(device, a);
  Copies copies(device);
  allmrec_gemm_args g = a;
  const bool as_stored = (device.kernels->extras & kDotBf16) && a.a_dtype == ALLMREC_BF16 &&
                         (a.b_dtype == ALLMREC_F32 || a.b_dtype == ALLMREC_BF16);
  if (as_stored) {
    g.compute_dtype = ALLMREC_BF16;
  } else {
    copies.input(g.a, a.trans_a ? a.k : a.m, a.trans_a ? a.m : a.k, g.lda, a.a_dtype);
    g.a_dtype = ALLMREC_F32;
    if (g.b && a.b_dtype == ALLMREC_F32) {
      g.b = copies.copy(g.b, a.trans_b ? a.n : a.k, a.trans_b ? a.k : a.n, g.ldb, ALLMREC_F32, a.a_dtype);
      g.b_dtype = a.a_dtype;
    }
  }
  copies.input(g.residual, a.m, a.n, g.ld_residual, a.c_dtype);
  copies.output(g.c, a.m, a.n, g.ldc, a.c_dtype, a.accumulate != 0);
  g.c_dtype = ALLMREC_F32;
  kernel(device, g);
  copies.finish();
}

void run(Device& device, void (*kernel)(Device&, const allmrec_column_sum_args&),
         const allmrec_column_sum_args& a) {
  if (!is_half(a.dtype)) return kernel(device, a);
  Copies copies(device);
  allmrec_column_sum_args f = a;
  copies.input(f.x, a.rows, a.cols, f.ldx, a.dtype);
  f.dtype = ALLMREC_F32;
  kernel(device, f);
}

void run(Device& device, void (*kernel)(Device&, const allmrec_layer_norm_args&),
         const allmrec_layer_norm_args& a) {
  if (!is_half(a.dtype)) return kernel(device, a);
  Copies copies(device);
  allmrec_layer_norm_args f = a;
  copies.input(f.x, a.rows * a.cols, a.dtype);
  copies.output(f.y, a.rows * a.cols, a.dtype, false);
  f.dtype = ALLMREC_F32;
  kernel(device, f);
  copies.finish();
}

void run(Device& device, void (*kernel)(Device&, const allmrec_layer_norm_backward_args&),
         const allmrec_layer_norm_backward_args& a) {
  if (!is_half(a.dtype)) return kernel(device, a);
  Copies copies(device);
  allmrec_layer_norm_backward_args f = a;
  copies.input(f.dy, a.rows * a.cols, a.dtype);
  copies.input(f.x, a.rows * a.cols, a.dtype);
  copies.output(f.dx, a.rows * a.cols, a.dtype, a.accumulate != 0);
  f.dtype = ALLMREC_F32;
  kernel(device, f);
  copies.finish();
}

// Half keys and values are read as they are.
void run(Device& device, void (*kernel)(Device&, const allmrec_attention_args&),
         const allmrec_attention_args& a) {
  const int64_t width = int64_t{a.heads} * a.head_dim;
  if (!is_half(a.dtype) || a.num_sequences == 0 || a.tokens == 0 || width == 0) return kernel(device, a);
  Copies copies(device);
  allmrec_attention_args f = a;
  copies.input(f.q, a.tokens, width, f.ldq, a.dtype);
  copies.output(f.out, a.tokens, width, f.ldout, a.dtype, false);
  f.kv_dtype = a.dtype;
  f.dtype = ALLMREC_F32;
  kernel(device, f);
  copies.finish();
}

// Rows of dk and dv outside of every sequence are not the op's: they are read and written back as they were.
void run(Device& device, void (*kernel)(Device&, const allmrec_attention_backward_args&),
         const allmrec_attention_backward_args& a) {
  const allmrec_attention_args& f = a.forward;
  const int64_t width = int64_t{f.heads} * f.head_dim;
  if (!is_half(f.dtype) || f.num_sequences == 0 || f.tokens == 0 || width == 0) return kernel(device, a);
  Copies copies(device);
  allmrec_attention_backward_args b = a;
  const void* out = f.out;
  copies.input(b.forward.q, f.tokens, width, b.forward.ldq, f.dtype);
  copies.input(b.forward.k, key_rows(f), width, b.forward.ldk, f.dtype);
  copies.input(b.forward.v, key_rows(f), width, b.forward.ldv, f.dtype);
  copies.input(out, f.tokens, width, b.forward.ldout, f.dtype);
  b.forward.out = const_cast<void*>(out);
  copies.input(b.d_out, f.tokens, width, b.ld_dout, f.dtype);
  copies.output(b.dq, f.tokens, width, b.ld_dq, f.dtype, b.accumulate != 0);
  copies.output(b.dk, key_rows(f), width, b.ld_dk, f.dtype, true);
  copies.output(b.dv, key_rows(f), width, b.ld_dv, f.dtype, true);
  b.forward.dtype = b.forward.kv_dtype = ALLMREC_F32;
  kernel(device, b);
  copies.finish();
}

void run(Device& device, void (*kernel)(Device&, const allmrec_activation_args&),
         const allmrec_activation_args& a) {
  if (!is_half(a.dtype)) return kernel(device, a);
  Copies copies(device);
  allmrec_activation_args f = a;
  copies.input(f.x, a.n, a.dtype);
  if (a.kind != ALLMREC_ACT_RELU_BITS) copies.output(f.y, a.n, a.dtype, false);
  f.dtype = ALLMREC_F32;
  kernel(device, f);
  copies.finish();
}

void run(Device& device, void (*kernel)(Device&, const allmrec_activation_backward_args&),
         const allmrec_activation_backward_args& a) {
  if (!is_half(a.dtype)) return kernel(device, a);
  Copies copies(device);
  allmrec_activation_backward_args f = a;
  copies.input(f.dy, a.n, a.dtype);
  if (a.kind != ALLMREC_ACT_RELU_BITS) copies.input(f.saved, a.n, a.dtype);
  copies.output(f.dx, a.n, a.dtype, a.accumulate != 0);
  f.dtype = ALLMREC_F32;
  kernel(device, f);
  copies.finish();
}

void run(Device& device, void (*kernel)(Device&, const allmrec_add_args&), const allmrec_add_args& a) {
  if (!is_half(a.dtype)) return kernel(device, a);
  Copies copies(device);
  allmrec_add_args f = a;
  copies.input(f.a, a.n, a.dtype);
  copies.input(f.b, a.n, a.dtype);
  copies.output(f.y, a.n, a.dtype, a.accumulate != 0);
  f.dtype = ALLMREC_F32;
  kernel(device, f);
  copies.finish();
}

void run(Device& device, void (*kernel)(Device&, const allmrec_dropout_args&),
         const allmrec_dropout_args& a) {
  if (!is_half(a.dtype)) return kernel(device, a);
  Copies copies(device);
  allmrec_dropout_args f = a;
  copies.input(f.x, a.n, a.dtype);
  copies.input(f.residual, a.n, a.dtype);
  copies.output(f.y, a.n, a.dtype, a.accumulate != 0);
  f.dtype = ALLMREC_F32;
  kernel(device, f);
  copies.finish();
}

void run(Device& device, void (*kernel)(Device&, const allmrec_embedding_args&),
         const allmrec_embedding_args& a) {
  if (!is_half(a.out_dtype)) return kernel(device, a);
  Copies copies(device);
  allmrec_embedding_args f = a;
  copies.output(f.out, a.tokens * a.cols, a.out_dtype, false);
  f.out_dtype = ALLMREC_F32;
  kernel(device, f);
  copies.finish();
}

void run(Device& device, void (*kernel)(Device&, const allmrec_embedding_backward_args&),
         const allmrec_embedding_backward_args& a) {
  if (!is_half(a.dy_dtype)) return kernel(device, a);
  Copies copies(device);
  allmrec_embedding_backward_args f = a;
  copies.input(f.dy, a.tokens * a.cols, a.dy_dtype);
  f.dy_dtype = ALLMREC_F32;
  kernel(device, f);
}

// Sums of several rows are rounded once, so all rows up to the last are widened.
void run(Device& device, void (*kernel)(Device&, const allmrec_rows_args&), const allmrec_rows_args& a) {
  if (!is_half(a.dtype) || kernel != device.kernels->scatter_add_rows || a.count == 0)
    return kernel(device, a);
  Copies copies(device);
  allmrec_rows_args f = a;
  copies.input(f.x, a.count, a.cols, f.ldx, a.dtype);
  copies.output(f.out, int64_t{*std::max_element(a.rows, a.rows + a.count)} + 1, a.cols, f.ldout, a.dtype,
                true);
  f.dtype = ALLMREC_F32;
  kernel(device, f);
  copies.finish();
}

// Tokens before the first segment are not the op's.
void run(Device& device, void (*kernel)(Device&, const allmrec_segment_mean_args&),
         const allmrec_segment_mean_args& a) {
  if (!is_half(a.dtype) || a.segments == 0 || a.cols == 0) return kernel(device, a);
  Copies copies(device);
  allmrec_segment_mean_args f = a;
  const bool backward = kernel == device.kernels->segment_mean_backward;
  const int64_t tokens = a.offsets[a.segments];
  copies.input(f.x, (backward ? a.segments : tokens) * a.cols, a.dtype);
  copies.output(f.out, (backward ? tokens : a.segments) * a.cols, a.dtype, backward || a.accumulate != 0);
  f.dtype = ALLMREC_F32;
  kernel(device, f);
  copies.finish();
}

void run(Device& device, void (*kernel)(Device&, const allmrec_copy_2d_args&),
         const allmrec_copy_2d_args& a) {
  if (!is_half(a.dtype) || !a.accumulate) return kernel(device, a);
  Copies copies(device);
  allmrec_copy_2d_args f = a;
  copies.input(f.x, a.rows, a.cols, f.ldx, a.dtype);
  copies.output(f.y, a.rows, a.cols, f.ldy, a.dtype, true);
  f.dtype = ALLMREC_F32;
  kernel(device, f);
  copies.finish();
}

}  // namespace allmrec::cpu
