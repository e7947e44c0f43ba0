// Cases of gemm, column_sum, layer_norm and the activations.
#include <cmath>

#include "op_fixture.h"

namespace allmrec::test {

namespace {

struct GemmShape {
  int64_t m, n, k;
  bool trans_a, trans_b;
  int64_t gap;  // ld − row length
  bool bias, residual;
  int32_t activation;
  bool accumulate;
  int32_t b_dtype;
};
const std::vector<GemmShape> kGemmShapes = {
    {64, 50, 50, false, true, 0, true, true, ALLMREC_ACT_NONE, false, ALLMREC_F32},
    {37, 150, 33, false, false, 3, true, false, ALLMREC_ACT_RELU, true, ALLMREC_F32},
    {50, 50, 301, true, false, 0, false, false, ALLMREC_ACT_NONE, true, ALLMREC_F32},
    {5, 7, 9, true, true, 1, false, true, ALLMREC_ACT_RELU, false, ALLMREC_F32},
    {1, 769, 96, false, true, 0, true, false, ALLMREC_ACT_NONE, false, ALLMREC_F16},
    {13, 65, 128, false, true, 2, false, false, ALLMREC_ACT_NONE, false, ALLMREC_BF16},
    {6, 10, 0, false, false, 0, true, false, ALLMREC_ACT_NONE, false, ALLMREC_F32},
    {0, 10, 4, false, true, 0, false, false, ALLMREC_ACT_NONE, false, ALLMREC_F32},
};

// Halves with exponents about one: random bits, value in ±[0.5, 2).
std::vector<uint16_t> halves(const Values& values, int32_t dtype, Values& exact) {
  std::vector<uint16_t> bits;
  exact.clear();
  for (double v : values) {
    const uint16_t sign = v < 0 ? 0x8000 : 0;
    const double u = std::fabs(v);
    const uint16_t pattern = dtype == ALLMREC_F16
                                 ? static_cast<uint16_t>(sign | (0x3800 + static_cast<int>(u * 0x7ff)))
                                 : static_cast<uint16_t>(sign | (0x3f00 + static_cast<int>(u * 0xff)));
    bits.push_back(pattern);
    exact.push_back(dtype == ALLMREC_F16 ? reference::half_value(pattern)
                                         : reference::bfloat16_value(pattern));
  }
  return bits;
}

void test_gemm(Fixture& f, int variant) {
  const GemmShape s = kGemmShapes[variant];
  reference::Gemm g = {};
  g.m = s.m, g.n = s.n, g.k = s.k, g.trans_a = s.trans_a, g.trans_b = s.trans_b, g.activation = s.activation;
  g.alpha = 0.75;
  g.lda = (s.trans_a ? s.m : s.k) + s.gap;
  g.ldb = (s.trans_b ? s.k : s.n) + s.gap;
  g.a = f.uniform((s.trans_a ? s.k : s.m) * g.lda);
  g.b = f.uniform((s.trans_b ? s.n : s.k) * g.ldb);
  if (s.bias) g.bias = f.uniform(s.n);
  if (s.residual) g.residual = f.uniform(s.m * s.n);
  const void* b = nullptr;
  if (s.b_dtype == ALLMREC_F32) {
    b = f.upload(g.b);
  } else {
    Values exact;
    const std::vector<uint16_t> bits = halves(g.b, s.b_dtype, exact);
    g.b = exact;
    b = f.upload(bits);
  }
  const int64_t ldc = s.n + s.gap;
  Values expected = reference::gemm(g), before;
  float* c;
  if (s.accumulate) {  // the gap stays NaN
    before = f.uniform(s.m * s.n);
    Values padded(s.m * ldc, std::nan(""));
    for (int64_t i = 0; i < s.m * s.n; ++i) {
      padded[i / s.n * ldc + i % s.n] = before[i];
      expected[i] += before[i];
    }
    c = f.output(padded);
  } else {
    c = f.output(s.m * ldc);
  }
  allmrec_gemm_args args = {};
  args.m = s.m, args.n = s.n, args.k = s.k;
  args.a = f.upload(g.a), args.lda = g.lda, args.trans_a = s.trans_a;
  args.b = b, args.ldb = g.ldb, args.trans_b = s.trans_b, args.b_dtype = s.b_dtype;
  args.c = c, args.ldc = ldc, args.alpha = 0.75f, args.bias = f.upload(g.bias);
  args.residual = f.upload(g.residual), args.ld_residual = s.n;
  args.activation = s.activation, args.accumulate = s.accumulate;
  f.run(&allmrec_backend::gemm, args);
  f.expect_matrix("c", c, s.m, s.n, ldc, expected);
}

void test_column_sum(Fixture& f, int variant) {
  const int64_t shapes[][3] = {{1000, 50, 50}, {77, 768, 770}, {5, 3, 3}, {0, 19, 19}, {3, 4100, 4100}};
  const auto [rows, cols, ld] = shapes[variant];
  for (const bool accumulate : {false, true}) {
    const Values x = f.uniform(rows * ld), before = f.uniform(cols);
    Values expected = reference::column_sum(rows, cols, x, ld);
    float* out = accumulate ? f.output(before) : f.output(cols);
    for (int64_t i = 0; accumulate && i < cols; ++i) expected[i] += before[i];
    f.run(&allmrec_backend::column_sum,
          allmrec_column_sum_args{rows, cols, f.upload(x), ld, out, accumulate, ALLMREC_F32});
    f.expect("out", out, expected);
  }
}

const int64_t kNormShapes[][2] = {{130, 50}, {33, 768}, {7, 1}, {3, 17}, {0, 50}, {5, 64}};

void test_layer_norm(Fixture& f, int variant) {
  const auto [rows, cols] = kNormShapes[variant];
  for (const float eps : {1e-8f, 1e-5f}) {
    const Values x = f.uniform(rows * cols, -2, 4), gamma = f.uniform(cols), beta = f.uniform(cols);
    const reference::LayerNorm expected = reference::layer_norm(rows, cols, x, gamma, beta, eps);
    float *y = f.output(rows * cols), *mean = f.output(rows), *rstd = f.output(rows);
    allmrec_layer_norm_args args = {rows, cols, f.upload(x), f.upload(gamma), f.upload(beta), eps,
                                    y,    mean, rstd,        ALLMREC_F32};
    f.run(&allmrec_backend::layer_norm, args);
    f.expect("y", y, expected.y);
    f.expect("mean", mean, expected.mean);
    f.expect("rstd", rstd, expected.rstd);
    args.mean = args.rstd = nullptr;
    args.y = f.output(rows * cols);
    f.run(&allmrec_backend::layer_norm, args);
    f.expect("y without statistics", args.y, expected.y);
  }
}

// A constant row must give beta, a large mean must not swallow the variance, NaN must show.
void test_layer_norm_edges(Fixture& f, int) {
  const int64_t cols = 50, rows = 4;
  Values x(rows * cols);
  const Values noise = f.uniform(cols);
  for (int64_t j = 0; j < cols; ++j) {
    x[j] = 1234.567f;
    x[cols + j] = static_cast<float>(100 + noise[j]);
    x[2 * cols + j] = static_cast<float>(1e-6 * noise[j]);
    x[3 * cols + j] = j == 7 ? std::nan("") : noise[j];
  }
  x[0] = x[1];
  const Values gamma = f.uniform(cols), beta = f.uniform(cols);
  const reference::LayerNorm expected = reference::layer_norm(rows, cols, x, gamma, beta, 1e-8f);
  float* y = f.output(rows * cols);
  f.run(&allmrec_backend::layer_norm,
        allmrec_layer_norm_args{rows, cols, f.upload(x), f.upload(gamma), f.upload(beta), 1e-8f, y, nullptr,
                                nullptr, ALLMREC_F32});
  f.expect("y", y, expected.y);
}

void test_layer_norm_backward(Fixture& f, int variant) {
  const auto [rows, cols] = kNormShapes[variant];
  // With one column dx is rstd · (g − g): an rstd of 10,000 would multiply the rounding of g.
  const double eps = cols == 1 ? 1.0 : 1e-8f;
  const Values x = f.uniform(rows * cols, -2, 4), dy = f.uniform(rows * cols), gamma = f.uniform(cols);
  const reference::LayerNorm forward = reference::layer_norm(rows, cols, x, gamma, Values(cols), eps);
  const reference::LayerNormGradients g = reference::layer_norm_backward(rows, cols, dy, x, gamma, eps);
  const Values dx_before = f.uniform(rows * cols), params_before = f.uniform(cols);
  for (const bool accumulate : {false, true}) {
    reference::LayerNormGradients expected = g;
    if (accumulate) {
      for (int64_t i = 0; i < rows * cols; ++i) expected.dx[i] += dx_before[i];
      for (int64_t i = 0; i < cols; ++i) expected.d_gamma[i] += params_before[i];
      for (int64_t i = 0; i < cols; ++i) expected.d_beta[i] += params_before[i];
    }
    allmrec_layer_norm_backward_args args = {};
    args.rows = rows, args.cols = cols, args.dy = f.upload(dy), args.x = f.upload(x);
    args.gamma = f.upload(gamma), args.mean = f.upload(forward.mean), args.rstd = f.upload(forward.rstd);
    args.dx = accumulate ? f.output(dx_before) : f.output(rows * cols);
    args.d_gamma = accumulate ? f.output(params_before) : f.output(cols);
    args.d_beta = accumulate ? f.output(params_before) : f.output(cols);
    args.accumulate = args.accumulate_params = accumulate;
    f.run(&allmrec_backend::layer_norm_backward, args);
    f.expect("dx", args.dx, expected.dx);
    f.expect("d_gamma", args.d_gamma, expected.d_gamma);
    f.expect("d_beta", args.d_beta, expected.d_beta);
    // Frozen parameters; then parameters only.
    allmrec_layer_norm_backward_args part = args;
    part.accumulate = part.accumulate_params = 0;
    part.d_gamma = part.d_beta = nullptr;
    part.dx = f.output(rows * cols);
    f.run(&allmrec_backend::layer_norm_backward, part);
    f.expect("dx alone", part.dx, g.dx);
    part.dx = nullptr;
    part.d_beta = f.output(cols);
    f.run(&allmrec_backend::layer_norm_backward, part);
    f.expect("d_beta alone", part.d_beta, g.d_beta);
  }
}

const std::vector<std::string> kKinds = {"none",      "relu",    "leaky_relu", "gelu",
                                         "gelu_tanh", "sigmoid", "tanh"};

void test_activation(Fixture& f, int kind) {
  for (const int64_t n : {0, 1, 15, 1000, 40003}) {
    Values x = f.uniform(n, -6, 6);
    // GELU's negative tail is a difference of ones, with an absolute error: every array gets a value to
    // measure it by.
    if (n > 0) x[0] = 3;
    float *in = f.upload(x), *y = f.output(n);
    f.run(&allmrec_backend::activation, allmrec_activation_args{n, kind, in, y, ALLMREC_F32});
    f.expect("y", y, reference::activation(kind, x));
    f.run(&allmrec_backend::activation, allmrec_activation_args{n, kind, in, in, ALLMREC_F32});  // in place
    f.expect("in place", in, reference::activation(kind, x));
  }
}

// One value at a time over the whole range, ends included.
void test_activation_range(Fixture& f, int variant) {
  const int32_t kind = variant == 0 ? ALLMREC_ACT_SIGMOID : ALLMREC_ACT_TANH;
  Values x = f.uniform(20000, -87, 87);
  for (double v : f.uniform(20000, -1, 1)) x.push_back(v);
  for (double exponent = -30; exponent < 0; exponent += 0.25)
    x.push_back(static_cast<float>(std::pow(10, exponent)));
  for (double v : {0.0, 100.0, double{INFINITY}, double{-INFINITY}, std::nan("")}) x.push_back(v);
  const int64_t n = static_cast<int64_t>(x.size());
  float* y = f.output(n);
  f.run(&allmrec_backend::activation, allmrec_activation_args{n, kind, f.upload(x), y, ALLMREC_F32});
  const Values expected = reference::activation(kind, x);
  f.expect_each("y", y, Values(expected.begin(), expected.end() - 1));
  f.expect_true("NaN stays NaN", std::isnan(f.download(y, n).back()));
}

void test_activation_nan(Fixture& f, int kind) {
  const Values x = {1, std::nan(""), -1, 0, 30, -30, 2, 3, std::nan(""), 1, 1, 1, 1, 1, 1, 1, 1,
                    1, std::nan("")};
  const int64_t n = static_cast<int64_t>(x.size());
  float* y = f.output(n);
  f.run(&allmrec_backend::activation, allmrec_activation_args{n, kind, f.upload(x), y, ALLMREC_F32});
  f.expect("y", y, [&] {
    Values expected = reference::activation(kind, x);
    for (size_t i = 0; i < x.size(); ++i)
      if (std::isnan(x[i])) expected[i] = x[i];
    return expected;
  }());
}

// RELU's signs packed into bits, and the gradient through them: that of RELU, bit for bit.
void test_relu_bits(Fixture& f, int variant) {
  const int32_t dtypes[] = {ALLMREC_F32, ALLMREC_F16, ALLMREC_BF16}, dtype = dtypes[variant];
  for (const int64_t n : {0, 1, 7, 8, 9, 1000, 40003}) {
    Values x = f.uniform(n), dy = f.uniform(n), before = f.uniform(n);
    for (int64_t i = 0; i < n; i += 5) x[i] = i % 2 ? 0.0 : -0.0;
    if (n > 8) x[8] = std::nan("");
    const void *in = f.upload_as(dtype, x), *dy_in = f.upload_as(dtype, dy);
    const int64_t bytes = (n + 7) / 8;
    void* bits = f.output_bytes(bytes);
    f.run(&allmrec_backend::activation, allmrec_activation_args{n, ALLMREC_ACT_RELU_BITS, in, bits, dtype});
    const std::vector<unsigned char> packed = f.download_bytes(bits, bytes);
    std::vector<unsigned char> expected_bits(static_cast<size_t>(bytes), 0);
    Values expected = dy;
    for (int64_t i = 0; i < n; ++i) {
      if (x[i] <= 0)
        expected[i] = 0;
      else
        expected_bits[i / 8] |= static_cast<unsigned char>(1 << i % 8);
    }
    f.expect_true("bits", packed == expected_bits);
    void* dx = f.output_as(dtype, n);
    f.run(&allmrec_backend::activation_backward,
          allmrec_activation_backward_args{n, ALLMREC_ACT_RELU_BITS, dy_in, bits, dx, 0, dtype});
    f.expect_true("dx", f.download(dx, n, dtype) == expected);
    dx = f.output_as(dtype, before);
    for (int64_t i = 0; i < n; ++i) expected[i] += before[i];
    f.run(&allmrec_backend::activation_backward,
          allmrec_activation_backward_args{n, ALLMREC_ACT_RELU_BITS, dy_in, bits, dx, 1, dtype});
    f.expect("dx added", dx, expected, dtype);
  }
}

void test_activation_backward(Fixture& f, int kind) {
  const bool from_output =
      kind == ALLMREC_ACT_RELU || kind == ALLMREC_ACT_SIGMOID || kind == ALLMREC_ACT_TANH;
  for (const int64_t n : {0, 1, 15, 1000, 40003}) {
    const Values x = f.uniform(n, -4, 4), dy = f.uniform(n), before = f.uniform(n);
    // What the forward leaves is float32; near the ends 1 − y² has lost digits that no backward can find
    // again.
    Values saved = from_output ? reference::activation(kind, x) : x;
    for (double& v : saved) v = static_cast<float>(v);
    Values expected = reference::activation_backward(kind, dy, x);
    for (int64_t i = 0; from_output && i < n; ++i) {
      if (kind == ALLMREC_ACT_SIGMOID) expected[i] = dy[i] * saved[i] * (1 - saved[i]);
      if (kind == ALLMREC_ACT_TANH) expected[i] = dy[i] * (1 - saved[i] * saved[i]);
    }
    const float *dy_in = f.upload(dy), *saved_in = f.upload(saved);
    float* dx = f.output(n);
    f.run(&allmrec_backend::activation_backward,
          allmrec_activation_backward_args{n, kind, dy_in, saved_in, dx, 0, ALLMREC_F32});
    f.expect("dx", dx, expected);
    for (int64_t i = 0; i < n; ++i) expected[i] += before[i];
    dx = f.output(before);
    f.run(&allmrec_backend::activation_backward,
          allmrec_activation_backward_args{n, kind, dy_in, saved_in, dx, 1, ALLMREC_F32});
    f.expect("dx added", dx, expected);
  }
}

}  // namespace

void dense_cases(Cases& cases) {
  add_cases(cases, "gemm", kSum, test_gemm,
            {"64x50x50 bias residual", "37x150x33 strided relu accumulate", "50x50x301 trans_a accumulate",
             "5x7x9 both transposed strided", "1x769x96 half weights", "13x65x128 bfloat16 weights strided",
             "inner size zero", "no rows"});
  add_cases(cases, "column_sum", kSum, test_column_sum,
            {"1000x50", "77x768 strided", "5x3", "no rows", "3x4100"});
  const std::vector<std::string> norms = {"130x50", "33x768", "7x1", "3x17", "no rows", "5x64"};
  add_cases(cases, "layer_norm", kSum, test_layer_norm, norms);
  add_cases(
      cases, "layer_norm",
      {3e-5,
       "row 1 has a mean 170 times its deviation, so its float32 inputs' mean costs that many roundings"},
      test_layer_norm_edges, {"constant row, large mean, tiny variance, NaN"});
  add_cases(cases, "layer_norm_backward", kCancel, test_layer_norm_backward, norms);
  add_cases(cases, "activation", kElementary, test_activation, kKinds);
  add_cases(cases, "activation", kElementary, test_activation_range,
            {"sigmoid, every value", "tanh, every value"});
  add_cases(cases, "activation", kElementary, test_activation_nan,
            {"none, NaN", "relu, NaN", "leaky_relu, NaN", "gelu, NaN", "gelu_tanh, NaN", "sigmoid, NaN",
             "tanh, NaN"});
  add_cases(cases, "activation_backward", kElementary, test_activation_backward, kKinds);
  add_cases(cases, "activation_backward", kBfloat16, test_relu_bits,
            {"relu_bits float32", "relu_bits float16", "relu_bits bfloat16"});
}

}  // namespace allmrec::test
