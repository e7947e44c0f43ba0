// Cases of quantize, and of gemm and embedding with I8 and I4 weights; gemm for one to eight rows of halves,
// which goes the same way.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "op_fixture.h"
#include "reference_quantized.h"

namespace allmrec::test {

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

const char* name_of(int32_t dtype) {
  switch (dtype) {
    case ALLMREC_F32:
      return "float32";
    case ALLMREC_F16:
      return "float16";
    case ALLMREC_BF16:
      return "bfloat16";
    case ALLMREC_I8:
      return "int8";
    default:
      return "int4";
  }
}

const void* upload_bytes(Fixture& f, const std::vector<unsigned char>& bytes) {
  std::vector<uint16_t> words((bytes.size() + 1) / 2);
  if (!bytes.empty()) std::memcpy(words.data(), bytes.data(), bytes.size());
  return f.upload(words);
}

// ---- quantize ----

struct QuantizeShape {
  int64_t rows, cols;
};
const QuantizeShape kQuantizeShapes[] = {{19, 96}, {5, 2080}, {1, 32}, {0, 64}, {3, 0}, {9, 37}};

void test_quantize(Fixture& f, int variant) {
  const auto [rows, cols] = kQuantizeShapes[variant];
  for (const int32_t dtype : {ALLMREC_I8, ALLMREC_I4}) {
    if (dtype == ALLMREC_I4 && cols % 32 != 0) continue;
    for (const int32_t x_dtype : {ALLMREC_F32, ALLMREC_F16, ALLMREC_BF16}) {
      Values x = f.uniform(rows * cols);
      const void* from = f.upload_as(x_dtype, x);
      const reference::Quantized expected = reference::quantize(dtype, rows, cols, x);
      void* quants = f.output_bytes(static_cast<int64_t>(expected.quants.size()));
      void* scales = f.output_bytes(static_cast<int64_t>(expected.scales.size()));
      f.run(&allmrec_backend::quantize,
            allmrec_quantize_args{rows, cols, from, x_dtype, dtype, quants, scales});
      f.expect_true("quants", f.download_bytes(quants, static_cast<int64_t>(expected.quants.size())) ==
                                  expected.quants);
      f.expect_true("scales", f.download_bytes(scales, static_cast<int64_t>(expected.scales.size())) ==
                                  expected.scales);
    }
  }
}

// Rows whose quotients lie on ties, of zeros, of one sign, with the largest magnitude twice, of values from
// one end of float32 to the other. x · 127 / largest is a tie for odd multiples of half a scale: 0.5 … 126.5.
void test_quantize_edges(Fixture& f, int) {
  const int64_t cols = 64, rows = 9;
  Values x(rows * cols);
  for (int64_t j = 0; j < cols; ++j) {
    const double sign = j % 3 == 1 ? -1 : 1;
    x[j] = j == 5 ? 127 : sign * (j + 0.5);                       // I8: ties
    x[cols + j] = j % 32 == 9 ? -8 : (j % 16) - 7.5;              // I4: ties
    x[2 * cols + j] = j < 32 ? 0 : 1 + j;                         // a group of zeros
    x[3 * cols + j] = -0.0;                                       // a row of zeros
    x[4 * cols + j] = j % 32 == 3 ? -3 : j % 32 == 4 ? 3 : 0.7;   // equal magnitudes, minus first
    x[5 * cols + j] = j % 32 == 3 ? 3 : j % 32 == 30 ? -3 : 0.7;  // plus first
    x[6 * cols + j] = std::ldexp(1.0 + j / 64.0, -20);            // subnormal scales in F16
    x[7 * cols + j] = std::ldexp(1.0 + j / 64.0, -146);           // subnormals: quotients above 127
    x[8 * cols + j] = std::ldexp(j % 2 ? 1.25 : -1.5, -30 + static_cast<int>(j) / 2);  // small beside large
  }
  for (const int32_t dtype : {ALLMREC_I8, ALLMREC_I4}) {
    const void* from = f.upload_as(ALLMREC_F32, x);
    const reference::Quantized expected = reference::quantize(dtype, rows, cols, x);
    const int64_t bytes = static_cast<int64_t>(expected.quants.size());
    void* quants = f.output_bytes(bytes);
    void* scales = f.output_bytes(static_cast<int64_t>(expected.scales.size()));
    f.run(&allmrec_backend::quantize,
          allmrec_quantize_args{rows, cols, from, ALLMREC_F32, dtype, quants, scales});
    const std::vector<unsigned char> got = f.download_bytes(quants, bytes);
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t row = bytes / rows;
      f.expect_true(
          ("quants of row " + std::to_string(i)).c_str(),
          std::equal(got.begin() + i * row, got.begin() + (i + 1) * row, expected.quants.begin() + i * row));
    }
    f.expect_true("scales",
                  f.download_bytes(scales, static_cast<int64_t>(expected.scales.size())) == expected.scales);
  }
}

