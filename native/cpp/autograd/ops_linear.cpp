#include "ops.h"

namespace allmrec::ops {
namespace {

struct Matrix {
  float* data;
  int64_t rows, cols, ld;
};

// Y (T, out) at `y` = act(x · Wᵀ + b + residual)
void forward(Device& device, const Tensor& x, const ParameterView& w, const ParameterView& b, float* y,
             int64_t ldy, int activation, const Tensor* residual) {
  allmrec_gemm_args g{};
  g.m = x.rows;
  g.n = w.rows;
  g.k = x.cols;
  g.a = x.data;
  g.lda = x.cols;
  g.b = w.data();
  g.ldb = x.cols;
  g.trans_b = 1;
  g.c = y;
  g.ldc = ldy;
  g.alpha = 1.0f;
  g.bias = b ? b.data() : nullptr;
  g.residual = residual ? residual->data : nullptr;
  g.ld_residual = residual ? residual->cols : 0;
  g.activation = activation;
  device.gemm(g);
}

// From dY (T, out): dX (+)= dY · W, dW += dYᵀ · X, db += Σ dY.
void backward(Tape& tape, const Tensor& x, const ParameterView& w, const ParameterView& b, const float* dy,
              int64_t ld_dy) {
  Device& device = tape.device();
  if (tape.wants_grad(x)) {
    const Tape::Grad dx = tape.grad_target(x);
    allmrec_gemm_args g{};
    g.m = x.rows;
    g.n = x.cols;
    g.k = w.rows;
    g.a = dy;
    g.lda = ld_dy;
    g.b = w.data();
    g.ldb = x.cols;
    g.c = dx.data;
    g.ldc = x.cols;
    g.alpha = 1.0f;
    g.accumulate = dx.accumulate;
    device.gemm(g);
  }
  if (float* dw = w.grad()) {
    allmrec_gemm_args g{};
    g.m = w.rows;
    g.n = x.cols;
    g.k = x.rows;
    g.a = dy;
    g.lda = ld_dy;
    g.trans_a = 1;
    g.b = x.data;
    g.ldb = x.cols;
    g.c = dw;
    g.ldc = x.cols;
    g.alpha = 1.0f;
    g.accumulate = 1;
    device.gemm(g);
  }
  if (b) {
    if (float* db = b.grad()) device.column_sum({x.rows, b.rows, dy, ld_dy, db, 1});
  }
}

void expect_width(const Tensor& x, const ParameterView& w) {
  if (w.parameter->value.cols != x.cols)
    throw Error(ErrorCode::internal, "linear: weight `" + w.parameter->name + "` takes " +
                                         std::to_string(w.parameter->value.cols) + " inputs, got " +
                                         std::to_string(x.cols));
}

bool trainable(const ParameterView& w, const ParameterView& b) {
  return w.grad() || (b && b.grad());
}

}  // namespace

Tensor linear(Tape& tape, const Tensor& x, ParameterView w, ParameterView b, int activation,
              const Tensor* residual) {
  expect_width(x, w);
  Tensor y = tape.tensor(x.rows, w.rows);
  forward(tape.device(), x, w, b, y.data, y.cols, activation, residual);
  const Tensor r = residual ? *residual : Tensor{};
  if (!tape.wants_grad(x) && !tape.wants_grad(r) && !trainable(w, b)) return y;
  y = tape.variable(y);
  tape.record([&tape, x, w, b, y, r, activation] {
    float* dy = tape.grad(y);
    if (dy == nullptr) return;
    if (activation != ALLMREC_ACT_NONE)
      tape.device().activation_backward({y.size(), activation, dy, y.data, dy, 0});
    backward(tape, x, w, b, dy, y.cols);
    if (tape.wants_grad(r)) tape.give_grad(r, dy);
  });
  return y;
}

Tensor projections(Tape& tape, const std::vector<Projection>& parts) {
  int64_t width = 0;
  bool wanted = false;
  for (const Projection& p : parts) {
    expect_width(p.x, p.weight);
    width += p.weight.rows;
    wanted = wanted || tape.wants_grad(p.x) || trainable(p.weight, p.bias);
  }
  Tensor y = tape.tensor(parts.front().x.rows, width);
  int64_t column = 0;
  for (const Projection& p : parts) {
    forward(tape.device(), p.x, p.weight, p.bias, y.data + column, width, ALLMREC_ACT_NONE, nullptr);
    column += p.weight.rows;
  }
  if (!wanted) return y;
  y = tape.variable(y);
  tape.record([&tape, parts, y] {
    float* dy = tape.grad(y);
    if (dy == nullptr) return;
    int64_t column = 0;
    for (const Projection& p : parts) {
      backward(tape, p.x, p.weight, p.bias, dy + column, y.cols);
      column += p.weight.rows;
    }
  });
  return y;
}

Tensor matmul_transposed(Tape& tape, const Tensor& a, const Tensor& b, float alpha) {
  Tensor y = tape.tensor(a.rows, b.rows);
  auto gemm = [&tape, alpha](const float* x, int64_t ldx, int tx, const float* z, int64_t ldz, int tz,
                             float* out, int64_t m, int64_t n, int64_t k, int accumulate) {
    allmrec_gemm_args g{};
    g.m = m;
    g.n = n;
    g.k = k;
    g.a = x;
    g.lda = ldx;
    g.trans_a = tx;
    g.b = z;
    g.ldb = ldz;
    g.trans_b = tz;
    g.c = out;
    g.ldc = n;
    g.alpha = alpha;
    g.accumulate = accumulate;
    tape.device().gemm(g);
  };
  gemm(a.data, a.cols, 0, b.data, b.cols, 1, y.data, a.rows, b.rows, a.cols, 0);
  if (!tape.wants_grad(a) && !tape.wants_grad(b)) return y;
  y = tape.variable(y);
  tape.record([&tape, gemm, a, b, y] {
    const float* dy = tape.grad(y);
    if (dy == nullptr) return;
    if (tape.wants_grad(a)) {
      const Tape::Grad da = tape.grad_target(a);
      gemm(dy, y.cols, 0, b.data, b.cols, 0, da.data, a.rows, a.cols, b.rows, da.accumulate);
    }
    if (tape.wants_grad(b)) {
      const Tape::Grad db = tape.grad_target(b);
      gemm(dy, y.cols, 1, a.data, a.cols, 0, db.data, b.rows, b.cols, a.rows, db.accumulate);
    }
  });
  return y;
}

}  // namespace allmrec::ops
