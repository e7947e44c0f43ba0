#include <utility>

#include "ops.h"

namespace allmrec::ops {

namespace {

EmbeddingInput without_soft_data(EmbeddingInput in) {
  in.soft = in.soft.outline();
  return in;
}

}  // namespace

Tensor embedding(Tape& tape, const EmbeddingInput& in) {
  const int64_t cols = in.table->value.cols;
  Tensor y = tape.tensor(in.ids.size, cols, in.dtype);
  allmrec_embedding_args a{};
  a.tokens = in.ids.size;
  a.cols = cols;
  a.ids = in.ids.data;
  a.table = in.table->value.data;
  a.table_dtype = in.table->dtype();
  a.table_scales = in.table->scales;
  a.table_rows = in.table->value.rows;
  a.soft = in.soft.f32();
  a.soft_rows = in.soft.rows;
  a.scale = in.scale;
  if (in.positions) {
    a.positions = in.positions->value.f32();
    a.position_rows = in.positions->value.rows;
    a.position_ids = in.position_ids.data;
  }
  a.constant = in.constant ? in.constant.f32() : nullptr;
  a.dropout = tape.dropout(in.dropout_rate);
  a.out = y.data;
  a.out_dtype = y.dtype;
  tape.device().embedding(a);
  const bool wanted = tape.recording() && (in.table->trainable() || tape.wants_grad(in.soft) ||
                                           (in.positions && in.positions->trainable()));
  if (!wanted) return y;
  y = tape.variable(y);
  tape.record([&tape, in = without_soft_data(in), y = y.outline(), mask = a.dropout] {
    const Tensor dy = tape.take_grad(y);
    if (dy.data == nullptr) return;
    allmrec_embedding_backward_args b{};
    b.tokens = y.rows;
    b.cols = y.cols;
    b.ids = in.ids.data;
    b.position_ids = in.position_ids.data;
    b.dy = dy.data;
    b.dy_dtype = y.dtype;
    b.scale = in.scale;
    b.dropout = mask;
    b.d_table = in.table->grad;
    b.table_rows = in.table->value.rows;
    b.soft_rows = in.soft.rows;
    if (tape.wants_grad(in.soft)) {
      const Tape::Grad d_soft = tape.grad_target(in.soft);
      if (!d_soft.accumulate) tape.clear(in.soft, d_soft.data);
      b.d_soft = d_soft.f32();
    }
    if (in.positions) {
      b.d_positions = in.positions->grad;
      b.position_rows = in.positions->value.rows;
    }
    b.d_constant = in.constant ? in.constant.grad() : nullptr;
    tape.device().embedding_backward(b);
  });
  return y;
}

Tensor gather_rows(Tape& tape, const Tensor& x, const IntTensor& rows) {
  Tensor y = tape.tensor(rows.size, x.cols, x.dtype);
  tape.device().gather_rows({rows.size, x.cols, rows.data, x.data, x.cols, y.data, x.cols, x.dtype});
  if (!tape.wants_grad(x)) return y;
  y = tape.variable(y);
  tape.record([&tape, x = x.outline(), y = y.outline(), rows] {
    const Tensor dy = tape.take_grad(y);
    if (dy.data == nullptr) return;
    const Tape::Grad dx = tape.grad_target(x);
    if (!dx.accumulate) tape.clear(x, dx.data);
    tape.device().scatter_add_rows({rows.size, x.cols, rows.data, dy.data, x.cols, dx.data, x.cols, x.dtype});
  });
  return y;
}

Tensor gather_rows(Tape& tape, Parameter& table, const IntTensor& rows, int32_t dtype) {
  EmbeddingInput in;
  in.ids = rows;
  in.table = &table;
  in.dtype = dtype;
  return embedding(tape, in);
}

Tensor concat_rows(Tape& tape, const Tensor& a, const Tensor& b) {
  if (a.rows == 0) return b;
  if (b.rows == 0) return a;
  Tensor y = tape.tensor(a.rows + b.rows, a.cols, a.dtype);
  Device& device = tape.device();
  device.copy_2d({a.rows, a.cols, a.data, a.cols, y.data, a.cols, 0, a.dtype});
  device.copy_2d({b.rows, a.cols, b.data, a.cols, y.at(a.rows), a.cols, 0, a.dtype});
  if (!tape.wants_grad(a) && !tape.wants_grad(b)) return y;
  y = tape.variable(y);
  tape.record([&tape, a = a.outline(), b = b.outline(), y = y.outline()] {
    const Tensor dy = tape.take_grad(y);
    if (dy.data == nullptr) return;
    auto part = [&tape](const Tensor& t, const void* from) {
      if (!tape.wants_grad(t)) return;
      const Tape::Grad target = tape.grad_target(t);
      tape.device().copy_2d({t.rows, t.cols, from, t.cols, target.data, t.cols, target.accumulate, t.dtype});
    };
    part(a, dy.data);
    part(b, dy.at(a.rows));
  });
  return y;
}

Tensor segment_mean(Tape& tape, const Tensor& x, const IntTensor& offsets) {
  Tensor y = tape.tensor(offsets.size - 1, x.cols, x.dtype);
  tape.device().segment_mean({y.rows, x.cols, offsets.data, x.data, y.data, 0, x.dtype});
  if (!tape.wants_grad(x)) return y;
  y = tape.variable(y);
  tape.record([&tape, x = x.outline(), y = y.outline(), offsets] {
    const Tensor dy = tape.take_grad(y);
    if (dy.data == nullptr) return;
    const Tape::Grad dx = tape.grad_target(x);
    tape.device().segment_mean_backward(
        {y.rows, x.cols, offsets.data, dy.data, dx.data, dx.accumulate, x.dtype});
  });
  return y;
}

Tensor gru_layer(Tape& tape, const Tensor& x, int64_t batch, int64_t steps, Parameter& w_ih, Parameter& w_hh,
                 Parameter& b_ih, Parameter& b_hh, const Tensor& h0) {
  const int64_t hidden = w_hh.value.cols;
  const Tensor gates = linear(tape, x, &w_ih, &b_ih);
  Tensor y = tape.tensor(batch * steps, hidden);
  allmrec_gru_args a{};
  a.batch = batch;
  a.steps = steps;
  a.hidden = hidden;
  a.gates_x = gates.f32();
  a.w_hh = w_hh.value.f32();
  a.b_hh = b_hh.value.f32();
  a.h0 = h0.f32();
  a.out = y.f32();
  const Tensor saved = tape.tensor(batch * steps, 4 * hidden);
  a.saved = saved.f32();
  tape.device().gru(a);
  if (!tape.wants_grad(gates) && !tape.wants_grad(h0)) return y;
  y = tape.variable(y);
  tape.record([&tape, a, y, saved, gates, h0, &w_hh, &b_hh] {
    const Tensor dy = tape.take_grad(y);
    if (dy.data == nullptr) return;
    allmrec_gru_backward_args b{};
    b.forward = a;
    b.d_out = dy.f32();
    const Tensor d_gates = tape.tensor(gates.rows, gates.cols);
    const Tensor d_h0 = tape.tensor(h0.rows, h0.cols);
    b.d_gates_x = d_gates.f32();
    b.d_h0 = d_h0.f32();
    b.d_w_hh = w_hh.grad;
    b.d_b_hh = b_hh.grad;
    tape.device().gru_backward(b);
    if (tape.wants_grad(gates)) tape.give_grad(gates, d_gates);
    if (tape.wants_grad(h0)) tape.give_grad(h0, d_h0);
  });
  return y;
}

Tensor propagate(Tape& tape, const SparseMatrix& a, Parameter& x, int layers) {
  const int64_t c = x.value.cols;
  const float share = 1.0f / static_cast<float>(layers + 1);
  const auto multiply = [&tape, a, c](const float* from, float* to) {
    tape.device().spmm({a.rows, c, a.offsets, a.columns, a.values, from, to, 0});
  };
  const auto add = [&tape, n = x.value.size()](float alpha, const float* from, float beta, const float* other,
                                               float* to, int32_t accumulate) {
    tape.device().add({n, alpha, from, beta, other, to, accumulate, ALLMREC_F32});
  };
  Tensor y = tape.tensor(a.rows, c), power = tape.tensor(a.rows, c), next = tape.tensor(a.rows, c);
  add(share, x.value.f32(), 0.0f, nullptr, y.f32(), 0);
  for (int layer = 0; layer < layers; ++layer) {
    multiply(layer == 0 ? x.value.f32() : power.f32(), next.f32());
    add(share, next.f32(), 0.0f, nullptr, y.f32(), 1);
    std::swap(power, next);
  }
  if (!tape.recording() || !x.trainable()) return y;
  y = tape.variable(y);
  tape.record([&tape, multiply, add, share, layers, &x, y = y.outline()] {
    const Tensor dy = tape.take_grad(y);
    if (dy.data == nullptr) return;
    // share · (g + A(g + A(g + …))): A is its own transpose.
    Tensor sum = tape.tensor(y.rows, y.cols), product = tape.tensor(y.rows, y.cols);
    add(1.0f, dy.f32(), 0.0f, nullptr, sum.f32(), 0);
    for (int layer = 0; layer < layers; ++layer) {
      multiply(sum.f32(), product.f32());
      add(1.0f, dy.f32(), 1.0f, product.f32(), sum.f32(), 0);
    }
    add(share, sum.f32(), 0.0f, nullptr, x.grad, 1);
  });
  return y;
}

Tensor columns(Tape& tape, const Tensor& x, int64_t first, int64_t count) {
  Tensor y = tape.tensor(x.rows, count, x.dtype);
  tape.device().copy_2d({x.rows, count, x.at(0, first), x.cols, y.data, count, 0, x.dtype});
  if (!tape.wants_grad(x)) return y;
  y = tape.variable(y);
  tape.record([&tape, first, x = x.outline(), y = y.outline()] {
    const Tensor dy = tape.take_grad(y);
    if (dy.data == nullptr) return;
    const Tape::Grad dx = tape.grad_target(x);
    if (!dx.accumulate) tape.clear(x, dx.data);
    Tensor part = x;
    part.data = dx.data;
    tape.device().copy_2d({y.rows, y.cols, dy.data, y.cols, part.at(0, first), x.cols, 1, x.dtype});
  });
  return y;
}

Tensor concat_columns(Tape& tape, const Tensor& a, const Tensor& b) {
  Tensor y = tape.tensor(a.rows, a.cols + b.cols, a.dtype);
  Device& device = tape.device();
  device.copy_2d({a.rows, a.cols, a.data, a.cols, y.data, y.cols, 0, a.dtype});
  device.copy_2d({b.rows, b.cols, b.data, b.cols, y.at(0, a.cols), y.cols, 0, a.dtype});
  if (!tape.wants_grad(a) && !tape.wants_grad(b)) return y;
  y = tape.variable(y);
  tape.record([&tape, a = a.outline(), b = b.outline(), y = y.outline()] {
    const Tensor dy = tape.take_grad(y);
    if (dy.data == nullptr) return;
    auto part = [&](const Tensor& t, int64_t first) {
      if (!tape.wants_grad(t)) return;
      const Tape::Grad to = tape.grad_target(t);
      tape.device().copy_2d(
          {t.rows, t.cols, dy.at(0, first), y.cols, to.data, t.cols, to.accumulate, t.dtype});
    };
    part(a, 0);
    part(b, a.cols);
  });
  return y;
}

Tensor causal_conv(Tape& tape, const Tensor& x, int64_t batch, int64_t steps, Parameter& weight,
                   Parameter& bias, int dilation) {
  allmrec_conv_args forward{};
  forward.batch = batch;
  forward.steps = steps;
  forward.taps = static_cast<int32_t>(weight.shape[0]);
  forward.c_out = weight.shape[1];
  forward.c_in = weight.shape[2];
  forward.dilation = dilation;
  forward.w = weight.value.f32();
  forward.bias = bias.value.f32();
  Tensor y = tape.tensor(x.rows, forward.c_out);
  forward.x = x.f32();
  forward.y = y.f32();
  tape.device().conv(forward);
  const bool wanted = tape.wants_grad(x) || (tape.recording() && weight.trainable());
  if (!wanted) return y;
  y = tape.variable(y);
  tape.record([&tape, forward, x, y = y.outline(), &weight, &bias]() mutable {
    const Tensor dy = tape.take_grad(y);
    if (dy.data == nullptr) return;
    forward.x = x.f32();
    allmrec_conv_backward_args a{};
    a.forward = forward;
    a.dy = dy.f32();
    if (tape.wants_grad(x)) {
      const Tape::Grad dx = tape.grad_target(x);
      a.dx = dx.f32();
      a.accumulate = dx.accumulate;
    }
    a.d_w = weight.grad;
    a.d_bias = bias.grad;
    tape.device().conv_backward(a);
  });
  return y;
}

}  // namespace allmrec::ops