// ---- gemm ----

struct Product {
  int64_t m, n, k;
  int32_t a_dtype, b_dtype, c_dtype;
  bool trans_b = true;
  int64_t gap = 0;  // ld − row length of A and C; of B too where it may have one
  bool bias = false, residual = false, relu = false, accumulate = false;
};

std::string name_of(const Product& p) {
  std::string name = std::to_string(p.m) + "x" + std::to_string(p.n) + "x" + std::to_string(p.k) + " " +
                     name_of(p.a_dtype) + " · " + name_of(p.b_dtype) + " to " + name_of(p.c_dtype);
  if (!p.trans_b) name += ", b not transposed";
  return name;
}

bool is_quantized(int32_t dtype) {
  return dtype == ALLMREC_I8 || dtype == ALLMREC_I4;
}

// (rows, cols) with a gap of NaN behind each row.
Values padded(const Values& x, int64_t rows, int64_t cols, int64_t gap) {
  Values out(rows * (cols + gap), kNaN);
  for (int64_t i = 0; i < rows * cols; ++i) out[i / cols * (cols + gap) + i % cols] = x[i];
  return out;
}

// `a` (m, k) against random weights.
void check_product(Fixture& f, const Product& p, const Values& a) {
  reference::Gemm g = {};
  g.m = p.m, g.n = p.n, g.k = p.k, g.trans_b = p.trans_b;
  g.activation = p.relu ? ALLMREC_ACT_RELU : ALLMREC_ACT_NONE;
  g.alpha = 0.75;
  allmrec_gemm_args args = {};
  const int64_t b_rows = p.trans_b ? p.n : p.k, b_cols = p.trans_b ? p.k : p.n;
  const int64_t b_gap = is_quantized(p.b_dtype) ? 0 : p.gap;
  g.lda = p.k + p.gap, g.ldb = b_cols + b_gap;
  g.a = padded(a, p.m, p.k, p.gap);
  args.a = f.upload_as(p.a_dtype, g.a);
  // Rows of different magnitudes, so that a wrong scale shows.
  Values b = f.uniform(b_rows * b_cols);
  for (int64_t i = 0; i < b_rows * b_cols; ++i) b[i] *= 1 + i / b_cols % 4;
  if (is_quantized(p.b_dtype)) {
    const reference::Quantized quantized = reference::quantize(p.b_dtype, b_rows, b_cols, b);
    g.b = quantized.values;
    args.b = upload_bytes(f, quantized.quants);
    args.b_scales = upload_bytes(f, quantized.scales);
  } else {
    g.b = padded(b, b_rows, b_cols, b_gap);
    args.b = f.upload_as(p.b_dtype, g.b);
  }
  if (p.bias) g.bias = f.uniform(p.n);
  if (p.residual) {
    g.residual = f.uniform(p.m * p.n);
    args.residual = f.upload_as(p.c_dtype, g.residual), args.ld_residual = p.n;
  }
  Values expected = reference::gemm(g), before;
  const int64_t ldc = p.n + p.gap;
  if (p.accumulate) {
    before = padded(f.uniform(p.m * p.n), p.m, p.n, p.gap);
    args.c = f.output_as(p.c_dtype, before);
    for (int64_t i = 0; i < p.m * p.n; ++i) expected[i] += before[i / p.n * ldc + i % p.n];
  } else {
    args.c = f.output_as(p.c_dtype, p.m * ldc);
  }
  args.m = p.m, args.n = p.n, args.k = p.k, args.alpha = 0.75f;
  args.lda = g.lda, args.ldb = g.ldb, args.ldc = ldc;
  args.a_dtype = p.a_dtype, args.b_dtype = p.b_dtype, args.c_dtype = p.c_dtype;
  args.trans_b = p.trans_b, args.bias = f.upload(g.bias);
  args.activation = g.activation, args.accumulate = p.accumulate;
  f.run(&allmrec_backend::gemm, args);
  f.expect_matrix("c", args.c, p.m, p.n, ldc, expected, p.c_dtype);
}

