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
    compute(target.data);
    return;
  }
  const Tensor fresh = tape.tensor(t.rows, t.cols);
  compute(fresh.data);
  tape.device().add({t.size(), 1.0f, fresh.data, 0.0f, nullptr, target.data, 1});
}

}  // namespace

void bce_loss(Tape& tape, const std::string& name, const Tensor& logits, float target, float scale,
              float weight, const float* row_weights) {
  const LossTerm term = tape.add_loss(name, weight);
  leave_gradient(tape, logits, weight, [&](float* d_logits) {
    allmrec_bce_args a{};
    a.n = logits.size();
    a.logits = logits.data;
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
  m.a = a.data;
  m.b = b.data;
  m.scale = term.factor / static_cast<float>(std::max<int64_t>(a.size(), 1));
  m.loss = term.value;
  if (weight != 0.0f && tape.wants_grad(a)) {
    const Tape::Grad da = tape.grad_target(a);
    m.da = da.data;
    m.accumulate_a = da.accumulate;
  }
  if (weight != 0.0f && tape.wants_grad(b)) {
    const Tape::Grad db = tape.grad_target(b);
    m.db = db.data;
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
    a.logits = logits.data;
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
  if (x.rows == 0) tape.device().fill(term.value, 1, 0.0f);
  for (int64_t row = 0; row < x.rows; row += block) {
    const int64_t rows = std::min(block, x.rows - row);
    float* const x_rows = x.data + row * x.cols;
    allmrec_gemm_args g{};
    g.m = rows;
    g.n = vocabulary;
    g.k = x.cols;
    g.a = x_rows;
    g.lda = x.cols;
    g.b = w.data();
    g.ldb = x.cols;
    g.trans_b = 1;
    g.c = logits.data;
    g.ldc = vocabulary;
    g.alpha = 1.0f;
    tape.device().gemm(g);
    allmrec_cross_entropy_args a{};
    a.rows = rows;
    a.cols = vocabulary;
    a.logits = logits.data;
    a.ld = vocabulary;
    a.targets = targets.data + row;
    a.scale = scale * term.factor;
    a.loss = term.value;
    a.accumulate_loss = row > 0;
    a.d_logits = backward ? logits.data : nullptr;
    a.ld_d = vocabulary;
    tape.device().cross_entropy(a);
    if (wants_x) {
      g.n = x.cols;
      g.k = vocabulary;
      g.a = logits.data;
      g.lda = vocabulary;
      g.trans_b = 0;
      g.c = dx.data + row * x.cols;
      g.ldc = x.cols;
      g.accumulate = dx.accumulate;
      tape.device().gemm(g);
    }
    if (dw) {
      allmrec_gemm_args t{};
      t.m = vocabulary;
      t.n = x.cols;
      t.k = rows;
      t.a = logits.data;
      t.lda = vocabulary;
      t.trans_a = 1;
      t.b = x_rows;
      t.ldb = x.cols;
      t.c = dw;
      t.ldc = x.cols;
      t.alpha = 1.0f;
      t.accumulate = 1;
      tape.device().gemm(t);
    }
  }
}

void weighted_sum_loss(Tape& tape, const std::string& name, const Tensor& x, const Tensor& w, float weight) {
  const LossTerm term = tape.add_loss(name, weight);
  const Tensor product = tape.tensor(x.rows, x.cols);
  tape.device().mul({x.size(), x.data, w.data, product.data, 0});
  tape.device().sum({x.size(), product.data, term.factor, term.value, 0});
  if (weight == 0.0f || !tape.wants_grad(x)) return;
  const Tape::Grad dx = tape.grad_target(x);
  tape.device().add({x.size(), weight, w.data, 0.0f, nullptr, dx.data, dx.accumulate});
}

}  // namespace allmrec::ops
