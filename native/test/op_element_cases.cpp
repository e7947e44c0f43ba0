// Cases of add, mul, copy_2d, cast, dropout and random.
#include <cmath>

#include "op_fixture.h"

namespace allmrec::test {

namespace {

const int64_t kSizes[] = {0, 1, 3, 15, 16, 17, 1000, 16385, 50001};

void test_add(Fixture& f, int) {
  for (const int64_t n : kSizes) {
    const Values a = f.uniform(n), b = f.uniform(n), before = f.uniform(n);
    const float *in_a = f.upload(a), *in_b = f.upload(b);
    Values expected(n);
    for (int64_t i = 0; i < n; ++i) expected[i] = 0.5 * a[i] - 2.0 * b[i];
    float* y = f.output(n);
    f.run(&allmrec_backend::add, allmrec_add_args{n, 0.5f, in_a, -2.0f, in_b, y, 0, ALLMREC_F32});
    f.expect("y", y, expected);
    for (int64_t i = 0; i < n; ++i) expected[i] += before[i];
    y = f.output(before);
    f.run(&allmrec_backend::add, allmrec_add_args{n, 0.5f, in_a, -2.0f, in_b, y, 1, ALLMREC_F32});
    f.expect("y added", y, expected);
    for (int64_t i = 0; i < n; ++i) expected[i] = 3 * a[i];
    y = f.output(n);
    f.run(&allmrec_backend::add, allmrec_add_args{n, 3.0f, in_a, 7.0f, nullptr, y, 0, ALLMREC_F32});
    f.expect("b NULL", y, expected);
  }
}

void test_add_aliased(Fixture& f, int variant) {
  for (const int64_t n : kSizes) {
    const Values a = f.uniform(n), b = f.uniform(n);
    float *x = f.upload(a), *z = f.upload(b);
    float* y = variant == 1 ? z : x;
    const float* second = variant == 2 ? x : z;
    Values expected(n);
    for (int64_t i = 0; i < n; ++i)
      expected[i] = 0.5 * a[i] + 2 * (variant == 2 ? a[i] : b[i]) + (variant == 2 ? a[i] : 0);
    f.run(&allmrec_backend::add, allmrec_add_args{n, 0.5f, x, 2.0f, second, y, variant == 2, ALLMREC_F32});
    f.expect("y", y, expected);
  }
}

void test_mul(Fixture& f, int) {
  for (const int64_t n : kSizes) {
    const Values a = f.uniform(n), b = f.uniform(n), before = f.uniform(n);
    float *in_a = f.upload(a), *in_b = f.upload(b), *y = f.output(n);
    Values expected(n);
    for (int64_t i = 0; i < n; ++i) expected[i] = a[i] * b[i];
    f.run(&allmrec_backend::mul, allmrec_mul_args{n, in_a, in_b, y, 0});
    f.expect("y", y, expected);
    f.run(&allmrec_backend::mul, allmrec_mul_args{n, in_a, in_b, in_b, 0});
    f.expect("in place", in_b, expected);
    for (int64_t i = 0; i < n; ++i) expected[i] = before[i] + a[i] * expected[i];
    y = f.output(before);
    f.run(&allmrec_backend::mul, allmrec_mul_args{n, in_a, in_b, y, 1});
    f.expect("y added", y, expected);
  }
}

void test_copy_2d(Fixture& f, int variant) {
  const int64_t shapes[][4] = {
      {40, 50, 150, 50}, {40, 50, 50, 153}, {3, 1, 2, 5}, {0, 4, 4, 4}, {300, 768, 768, 768}};
  const auto [rows, cols, ldx, ldy] = shapes[variant];
  const Values x = f.uniform(rows * ldx);
  const float* in = f.upload(x);
  Values expected;
  for (int64_t i = 0; i < rows; ++i)
    expected.insert(expected.end(), x.begin() + i * ldx, x.begin() + i * ldx + cols);
  float* y = f.output(rows * ldy);
  f.run(&allmrec_backend::copy_2d, allmrec_copy_2d_args{rows, cols, in, ldx, y, ldy, 0, ALLMREC_F32});
  f.expect_matrix("y", y, rows, cols, ldy, expected);
  for (double& v : expected) v *= 2;  // exact
  f.run(&allmrec_backend::copy_2d, allmrec_copy_2d_args{rows, cols, in, ldx, y, ldy, 1, ALLMREC_F32});
  f.expect_matrix("y added", y, rows, cols, ldy, expected);
}

// Every one of the 65,536 patterns, subnormals, infinities and NaN with them.
void test_cast(Fixture& f, int variant) {
  const int32_t dtype = variant == 0 ? ALLMREC_F16 : variant == 1 ? ALLMREC_BF16 : ALLMREC_F32;
  if (dtype == ALLMREC_F32) {
    const Values x = f.uniform(1003);
    float* y = f.output(1003);
    f.run(&allmrec_backend::cast, allmrec_cast_args{1003, f.upload(x), dtype, y, ALLMREC_F32});
    return void(f.expect("y", y, x));
  }
  std::vector<uint16_t> bits;
  Values expected;
  for (int i = 0; i < 65536; ++i) {
    bits.push_back(static_cast<uint16_t>(i));
    expected.push_back(dtype == ALLMREC_F16 ? reference::half_value(bits.back())
                                            : reference::bfloat16_value(bits.back()));
  }
  bits.resize(65536 - 5);  // not a multiple of the lanes
  expected.resize(bits.size());
  const int64_t n = static_cast<int64_t>(bits.size());
  float* y = f.output(n);
  f.run(&allmrec_backend::cast, allmrec_cast_args{n, f.upload(bits), dtype, y, ALLMREC_F32});
  f.expect("y", y, expected);
}

void test_dropout(Fixture& f, int variant) {
  const float p = variant == 0 ? 0.2f : variant == 1 ? 0.5f : variant == 2 ? 0.0f : 0.999f;
  uint64_t stream = 0x100000003u;
  for (const int64_t n : kSizes) {
    const allmrec_dropout dropout = {p, 0x123456789abcdefu, stream++};
    const Values x = f.uniform(n), residual = f.uniform(n), before = f.uniform(n);
    const Values factors = reference::dropout_factors(dropout, n);
    float *in = f.upload(x), *y = f.output(n);
    Values expected(n);
    for (int64_t i = 0; i < n; ++i) expected[i] = x[i] * factors[i] + residual[i];
    f.run(&allmrec_backend::dropout,
          allmrec_dropout_args{n, dropout, in, f.upload(residual), y, 0, ALLMREC_F32});
    f.expect("y with residual", y, expected);
    for (int64_t i = 0; i < n; ++i) expected[i] = x[i] * factors[i] + before[i];
    y = f.output(before);
    f.run(&allmrec_backend::dropout, allmrec_dropout_args{n, dropout, in, nullptr, y, 1, ALLMREC_F32});
    f.expect("y added", y, expected);
    for (int64_t i = 0; i < n; ++i) expected[i] = x[i] * factors[i];
    f.run(&allmrec_backend::dropout, allmrec_dropout_args{n, dropout, in, nullptr, in, 0, ALLMREC_F32});
    f.expect("in place", in, expected);
  }
}

void test_dropout_nan(Fixture& f, int) {
  const Values x(100, std::nan(""));
  float* y = f.output(Values(100, 1.0));
  f.run(&allmrec_backend::dropout,
        allmrec_dropout_args{100, {0.5f, 1, 2}, f.upload(x), nullptr, y, 0, ALLMREC_F32});
  f.expect("NaN shows, dropped or not", y, x);
}

void test_random(Fixture& f, int variant) {
  const bool normal = variant == 1;
  for (const int64_t n : kSizes) {
    float* x = f.output(n);
    f.run(&allmrec_backend::random, allmrec_random_args{n, 77, 0x200000001u, normal, -0.5f, 1.5f, x});
    f.expect("x", x, reference::random(n, 77, 0x200000001u, normal, -0.5, 1.5));
  }
}

}  // namespace

void element_cases(Cases& cases) {
  add_cases(cases, "add", kRounding, test_add, {"all sizes"});
  add_cases(cases, "add", kRounding, test_add_aliased, {"y is a", "y is b", "y is a and b, accumulate"});
  add_cases(cases, "mul", kRounding, test_mul, {"all sizes"});
  add_cases(cases, "copy_2d", kExact, test_copy_2d,
            {"40x50 of 150", "40x50 into 153", "3x1", "no rows", "300x768"});
  add_cases(cases, "cast", kExact, test_cast, {"half, every pattern", "bfloat16, every pattern", "float32"});
  add_cases(cases, "dropout", kRounding, test_dropout, {"p 0.2", "p 0.5", "p 0", "p 0.999"});
  add_cases(cases, "dropout", kExact, test_dropout_nan, {"NaN"});
  add_cases(cases, "random", kElementary, test_random, {"uniform", "normal"});
}

}  // namespace allmrec::test