// Activations that 8 bits hold exactly: whole multiples of a power of two with 127 times it among them, a
// different one for each group of 32 or, on the CPU, which rounds whole rows, for each row; some groups of
// zeros.
Values exact_in_8_bits(Fixture& f, int64_t m, int64_t k) {
  const Ints q = f.integers(m * k, -127, 127);
  Values a(m * k);
  for (int64_t i = 0; i < m * k; ++i) {
    const int64_t row = i / k, col = i % k, group = row * 7 + col / 32;
    const bool largest = col % 32 == group % 13 || (k - col / 32 * 32 <= 16 && col % 32 == 0);
    const int64_t scale = f.on_cpu() ? row : group;
    const double unit = group % 9 == 8 ? 0 : std::ldexp(1.0, -9 + static_cast<int>(scale % 5));
    a[i] = unit * (largest ? (group % 2 ? 127 : -127) : q[i]);
  }
  return a;
}

// Whether A is rounded or not, these products are exact to the rounding of float32 sums. What is not exact: c
// as a half; weights written out in halves for the matrix units.
constexpr int32_t F32 = ALLMREC_F32, F16 = ALLMREC_F16, BF16 = ALLMREC_BF16, I8 = ALLMREC_I8, I4 = ALLMREC_I4;
const std::vector<Product> kFewRows = {
    {1, 37, 96, F16, I8, F16, true, 0, true, false, true, false},
    {1, 37, 64, F16, I4, F16, true, 0, true, false, true, false},
    {3, 20, 1056, F32, I8, F32, true, 1, false, true, false, true},
    {3, 20, 2080, F32, I4, F32, true, 1, false, true, false, true},
    {8, 5, 8736, BF16, I8, F32, true, 0, true, true, true, false},
    {8, 5, 8736, BF16, I4, F32, true, 0, true, true, true, false},
    {1, 3, 65632, F16, I8, F32},
    {1, 3, 65632, F16, I4, F32},
    {2, 70, 4128, BF16, I8, BF16, true, 0, false, true, false, false},
    {2, 70, 4128, BF16, I4, BF16, true, 0, false, true, false, false},
    {2, 18, 48, F32, I8, F32, true, 8, false, false, false, true},
    {5, 33, 100, F16, I8, F16, true, 3, true, false, true, true},  // rows that 16-byte loads cannot take
    {8, 9, 31, F32, I8, F32},
    {4, 21, 32, F16, I4, F32, true, 1},
    {3, 7, 0, F16, I8, F16, true, 0, true},
    {1, 1, 96, F16, I4, F32, true, 1},  // one row: its distance to the next does not matter
    {1, 0, 32, F16, I4, F16},
    {0, 5, 32, F16, I4, F16},
};
const std::vector<Product> kManyRows = {
    {9, 70, 160, F16, I8, F16, true, 0, true, false, true, false},
    {9, 70, 160, F16, I4, F16, true, 0, true, false, true, false},
    {40, 67, 224, BF16, I8, F32, true, 0, true, true, false, true},
    {40, 67, 224, BF16, I4, F32, true, 0, true, true, false, true},
    {130, 35, 96, F16, I8, F32, true, 8},
    {130, 35, 96, BF16, I4, BF16, true, 8},
    {12, 33, 70, F32, I8, F32, true, 1, true, true, true, true},
    {12, 33, 64, F32, I4, F32, true, 1, true, true, true, true},
    {3, 64, 50, F16, I8, F16, false, 0, true},
    {3, 64, 50, F16, I4, F16, false, 0, true},
    {37, 100, 33, BF16, I8, F32, false, 1, false, false, false, true},
    {140, 96, 40, F32, I4, F32, false, 0},
};

