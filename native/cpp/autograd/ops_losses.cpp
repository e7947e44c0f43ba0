#include <algorithm>

#include "ops.h"

namespace allmrec::ops {
namespace {

// Loss kernels overwrite d_logits; when another term has left a gradient there already, this one is added to
// it.
template <typename Fn>
void leave_gradient(Tape& tape, const Tensor& t, float weight, Fn&& compute) {
  if (!tape.wants_grad(t) || weight == 0.0f) {
    compute(static_cast<float*>(nullptr));
    return;
  }
  const Tape::Grad target = tape.grad_target(t);
  if (!target.accumulate) {
    compute(target.f32());
    return;
  }
  const Tensor fresh = tape.tensor(t.rows, t.cols);
  compute(fresh.f32());
  tape.device().add({t.size(), 1.0f, fresh.data, 0.0f, nullptr, target.data, 1, ALLMREC_F32});
}

}  // namespace

void bce_loss(Tape& tape, const std::string& name, const Tensor& logits, float target, float scale,
              float weight, const float* row_weights) {
  const LossTerm term = tape.add_loss(name, weight);
  leave_gradient(tape, logits, weight, [&](float* d_logits) {
    allmrec_bce_args a{};
    a.n = logits.size();
    a.logits = logits.f32();
    a.target = target;
    a.weights = row_weights;
    a.scale = scale * term.factor;
    a.loss = term.value;
    a.d_logits = d_logits;
    tape.device().bce(a);
  });
}

void mse_loss(Tape& tape, const std::string& name, const Tensor& a, const Tensor& b, float weight) {
  const LossTerm term = tape.add_loss(name, weight);
  allmrec_mse_args m{};
  m.n = a.size();
  m.a = a.f32();
  m.b = b.f32();
  m.scale = term.factor / static_cast<float>(std::max<int64_t>(a.size(), 1));
  m.loss = term.value;
  if (weight != 0.0f && tape.wants_grad(a)) {
    const Tape::Grad da = tape.grad_target(a);
    m.da = da.f32();
    m.accumulate_a = da.accumulate;
  }
  if (weight != 0.0f && tape.wants_grad(b)) {
    const Tape::Grad db = tape.grad_target(b);
    m.db = db.f32();
    m.accumulate_b = db.accumulate;
  }
  tape.device().mse(m);
}

void cross_entropy_loss(Tape& tape, const std::string& name, const Tensor& logits, const IntTensor& targets,
                        float scale, float weight) {
  const LossTerm term = tape.add_loss(name, weight);
  leave_gradient(tape, logits, weight, [&](float* d_logits) {
    allmrec_cross_entropy_args a{};
    a.rows = logits.rows;
    a.cols = logits.cols;
    a.logits = logits.f32();
    a.ld = logits.cols;
    a.targets = targets.data;
    a.scale = scale * term.factor;
    a.loss = term.value;
    a.d_logits = d_logits;
    a.ld_d = logits.cols;
    tape.device().cross_entropy(a);
  });
}

void linear_cross_entropy_loss(Tape& tape, const std::string& name, const Tensor& x, ParameterView w,
                               const IntTensor& targets, float scale, float weight) {
  const LossTerm term = tape.add_loss(name, weight);
  const bool wants_x = weight != 0.0f && tape.wants_grad(x);
  float* dw = weight != 0.0f && tape.recording() ? w.grad() : nullptr;
  const bool backward = wants_x || dw;
  const Tape::Grad dx = wants_x ? tape.grad_target(x) : Tape::Grad{nullptr, 0};
  const int64_t vocabulary = w.rows;
  const int64_t block = std::max<int64_t>(1, std::min<int64_t>(x.rows, (int64_t{4} << 20) / vocabulary));
  const Tensor logits = tape.tensor(block, vocabulary);
  // The gradient of the logits takes part in products in x's dtype.
  const Tensor d_logits =
      backward && x.dtype != ALLMREC_F32 ? tape.tensor(block, vocabulary, x.dtype) : logits;
  Tensor dx_rows = x;
  dx_rows.data = dx.data;
  if (x.rows == 0) tape.device().fill(term.value, 1, 0.0f);
  for (int64_t row = 0; row < x.rows; row += block) {
    const int64_t rows = std::min(block, x.rows - row);
    allmrec_gemm_args g{};
    g.m = rows;
    g.n = vocabulary;
    g.k = x.cols;
    g.a = x.at(row);
    g.a_dtype = x.dtype;
    g.lda = x.cols;
    g.b = w.data();
    g.b_dtype = w.dtype();
    g.b_scales = w.scales();
    g.ldb = x.cols;
    g.trans_b = 1;
    g.c = logits.data;
    g.ldc = vocabulary;
    g.alpha = 1.0f;
    g.compute_dtype = tape.precision().compute_dtype;
    tape.device().gemm(g);
    allmrec_cross_entropy_args a{};
    a.rows = rows;
    a.cols = vocabulary;
    a.logits = logits.f32();
    a.ld = vocabulary;
    a.targets = targets.data + row;
    a.scale = scale * term.factor;
    a.loss = term.value;
    a.accumulate_loss = row > 0;
    a.d_logits = backward ? logits.f32() : nullptr;
    a.ld_d = vocabulary;
    tape.device().cross_entropy(a);
    if (!backward) continue;
    if (d_logits.dtype != ALLMREC_F32)
      tape.device().cast({rows * vocabulary, logits.data, ALLMREC_F32, d_logits.data, d_logits.dtype});
    if (wants_x) {
      g.n = x.cols;
      g.k = vocabulary;
      g.a = d_logits.data;
      g.lda = vocabulary;
      g.trans_b = 0;
      g.c = dx_rows.at(row);
      g.c_dtype = x.dtype;
      g.ldc = x.cols;
      g.accumulate = dx.accumulate;
      tape.device().gemm(g);
    }
    if (dw) {
      allmrec_gemm_args t{};
      t.m = vocabulary;
      t.n = x.cols;
      t.k = rows;
      t.a = d_logits.data;
      t.a_dtype = d_logits.dtype;
      t.lda = vocabulary;
      t.trans_a = 1;
      t.b = x.at(row);
      t.b_dtype = x.dtype;
      t.ldb = x.cols;
      t.c = dw;
      t.ldc = x.cols;
      t.alpha = 1.0f;
      t.accumulate = 1;
      t.compute_dtype = tape.precision().compute_dtype;
      tape.device().gemm(t);
    }
  }
}

void weighted_sum_loss(Tape& tape, const std::string& name, const Tensor& x, const Tensor& w, float weight) {
  const LossTerm term = tape.add_loss(name, weight);
  const Tensor product = tape.tensor(x.rows, x.cols);
  tape.device().mul({x.size(), x.f32(), w.f32(), product.f32(), 0});
  tape.device().sum({x.size(), product.f32(), term.factor, term.value, 0});
  if (weight == 0.0f || !tape.wants_grad(x)) return;
  const Tape::Grad dx = tape.grad_target(x);
  tape.device().add({x.size(), weight, w.data, 0.0f, nullptr, dx.data, dx.accumulate, ALLMREC_F32});
}

}  // namespace allmrec::ops
