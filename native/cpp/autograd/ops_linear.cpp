#include "ops.h"

namespace allmrec::ops {
namespace {

// Arguments of a product; everything else is zero.
allmrec_gemm_args product(const Precision& precision) {
  allmrec_gemm_args g{};
  g.alpha = 1.0f;
  g.compute_dtype = precision.compute_dtype;
  g.fixed_order = precision.fixed_order ? 1 : 0;
  return g;
}

// Columns [column, column + rows) of y = act(x · Wᵀ + b + residual), where W is `rows` rows from the first of
// w.
void forward(Tape& tape, const Tensor& x, const ParameterView& w, int64_t rows, const ParameterView& b,
             const Tensor& y, int64_t column, int activation, const Tensor* residual) {
  allmrec_gemm_args g = product(tape.precision());
  g.m = x.rows;
  g.n = rows;
  g.k = x.cols;
  g.a = x.data;
  g.a_dtype = x.dtype;
  g.lda = x.cols;
  g.b = w.data();
  g.b_dtype = w.dtype();
  g.b_scales = w.scales();
  g.ldb = x.cols;
  g.trans_b = 1;
  g.c = y.at(0, column);
  g.c_dtype = y.dtype;
  g.ldc = y.cols;
  g.bias = b ? b.f32() : nullptr;
  g.residual = residual ? residual->data : nullptr;
  g.ld_residual = residual ? residual->cols : 0;
  g.activation = activation;
  tape.device().gemm(g);
}

// dX (+)= dY · W, dY being the same columns of dy.
void backward_input(Tape& tape, const Precision& precision, const Tensor& x, const ParameterView& w,
                    int64_t rows, const Tensor& dy, int64_t column) {
  if (!tape.wants_grad(x)) return;
  const Tape::Grad dx = tape.grad_target(x);
  allmrec_gemm_args g = product(precision);
  g.m = x.rows;
  g.n = x.cols;
  g.k = rows;
  g.a = dy.at(0, column);
  g.a_dtype = dy.dtype;
  g.lda = dy.cols;
  g.b = w.data();
  g.b_dtype = w.dtype();
  g.b_scales = w.scales();
  g.ldb = x.cols;
  g.c = dx.data;
  g.c_dtype = x.dtype;
  g.ldc = x.cols;
  g.accumulate = dx.accumulate;
  tape.device().gemm(g);
}

// dW += dYᵀ · X, db += Σ dY.
void backward_weights(Tape& tape, const Precision& precision, const Tensor& x, const ParameterView& w,
                      const ParameterView& b, const Tensor& dy, int64_t column) {
  Device& device = tape.device();
  if (float* dw = w.grad()) {
    allmrec_gemm_args g = product(precision);
    g.m = w.rows;
    g.n = x.cols;
    g.k = x.rows;
    g.a = dy.at(0, column);
    g.a_dtype = dy.dtype;
    g.lda = dy.cols;
    g.trans_a = 1;
    g.b = x.data;
    g.b_dtype = x.dtype;
    g.ldb = x.cols;
    g.c = dw;
    g.ldc = x.cols;
    g.accumulate = 1;
    device.gemm(g);
  }
  if (b) {
    if (float* db = b.grad()) device.column_sum({x.rows, b.rows, dy.at(0, column), dy.cols, db, 1, dy.dtype});
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
              const Tensor* residual, int32_t out_dtype) {
  expect_width(x, w);
  Tensor y = tape.tensor(x.rows, w.rows, out_dtype == kSameDtype ? x.dtype : out_dtype);
  forward(tape, x, w, w.rows, b, y, 0, activation, residual);
  const Tensor r = residual ? *residual : Tensor{};
  if (!tape.wants_grad(x) && !tape.wants_grad(r) && !trainable(w, b)) return y;
  y = tape.variable(y);
  // A frozen layer's gradient needs nothing of its input, and of RELU's output the signs.
  const bool frozen = !trainable(w, b);
  Tensor saved;
  if (activation != ALLMREC_ACT_NONE) saved = y;
  if (activation == ALLMREC_ACT_RELU && frozen) {
    saved = tape.tensor(1, (y.size() + 7) / 8, ALLMREC_I8);
    activation = ALLMREC_ACT_RELU_BITS;
    tape.device().activation({y.size(), activation, y.data, saved.data, y.dtype});
  }
  tape.record([&tape, precision = tape.precision(), x = frozen ? x.outline() : x, w, b, y = y.outline(),
               r = r.outline(), saved, activation] {
    const Tensor dy = tape.take_grad(y);
    if (dy.data == nullptr) return;
    if (saved.data)
      tape.device().activation_backward({y.size(), activation, dy.data, saved.data, dy.data, 0, y.dtype});
    backward_input(tape, precision, x, w, w.rows, dy, 0);
    backward_weights(tape, precision, x, w, b, dy, 0);
    if (tape.wants_grad(r)) tape.give_grad(r, dy);
  });
  return y;
}

void add_linear(Tape& tape, const Tensor& x, ParameterView w, ParameterView b, const Tensor& y) {
  expect_width(x, w);
  forward(tape, x, w, w.rows, b, y, 0, ALLMREC_ACT_NONE, &y);
}

namespace {

// Whether `second` begins where `first` ends.
bool adjoins(const ParameterView& first, const ParameterView& second) {
  if (!first || !second) return !first && !second;
  if (first.dtype() != second.dtype() || first.cols() != second.cols()) return false;
  const ParameterView behind(first.parameter, first.row + first.rows, 0);
  return behind.data() == second.data() && behind.scales() == second.scales();
}

// Parts of one input whose weights lie one behind another are one product.
struct Run {
  size_t first, count;
  int64_t rows;
};
std::vector<Run> runs_of(const std::vector<Projection>& parts) {
  std::vector<Run> runs;
  for (size_t i = 0; i < parts.size(); ++i) {
    const Projection& p = parts[i];
    if (i > 0 && parts[i - 1].x.data == p.x.data && adjoins(parts[i - 1].weight, p.weight) &&
        adjoins(parts[i - 1].bias, p.bias)) {
      ++runs.back().count;
      runs.back().rows += p.weight.rows;
    } else {
      runs.push_back({i, 1, p.weight.rows});
    }
  }
  return runs;
}

}  // namespace

Tensor projections(Tape& tape, const std::vector<Projection>& parts) {
  int64_t width = 0;
  bool wanted = false;
  for (const Projection& p : parts) {
    expect_width(p.x, p.weight);
    width += p.weight.rows;
    wanted = wanted || tape.wants_grad(p.x) || trainable(p.weight, p.bias);
  }
  Tensor y = tape.tensor(parts.front().x.rows, width, parts.front().x.dtype);
  const std::vector<Run> runs = runs_of(parts);
  int64_t column = 0;
  for (const Run& run : runs) {
    const Projection& p = parts[run.first];
    forward(tape, p.x, p.weight, run.rows, p.bias, y, column, ALLMREC_ACT_NONE, nullptr);
    column += run.rows;
  }
  if (!wanted) return y;
  y = tape.variable(y);
  std::vector<Projection> kept = parts;
  for (Projection& p : kept)
    if (!trainable(p.weight, p.bias)) p.x = p.x.outline();
  tape.record([&tape, precision = tape.precision(), parts = std::move(kept), runs, y = y.outline()] {
    const Tensor dy = tape.take_grad(y);
    if (dy.data == nullptr) return;
    int64_t column = 0;
    for (const Run& run : runs) {
      backward_input(tape, precision, parts[run.first].x, parts[run.first].weight, run.rows, dy, column);
      for (size_t i = run.first; i < run.first + run.count; ++i) {
        backward_weights(tape, precision, parts[i].x, parts[i].weight, parts[i].bias, dy, column);
        column += parts[i].weight.rows;
      }
    }
  });
  return y;
}

Tensor matmul_transposed(Tape& tape, const Tensor& a, const Tensor& b, float alpha) {
  Tensor y = tape.tensor(a.rows, b.rows);
  auto gemm = [&tape, alpha, precision = tape.precision()](const float* x, int64_t ldx, int tx,
                                                           const float* z, int64_t ldz, int tz, float* out,
                                                           int64_t m, int64_t n, int64_t k, int accumulate) {
    allmrec_gemm_args g = product(precision);
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
  gemm(a.f32(), a.cols, 0, b.f32(), b.cols, 1, y.f32(), a.rows, b.rows, a.cols, 0);
  if (!tape.wants_grad(a) && !tape.wants_grad(b)) return y;
  y = tape.variable(y);
  tape.record([&tape, gemm, a, b, y = y.outline()] {
    const Tensor gradient = tape.take_grad(y);
    if (gradient.data == nullptr) return;
    const float* dy = gradient.f32();
    if (tape.wants_grad(a)) {
      const Tape::Grad da = tape.grad_target(a);
      gemm(dy, y.cols, 0, b.f32(), b.cols, 0, da.f32(), a.rows, a.cols, b.rows, da.accumulate);
    }
    if (tape.wants_grad(b)) {
      const Tape::Grad db = tape.grad_target(b);
      gemm(dy, y.cols, 1, a.f32(), a.cols, 0, db.f32(), b.rows, b.cols, a.rows, db.accumulate);
    }
  });
  return y;
}

}  // namespace allmrec::ops