// Sums in lanes walk at random: 6e-8 · √(terms of a lane / 3), with at least four lanes.
constexpr Tolerance kLongSum = {4.5e-6, "float32 sums of 65632 terms in lanes"};

void test_few_rows(Fixture& f, int variant) {
  const Product& p = kFewRows[variant];
  check_product(f, p, exact_in_8_bits(f, p.m, p.k));
}
void test_many_rows(Fixture& f, int variant) {
  const Product& p = kManyRows[variant];
  check_product(f, p, exact_in_8_bits(f, p.m, p.k));
}

const std::vector<Product> kRounded = {
    {1, 60, 1024, F16, I8, F32}, {1, 60, 1024, F32, I4, F32}, {3, 40, 544, F32, I8, F32},
    {3, 40, 544, BF16, I4, F32}, {8, 40, 288, BF16, I8, F32}, {8, 40, 288, F16, I4, F32},
};
// Uniform activations are off by at most half a scale, evenly: scale/√12 = (1/127)/√12 = 2.3e-3 of 1/√3,
// their root mean square. The errors are independent, so this is the error of the product too: 3.9e-3. Over
// 60 outputs and more it scatters by 9 % at most, of which there are three.
constexpr Tolerance kRoundedTo8Bits = {5e-3, "activations rounded to 8 bits"};
void test_rounded(Fixture& f, int variant) {
  const Product& p = kRounded[variant];
  check_product(f, p, f.uniform(p.m * p.k));
}

// NaN in one row of A shows in that row of C, and only there.
void test_nan(Fixture& f, int variant) {
  for (const int64_t m : {2, 3, 20}) {
    Values a = exact_in_8_bits(f, m, 96);
    a[96 + 41] = kNaN;
    // More rows of halves would have their weights written out in halves.
    check_product(f, {m, 10, 96, m > 8 ? F32 : F16, variant ? I4 : I8, F32}, a);
  }
}

// Few rows of halves.
const std::vector<Product> kFewHalfRows = {
    {1, 37, 64, F16, F16, F16, true, 0, true, false, true, false},
    {8, 40, 2200, BF16, BF16, F32, true, 8, true, true, false, true},
    {3, 16, 3400, F16, F16, F32, true, 0, false, false, false, false},
    {5, 33, 1032, F16, F16, F16, true, 0, false, true, true, true},
    {2, 50, 136, BF16, BF16, BF16, true, 0, true, false, false, false},
    {4, 19, 40, F16, F16, F32, true, 1},  // rows that 16-byte loads cannot take
    {7, 23, 77, BF16, BF16, BF16, true, 0, true, true, true, true},
    {1, 20, 3096, F32, F16, F32, true, 0, true, false, true, false},
    {6, 11, 1040, F32, BF16, F32, true, 8, false, true, false, true},
    {2, 9, 45, F32, F16, F32, true, 0},
    {1, 1, 136, F16, F16, F32, true, 1},
    {3, 7, 0, F16, F16, F16, true, 0, true},
};
void test_few_half_rows(Fixture& f, int variant) {
  const Product& p = kFewHalfRows[variant];
  check_product(f, p, f.uniform(p.m * p.k));
}

// Matrix units cut where arithmetic units round: up to 2^-23 of the running sum in each of k / 16 / 8 warps
// additions.
constexpr Tolerance kMatrixSum = {3e-6, "float32 sums in the order and with the cuts of matrix units"};

Tolerance stored_as(int32_t dtype, Tolerance otherwise) {
  return dtype == F16 ? kHalf : dtype == BF16 ? kBfloat16 : otherwise;
}

// ---- embedding ----

