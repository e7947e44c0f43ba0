// Cases of gru and adam.
#include <cmath>

#include "op_fixture.h"

namespace allmrec::test {

namespace {

const int64_t kGruShapes[][3] = {{5, 7, 16}, {3, 4, 50}, {70, 3, 33}, {1, 1, 1}, {0, 3, 5}, {2, 0, 5}};
const std::vector<std::string> kGruNames = {"5x7x16", "3x4x50",   "70x3x33, no bias",
                                            "1x1x1",  "no batch", "no steps"};

reference::Gru make_gru(Fixture& f, int variant) {
  const auto [batch, steps, h] = kGruShapes[variant];
  reference::Gru g = {batch,
                      steps,
                      h,
                      f.uniform(batch * steps * 3 * h, -2, 2),
                      f.uniform(3 * h * h, -0.3, 0.3),
                      f.uniform(3 * h),
                      f.uniform(batch * h)};
  if (variant == 2) g.b_hh.clear();
  return g;
}

void test_gru(Fixture& f, int variant) {
  const reference::Gru g = make_gru(f, variant);
  const reference::GruOutput expected = reference::gru(g);
  const int64_t n = g.batch * g.steps * g.hidden;
  float *out = f.output(n), *saved = f.output(4 * n);
  f.run(&allmrec_backend::gru,
        allmrec_gru_args{g.batch, g.steps, g.hidden, f.upload(g.gates_x), f.upload(g.w_hh), f.upload(g.b_hh),
                         f.upload(g.h0), out, saved});
  f.expect("out", out, expected.out);
  f.expect("saved", saved, expected.saved);
}

void test_gru_backward(Fixture& f, int variant) {
  const reference::Gru g = make_gru(f, variant);
  const int64_t n = g.batch * g.steps * g.hidden, h = g.hidden;
  const reference::GruOutput forward = reference::gru(g);
  const Values d_out = f.uniform(n), d_hn = f.uniform(g.batch * h);
  reference::GruGradients expected = reference::gru_backward(g, d_out, d_hn);
  allmrec_gru_backward_args args = {};
  args.forward = {g.batch,
                  g.steps,
                  g.hidden,
                  f.upload(g.gates_x),
                  f.upload(g.w_hh),
                  f.upload(g.b_hh),
                  f.upload(g.h0),
                  f.upload(forward.out),
                  f.upload(forward.saved)};
  args.d_out = f.upload(d_out), args.d_hn = f.upload(d_hn);
  args.d_gates_x = f.output(3 * n), args.d_h0 = f.output(g.batch * h);
  const Values w_before = f.uniform(3 * h * h), b_before = f.uniform(3 * h);
  for (size_t i = 0; i < w_before.size(); ++i) expected.d_w_hh[i] += w_before[i];
  for (size_t i = 0; i < b_before.size(); ++i) expected.d_b_hh[i] += b_before[i];
  args.d_w_hh = f.output(w_before), args.d_b_hh = f.output(b_before);
  f.run(&allmrec_backend::gru_backward, args);
  f.expect("d_gates_x", args.d_gates_x, expected.d_gates_x);
  f.expect("d_h0", args.d_h0, expected.d_h0);
  f.expect("d_w_hh", args.d_w_hh, expected.d_w_hh);
  f.expect("d_b_hh", args.d_b_hh, expected.d_b_hh);
  // Frozen weights, no gradient of the last state.
  args.d_hn = nullptr, args.d_w_hh = args.d_b_hh = nullptr;
  args.d_gates_x = f.output(3 * n), args.d_h0 = f.output(g.batch * h);
  f.run(&allmrec_backend::gru_backward, args);
  const reference::GruGradients alone = reference::gru_backward(g, d_out, {});
  f.expect("d_gates_x alone", args.d_gates_x, alone.d_gates_x);
  f.expect("d_h0 alone", args.d_h0, alone.d_h0);
}

void test_adam(Fixture& f, int variant) {
  const std::vector<int64_t> sizes = {100, 0, 3, 40000, 17};
  const float lr = 0.1f, beta1 = 0.9f, beta2 = variant == 1 ? 0.98f : 0.999f, eps = 1e-8f;
  const float decay = variant == 1 ? 0.01f : 0.0f, grad_scale = variant == 1 ? 0.3f : 1.0f;
  struct Tensor {
    Values param, grad, m, v;
    float *in_param, *in_grad, *in_m, *in_v;
  };
  std::vector<Tensor> tensors;
  std::vector<allmrec_adam_tensor> list;
  for (int64_t n : sizes) {
    Tensor t = {f.uniform(n), f.uniform(n), Values(n), Values(n), nullptr, nullptr, nullptr, nullptr};
    t.in_param = f.output(t.param), t.in_grad = f.output(t.grad);
    t.in_m = f.output(t.m), t.in_v = f.output(t.v);
    list.push_back({t.in_param, t.in_grad, t.in_m, t.in_v, n});
    tensors.push_back(t);
  }
  const bool zero_grad = variant != 2;
  // Three steps on the same gradient; with zero_grad the later ones see zeros.
  for (int64_t step = 1; step <= 3; ++step) {
    f.run(&allmrec_backend::adam, allmrec_adam_args{list.data(), static_cast<int64_t>(list.size()), lr, beta1,
                                                    beta2, eps, decay, step, grad_scale, zero_grad});
    for (Tensor& t : tensors) {
      reference::adam({lr, beta1, beta2, eps, decay, grad_scale, step}, t.param, t.grad, t.m, t.v);
      if (zero_grad) t.grad.assign(t.grad.size(), 0.0);
    }
  }
  for (Tensor& t : tensors) {
    f.expect("param", t.in_param, t.param);
    f.expect("grad", t.in_grad, t.grad);
    f.expect("m", t.in_m, t.m);
    f.expect("v", t.in_v, t.v);
  }
}

}  // namespace

void model_cases(Cases& cases) {
  add_cases(cases, "gru", kRecurrent, test_gru, kGruNames);
  add_cases(cases, "gru_backward", kRecurrent, test_gru_backward, kGruNames);
  add_cases(cases, "adam",
            {1e-6, "the step is ten times the parameter's size here, with a division and a root"}, test_adam,
            {"plain, zero_grad", "decay, clipped, zero_grad", "gradient kept"});
}

}  // namespace allmrec::test
