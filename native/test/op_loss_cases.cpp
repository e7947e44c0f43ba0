// Cases of bce, mse, cross_entropy, sum and squared_norm.
#include <cmath>

#include "op_fixture.h"

namespace allmrec::test {

namespace {

const int64_t kSizes[] = {0, 1, 19, 1000, 20011};

void test_bce(Fixture& f, int variant) {
  for (const int64_t n : kSizes) {
    Values x = f.uniform(n, -10, 10);
    if (n >= 19) x[0] = 300, x[1] = -300, x[2] = 0, x[3] = 1e-20f, x[18] = 88.9f;
    const Values targets = variant == 0 ? f.uniform(n, 0, 1) : Values{},
                 weights = variant == 2 ? f.uniform(n) : Values{};
    const double target = variant == 1 ? 1 : 0;
    const reference::Loss expected = reference::bce(x, targets, target, weights, 0.125);
    float *loss = f.output(Values{3}), *dx = f.output(n);
    const float *in = f.upload(x), *in_targets = f.upload(targets), *in_weights = f.upload(weights);
    f.run(&allmrec_backend::bce,
          allmrec_bce_args{n, in, in_targets, static_cast<float>(target), in_weights, 0.125f, loss, 0, dx});
    f.expect("loss", loss, {expected.loss});
    f.expect("d_logits", dx, expected.gradient);
    loss = f.output(Values{3});
    f.run(&allmrec_backend::bce, allmrec_bce_args{n, in, in_targets, static_cast<float>(target), in_weights,
                                                  0.125f, loss, 1, nullptr});
    f.expect("loss added", loss, {3 + expected.loss});
  }
}

// Large logits on the right side: the loss is e^−|x|, not the rounding of something near one.
void test_bce_tail(Fixture& f, int) {
  for (const float x : {5.0f, 12.0f, 20.0f, 80.0f}) {
    float *loss = f.output(1), *dx = f.output(1);
    f.run(&allmrec_backend::bce,
          allmrec_bce_args{1, f.upload(Values{-x}), nullptr, 0, nullptr, 1, loss, 0, dx});
    const reference::Loss expected = reference::bce({-x}, {}, 0, {}, 1);
    f.expect("loss", loss, {expected.loss});
    f.expect("gradient", dx, expected.gradient);
  }
  float *loss = f.output(1), *dx = f.output(1);
  f.run(&allmrec_backend::bce,
        allmrec_bce_args{1, f.upload(Values{std::nan("")}), nullptr, 0, nullptr, 1, loss, 0, dx});
  f.expect("NaN loss", loss, {std::nan("")});
  f.expect("NaN gradient", dx, {std::nan("")});
}

void test_mse(Fixture& f, int) {
  for (const int64_t n : kSizes) {
    const Values a = f.uniform(n), b = f.uniform(n), before = f.uniform(n);
    const reference::Loss expected = reference::mse(a, b, 0.5);
    float *loss = f.output(1), *da = f.output(n), *db = f.output(before);
    const float *in_a = f.upload(a), *in_b = f.upload(b);
    f.run(&allmrec_backend::mse, allmrec_mse_args{n, in_a, in_b, 0.5f, loss, 0, da, 0, db, 1});
    f.expect("loss", loss, {expected.loss});
    f.expect("da", da, expected.gradient);
    Values expected_b(n);
    for (int64_t i = 0; i < n; ++i) expected_b[i] = before[i] - expected.gradient[i];
    f.expect("db added", db, expected_b);
    loss = f.output(Values{2});
    f.run(&allmrec_backend::mse, allmrec_mse_args{n, in_a, in_b, 0.5f, loss, 1, nullptr, 0, nullptr, 0});
    f.expect("loss added", loss, {2 + expected.loss});
  }
}

void test_cross_entropy(Fixture& f, int variant) {
  const int64_t shapes[][3] = {{40, 101, 101}, {12, 5027, 5100}, {3, 1, 1}, {0, 7, 7}, {9, 16, 20}};
  const auto [rows, cols, ld] = shapes[variant];
  const Values x = f.uniform(rows * ld, -8, 8);
  Ints targets = f.integers(rows, 0, static_cast<int32_t>(cols - 1));
  for (size_t i = 2; i < targets.size(); i += 4) targets[i] = -1;
  const reference::CrossEntropy expected = reference::cross_entropy(rows, cols, x, ld, targets, 0.5);
  float *in = f.upload(x), *log_prob = f.output(rows), *loss = f.output(1), *dx = f.output(rows * ld);
  const int32_t* in_targets = f.upload(targets);
  f.run(&allmrec_backend::cross_entropy,
        allmrec_cross_entropy_args{rows, cols, in, ld, in_targets, 0.5f, log_prob, loss, 0, dx, ld});
  f.expect("log_prob", log_prob, expected.log_prob);
  f.expect("loss", loss, {expected.loss});
  f.expect_matrix("d_logits", dx, rows, cols, ld, expected.d_logits);
  loss = f.output(Values{2});
  f.run(&allmrec_backend::cross_entropy,
        allmrec_cross_entropy_args{rows, cols, in, ld, in_targets, 0.5f, nullptr, loss, 1, nullptr, 0});
  f.expect("loss added", loss, {2 + expected.loss});
  f.run(&allmrec_backend::cross_entropy,
        allmrec_cross_entropy_args{rows, cols, in, ld, in_targets, 0.5f, nullptr, nullptr, 0, in, ld});
  Values in_place(rows * ld);
  for (int64_t i = 0; i < rows * ld; ++i)
    in_place[i] = i % ld < cols ? expected.d_logits[i / ld * cols + i % ld] : x[i];
  f.expect("in place", in, in_place);
}

void test_cross_entropy_edges(Fixture& f, int) {
  const int64_t cols = 37;
  Values x = f.uniform(5 * cols);
  for (int64_t j = 0; j < cols; ++j) {
    x[j] += 1e4;                             // far from zero
    x[cols + j] = j == 5 ? 100 : -INFINITY;  // all mass on the target
    x[2 * cols + j] = j == 8 ? 60 : 0;       // the target is hopeless
    if (j == 36) x[4 * cols + j] = std::nan("");
  }
  for (int64_t j = 0; j < cols; ++j) x[j] = static_cast<float>(x[j]);
  const Ints targets = {3, 5, 9, 0, 1};
  reference::CrossEntropy expected = reference::cross_entropy(5, cols, x, cols, targets, 1);
  expected.log_prob[4] = expected.loss = std::nan("");
  for (int64_t j = 0; j < cols; ++j) expected.d_logits[4 * cols + j] = std::nan("");
  float *log_prob = f.output(5), *loss = f.output(1), *dx = f.output(5 * cols);
  f.run(&allmrec_backend::cross_entropy,
        allmrec_cross_entropy_args{5, cols, f.upload(x), cols, f.upload(targets), 1, log_prob, loss, 0, dx,
                                   cols});
  f.expect("log_prob", log_prob, expected.log_prob);
  f.expect("loss", loss, {expected.loss});
  f.expect("d_logits", dx, expected.d_logits);
}

void test_sum(Fixture& f, int) {
  for (const int64_t n : {0, 1, 19, 1000, 300007}) {
    const Values x = f.uniform(n, 0, 1);
    double expected = 0;
    for (double v : x) expected += 0.5 * v;
    float* out = f.output(1);
    const float* in = f.upload(x);
    f.run(&allmrec_backend::sum, allmrec_sum_args{n, in, 0.5f, out, 0});
    f.expect("out", out, {expected});
    out = f.output(Values{5});
    f.run(&allmrec_backend::sum, allmrec_sum_args{n, in, 0.5f, out, 1});
    f.expect("out added", out, {5 + expected});
  }
}

void test_squared_norm(Fixture& f, int variant) {
  const std::vector<int64_t> all = {50, 0, 20000, 1, 8193};
  const std::vector<int64_t> sizes(all.begin(), variant == 0 ? all.end() : all.begin());
  std::vector<const float*> tensors;
  double expected = 0;
  for (int64_t n : sizes) {
    const Values x = f.uniform(n);
    for (double v : x) expected += v * v;
    tensors.push_back(f.upload(x));
  }
  float* out = f.output(1);
  f.run(&allmrec_backend::squared_norm,
        allmrec_squared_norm_args{tensors.data(), sizes.data(), static_cast<int64_t>(sizes.size()), out});
  f.expect("out", out, {expected});
}

}  // namespace

void loss_cases(Cases& cases) {
  add_cases(cases, "bce", kElementary, test_bce, {"targets", "target 1", "weights"});
  add_cases(cases, "bce", kElementary, test_bce_tail, {"tails and NaN"});
  add_cases(cases, "mse", kLoss, test_mse, {"all sizes"});
  add_cases(cases, "cross_entropy", kElementary, test_cross_entropy,
            {"40x101", "12x5027 strided", "one column", "no rows", "9x16 strided"});
  add_cases(cases, "cross_entropy", kElementary, test_cross_entropy_edges,
            {"large, infinite and NaN logits"});
  add_cases(cases, "sum", kLoss, test_sum, {"all sizes"});
  add_cases(cases, "squared_norm", kLoss, test_squared_norm, {"five tensors", "none"});
}

}  // namespace allmrec::test