struct EmbeddingShape {
  int64_t tokens, cols;
  int32_t table_dtype, out_dtype;
};
const EmbeddingShape kEmbeddings[] = {
    {40, 96, I8, F32}, {33, 37, I8, F16},  {20, 1056, I8, BF16},
    {40, 64, I4, F32}, {9, 1056, I4, F16}, {7, 32, I4, BF16},
};

void test_embedding(Fixture& f, int variant) {
  const EmbeddingShape s = kEmbeddings[variant];
  const int64_t table_rows = 30, soft_rows = 4, position_rows = 12;
  reference::Embedding e = {};
  e.tokens = s.tokens, e.cols = s.cols, e.scale = 1.5;
  e.ids = f.integers(s.tokens, -soft_rows, table_rows - 1);
  const reference::Quantized table =
      reference::quantize(s.table_dtype, table_rows, s.cols, f.uniform(table_rows * s.cols));
  e.table = table.values;
  e.soft = f.uniform(soft_rows * s.cols), e.positions = f.uniform(position_rows * s.cols);
  e.position_ids = f.integers(s.tokens, 0, position_rows - 1);
  void* out = f.output_as(s.out_dtype, s.tokens * s.cols);
  f.run(&allmrec_backend::embedding, allmrec_embedding_args{s.tokens,
                                                            s.cols,
                                                            f.upload(e.ids),
                                                            upload_bytes(f, table.quants),
                                                            s.table_dtype,
                                                            table_rows,
                                                            f.upload(e.soft),
                                                            soft_rows,
                                                            1.5f,
                                                            f.upload(e.positions),
                                                            position_rows,
                                                            f.upload(e.position_ids),
                                                            nullptr,
                                                            {},
                                                            out,
                                                            s.out_dtype,
                                                            upload_bytes(f, table.scales)});
  f.expect("out", out, reference::embedding(e), s.out_dtype);
}

}  // namespace

void quantized_cases(Cases& cases) {
  std::vector<std::string> names;
  for (const QuantizeShape& s : kQuantizeShapes)
    names.push_back(std::to_string(s.rows) + "x" + std::to_string(s.cols));
  add_cases(cases, "quantize", kExact, test_quantize, names);
  add_cases(cases, "quantize", kExact, test_quantize_edges, {"ties, zeros, signs, subnormals"});

  const auto add = [&](const Product& p, int number, const char* what, Tolerance t,
                       void (*test)(Fixture&, int)) {
    cases.push_back({"gemm", std::string(what) + name_of(p), t.value, t.reason, test, number});
  };
  for (size_t i = 0; i < kFewRows.size(); ++i)
    add(kFewRows[i], static_cast<int>(i), "few rows, ",
        stored_as(kFewRows[i].c_dtype, kFewRows[i].k > 8000 ? kLongSum : kSum), test_few_rows);
  for (size_t i = 0; i < kManyRows.size(); ++i) {
    const Tolerance t = stored_as(kManyRows[i].a_dtype, kSum);
    add(kManyRows[i], static_cast<int>(i), "", t, test_many_rows);
  }
  for (size_t i = 0; i < kRounded.size(); ++i)
    add(kRounded[i], static_cast<int>(i), "rounded, ", kRoundedTo8Bits, test_rounded);
  add_cases(cases, "gemm", kSum, test_nan, {"NaN · int8", "NaN · int4"});
  for (size_t i = 0; i < kFewHalfRows.size(); ++i)
    add(kFewHalfRows[i], static_cast<int>(i), "few rows, ", stored_as(kFewHalfRows[i].c_dtype, kMatrixSum),
        test_few_half_rows);

  names.clear();
  for (const EmbeddingShape& s : kEmbeddings)
    names.push_back(std::to_string(s.cols) + " of " + name_of(s.table_dtype) + " to " + name_of(s.out_dtype));
  for (size_t i = 0; i < names.size(); ++i) {
    const Tolerance t = stored_as(kEmbeddings[i].out_dtype, kRounding);
    cases.push_back({"embedding", names[i], t.value, t.reason, test_embedding, static_cast<int>(i)});
  }
}

}  // namespace allmrec::test
