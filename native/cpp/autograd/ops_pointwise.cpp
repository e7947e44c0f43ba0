#include <utility>

#include "ops.h"

namespace allmrec::ops {

Tensor layer_norm(Tape& tape, const Tensor& x, Parameter& gamma, Parameter& beta, float eps) {
  Tensor y = tape.tensor(x.rows, x.cols, x.dtype);
  const bool wanted = tape.wants_grad(x) || (tape.recording() && gamma.trainable());
  const Tensor mean = wanted ? tape.tensor(1, x.rows) : Tensor{},
               rstd = wanted ? tape.tensor(1, x.rows) : Tensor{};
  tape.device().layer_norm({x.rows, x.cols, x.data, gamma.value.f32(), beta.value.f32(), eps, y.data,
                            mean.f32(), rstd.f32(), x.dtype});
  if (!wanted) return y;
  y = tape.variable(y);
  tape.record([&tape, x, y = y.outline(), mean, rstd, &gamma, &beta] {
    const Tensor dy = tape.take_grad(y);
    if (dy.data == nullptr) return;
    allmrec_layer_norm_backward_args a{};
    a.rows = x.rows;
    a.cols = x.cols;
    a.dy = dy.data;
    a.x = x.data;
    a.gamma = gamma.value.f32();
    a.dtype = x.dtype;
    a.mean = mean.f32();
    a.rstd = rstd.f32();
    if (tape.wants_grad(x)) {
      const Tape::Grad dx = tape.grad_target(x);
      a.dx = dx.data;
      a.accumulate = dx.accumulate;
    }
    a.d_gamma = gamma.grad;
    a.d_beta = beta.grad;
    a.accumulate_params = 1;
    tape.device().layer_norm_backward(a);
  });
  return y;
}

Tensor activation(Tape& tape, int kind, const Tensor& x) {
  if (kind == ALLMREC_ACT_NONE) return x;
  Tensor y = tape.tensor(x.rows, x.cols, x.dtype);
  tape.device().activation({x.size(), kind, x.data, y.data, x.dtype});
  if (!tape.wants_grad(x)) return y;
  y = tape.variable(y);
  const bool from_output =
      kind == ALLMREC_ACT_RELU || kind == ALLMREC_ACT_SIGMOID || kind == ALLMREC_ACT_TANH;
  tape.record([&tape, kind, x = x.outline(), y = y.outline(), saved = from_output ? y : x] {
    const Tensor dy = tape.take_grad(y);
    if (dy.data == nullptr) return;
    const Tape::Grad dx = tape.grad_target(x);
    tape.device().activation_backward({x.size(), kind, dy.data, saved.data, dx.data, dx.accumulate, x.dtype});
  });
  return y;
}

Tensor add(Tape& tape, const Tensor& a, const Tensor& b) {
  Tensor y = tape.tensor(a.rows, a.cols, a.dtype);
  tape.device().add({a.size(), 1.0f, a.data, 1.0f, b.data, y.data, 0, a.dtype});
  if (!tape.wants_grad(a) && !tape.wants_grad(b)) return y;
  y = tape.variable(y);
  tape.record([&tape, a = a.outline(), b = b.outline(), y = y.outline()] {
    const Tensor dy = tape.take_grad(y);
    if (dy.data == nullptr) return;
    if (tape.wants_grad(b)) {
      const Tape::Grad db = tape.grad_target(b);
      tape.device().add({b.size(), 1.0f, dy.data, 0.0f, nullptr, db.data, db.accumulate, b.dtype});
    }
    if (tape.wants_grad(a)) tape.give_grad(a, dy);
  });
  return y;
}

Tensor scale(Tape& tape, const Tensor& x, float factor) {
  Tensor y = tape.tensor(x.rows, x.cols, x.dtype);
  tape.device().add({x.size(), factor, x.data, 0.0f, nullptr, y.data, 0, x.dtype});
  if (!tape.wants_grad(x)) return y;
  y = tape.variable(y);
  tape.record([&tape, x = x.outline(), y = y.outline(), factor] {
    const Tensor dy = tape.take_grad(y);
    if (dy.data == nullptr) return;
    const Tape::Grad dx = tape.grad_target(x);
    tape.device().add({x.size(), factor, dy.data, 0.0f, nullptr, dx.data, dx.accumulate, x.dtype});
  });
  return y;
}

Tensor dropout(Tape& tape, const Tensor& x, float p, const Tensor* residual) {
  const allmrec_dropout mask = tape.dropout(p);
  if (mask.p == 0.0f) return residual ? add(tape, *residual, x) : x;
  Tensor y = tape.tensor(x.rows, x.cols, x.dtype);
  tape.device().dropout({x.size(), mask, x.data, residual ? residual->data : nullptr, y.data, 0, x.dtype});
  const Tensor r = residual ? *residual : Tensor{};
  if (!tape.wants_grad(x) && !tape.wants_grad(r)) return y;
  y = tape.variable(y);
  tape.record([&tape, x = x.outline(), y = y.outline(), r = r.outline(), mask] {
    const Tensor dy = tape.take_grad(y);
    if (dy.data == nullptr) return;
    if (tape.wants_grad(x)) {
      const Tape::Grad dx = tape.grad_target(x);
      tape.device().dropout({x.size(), mask, dy.data, nullptr, dx.data, dx.accumulate, x.dtype});
    }
    if (tape.wants_grad(r)) tape.give_grad(r, dy);
  });
  return y;
}

Tensor cast(Tape& tape, const Tensor& x, int32_t dtype) {
  if (x.dtype == dtype) return x;
  Tensor y = tape.tensor(x.rows, x.cols, dtype);
  tape.device().cast({x.size(), x.data, x.dtype, y.data, dtype});
  if (!tape.wants_grad(x)) return y;
  y = tape.variable(y);
  tape.record([&tape, x = x.outline(), y = y.outline()] {
    const Tensor dy = tape.take_grad(y);
    if (dy.data == nullptr) return;
    const Tensor dx = tape.tensor(x.rows, x.cols, x.dtype);
    tape.device().cast({x.size(), dy.data, y.dtype, dx.data, x.dtype});
    tape.give_grad(x, dx);
  });
  return y;
}

Tensor detach(const Tensor& x) {
  Tensor y = x;
  y.variable = -1;
  return y;
}

Tensor l2_normalize(Tape& tape, const Tensor& x, float eps) {
  Tensor y = tape.tensor(x.rows, x.cols);
  const Tensor norm = tape.tensor(1, x.rows);
  tape.device().l2_normalize({x.rows, x.cols, x.f32(), eps, y.f32(), norm.f32()});
  if (!tape.wants_grad(x)) return y;
  y = tape.variable(y);
  tape.record([&tape, x = x.outline(), y, norm] {
    const Tensor dy = tape.take_grad(y);
    if (dy.data == nullptr) return;
    const Tape::Grad dx = tape.grad_target(x);
    tape.device().l2_normalize_backward(
        {x.rows, x.cols, dy.f32(), y.f32(), norm.f32(), dx.f32(), dx.accumulate});
  });
  return y;
}

Tensor row_dot(Tape& tape, const Tensor& a, const Tensor& b, float scale) {
  Tensor y = tape.tensor(a.rows, 1);
  tape.device().row_dot({a.rows, a.cols, a.f32(), b.f32(), scale, y.f32()});
  if (!tape.wants_grad(a) && !tape.wants_grad(b)) return y;
  y = tape.variable(y);
  tape.record([&tape, a, b, y = y.outline(), scale] {
    const Tensor g = tape.take_grad(y);
    if (g.data == nullptr) return;
    allmrec_row_dot_backward_args args{};
    args.rows = a.rows;
    args.cols = a.cols;
    args.a = a.f32();
    args.b = b.f32();
    args.scale = scale;
    args.g = g.f32();
    if (tape.wants_grad(a)) {
      const Tape::Grad da = tape.grad_target(a);
      args.da = da.f32();
      args.accumulate_a = da.accumulate;
    }
    if (tape.wants_grad(b)) {
      const Tape::Grad db = tape.grad_target(b);
      args.db = db.f32();
      args.accumulate_b = db.accumulate;
    }
    tape.device().row_dot_backward(args);
  });
  return y;
}

Tensor mul(Tape& tape, const Tensor& a, const Tensor& b) {
  Tensor y = tape.tensor(a.rows, a.cols);
  tape.device().mul({a.size(), a.f32(), b.f32(), y.f32(), 0});
  if (!tape.wants_grad(a) && !tape.wants_grad(b)) return y;
  y = tape.variable(y);
  tape.record([&tape, a, b, y = y.outline()] {
    const Tensor dy = tape.take_grad(y);
    if (dy.data == nullptr) return;
    for (const auto& [to, other] : {std::pair(&a, &b), std::pair(&b, &a)}) {
      if (!tape.wants_grad(*to)) continue;
      const Tape::Grad target = tape.grad_target(*to);
      tape.device().mul({to->size(), dy.f32(), other->f32(), target.f32(), target.accumulate});
    }
  });
  return y;
}

}  // namespace allmrec::ops
