// The element and row ops on float16 and bfloat16, on addresses that allow no 16-byte loads, and on rows and
// batches long enough for every path of a device; put_rows and advance.
#include <algorithm>
#include <cmath>

#include "op_fixture.h"

namespace allmrec::test {

namespace {

// Where both halves are tested, even variants are float16 and odd ones bfloat16.
int32_t half_of(int variant) {
  return variant % 2 == 0 ? ALLMREC_F16 : ALLMREC_BF16;
}

// A copy of `values` that begins one element behind a 16-byte border.
void* upload_askew(Fixture& f, int32_t dtype, Values& values) {
  Values shifted(values.size() + 1);
  std::copy(values.begin(), values.end(), shifted.begin() + 1);
  char* p = static_cast<char*>(f.upload_as(dtype, shifted));
  std::copy(shifted.begin() + 1, shifted.end(), values.begin());
  return p + (dtype == ALLMREC_F32 ? 4 : 2);
}
void* output_askew(Fixture& f, int32_t dtype, int64_t n) {
  return static_cast<char*>(f.output_as(dtype, n + 1)) + (dtype == ALLMREC_F32 ? 4 : 2);
}

Values plus(Values a, const Values& b) {
  for (size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

// ---- element by element ----

const int64_t kSizes[] = {0, 1, 7, 8, 9, 1000, 40003};

void test_activation(Fixture& f, int variant) {
  const int32_t dtype = half_of(variant), kind = variant / 2;
  for (const int64_t n : kSizes) {
    Values x = f.uniform(n, -6, 6);
    if (n > 0) x[0] = 3;  // something to measure the rounding of a negative tail by
    void *in = f.upload_as(dtype, x), *y = f.output_as(dtype, n);
    f.run(&allmrec_backend::activation, allmrec_activation_args{n, kind, in, y, dtype});
    f.expect("y", y, reference::activation(kind, x), dtype);
  }
}

void test_activation_backward(Fixture& f, int variant) {
  const int32_t dtype = half_of(variant), kind = variant / 2;
  const bool from_output =
      kind == ALLMREC_ACT_RELU || kind == ALLMREC_ACT_SIGMOID || kind == ALLMREC_ACT_TANH;
  for (const int64_t n : kSizes) {
    const Values x = f.uniform(n, -4, 4);
    Values dy = f.uniform(n), before = f.uniform(n), saved = from_output ? reference::activation(kind, x) : x;
    const void *dy_in = f.upload_as(dtype, dy), *saved_in = f.upload_as(dtype, saved);
    Values expected = reference::activation_backward(kind, dy, saved);
    for (int64_t i = 0; from_output && i < n; ++i) {  // from the stored output, not from x
      if (kind == ALLMREC_ACT_RELU) expected[i] = saved[i] > 0 ? dy[i] : 0;
      if (kind == ALLMREC_ACT_SIGMOID) expected[i] = dy[i] * saved[i] * (1 - saved[i]);
      if (kind == ALLMREC_ACT_TANH) expected[i] = dy[i] * (1 - saved[i] * saved[i]);
    }
    void* dx = f.output_as(dtype, n);
    f.run(&allmrec_backend::activation_backward,
          allmrec_activation_backward_args{n, kind, dy_in, saved_in, dx, 0, dtype});
    f.expect("dx", dx, expected, dtype);
    dx = f.output_as(dtype, before);
    f.run(&allmrec_backend::activation_backward,
          allmrec_activation_backward_args{n, kind, dy_in, saved_in, dx, 1, dtype});
    f.expect("dx added", dx, plus(expected, before), dtype);
  }
}

void test_add(Fixture& f, int variant) {
  const int32_t dtype = half_of(variant);
  for (const int64_t n : kSizes) {
    Values a = f.uniform(n), b = f.uniform(n), before = f.uniform(n);
    const void *in_a = f.upload_as(dtype, a), *in_b = f.upload_as(dtype, b);
    Values expected(n), tripled(n);
    for (int64_t i = 0; i < n; ++i) expected[i] = 0.5 * a[i] - 2 * b[i], tripled[i] = 3 * a[i];
    void* y = f.output_as(dtype, before);
    f.run(&allmrec_backend::add, allmrec_add_args{n, 0.5f, in_a, -2.0f, in_b, y, 1, dtype});
    f.expect("y added", y, plus(expected, before), dtype);
    y = f.output_as(dtype, n);
    f.run(&allmrec_backend::add, allmrec_add_args{n, 3.0f, in_a, 0, nullptr, y, 0, dtype});
    f.expect("b NULL", y, tripled, dtype);
  }
}

// Pointers that are aligned to their elements only: every combination of one of three.
void test_add_askew(Fixture& f, int variant) {
  const int32_t dtype = variant == 2 ? ALLMREC_F32 : half_of(variant);
  const int64_t n = 3001;
  for (int askew = 1; askew < 8; askew += askew < 4 ? askew : 3) {  // 1, 2, 4, 7
    Values a = f.uniform(n), b = f.uniform(n);
    const void* in_a = askew & 1 ? upload_askew(f, dtype, a) : f.upload_as(dtype, a);
    const void* in_b = askew & 2 ? upload_askew(f, dtype, b) : f.upload_as(dtype, b);
    void* y = askew & 4 ? output_askew(f, dtype, n) : f.output_as(dtype, n);
    f.run(&allmrec_backend::add, allmrec_add_args{n, 1, in_a, -1, in_b, y, 0, dtype});
    for (double& v : b) v = -v;
    f.expect("y", y, plus(a, b), dtype);
  }
}

void test_dropout(Fixture& f, int variant) {
  const int32_t dtype = half_of(variant);
  const float p = variant / 2 == 0 ? 0.3f : 1.0f;
  uint64_t stream = 0x300000009u;
  for (const int64_t n : kSizes) {
    const allmrec_dropout dropout = {p, 0x123456789abcdefu, stream++};
    Values x = f.uniform(n), residual = f.uniform(n), before = f.uniform(n);
    void *in = f.upload_as(dtype, x), *in_residual = f.upload_as(dtype, residual);
    const Values factors = reference::dropout_factors(dropout, n);
    Values expected(n);
    for (int64_t i = 0; i < n; ++i) expected[i] = factors[i] > 0 ? x[i] * factors[i] : 0;
    void* y = f.output_as(dtype, before);
    f.run(&allmrec_backend::dropout, allmrec_dropout_args{n, dropout, in, in_residual, y, 1, dtype});
    f.expect("y added, residual", y, plus(plus(expected, residual), before), dtype);
    f.run(&allmrec_backend::dropout, allmrec_dropout_args{n, dropout, in, nullptr, in, 0, dtype});
    f.expect("in place", in, expected, dtype);
  }
}

// Every pair of dtypes; what is rounded is rounded to nearest even, once.
void test_cast(Fixture& f, int variant) {
  const int32_t dtypes[] = {ALLMREC_F32, ALLMREC_F16, ALLMREC_BF16};
  const int32_t from = dtypes[variant / 3], to = dtypes[variant % 3];
  const int64_t n = 5003;
  for (const bool askew : {false, true}) {
    Values x = f.uniform(n, -3, 3);
    x[0] = 0.0, x[1] = 65519.0, x[2] = 1e-7, x[3] = 1.00048828125, x[4] = -1.00146484375;  // halfway cases
    const void* in = askew ? upload_askew(f, from, x) : f.upload_as(from, x);
    Values expected = x;
    f.upload_as(to, expected);  // rounds them
    void* y = f.output_as(to, n);
    f.run(&allmrec_backend::cast, allmrec_cast_args{n, in, from, y, to});
    f.expect("y", y, expected, to);
  }
}

void test_copy_2d(Fixture& f, int variant) {
  const int32_t dtype = half_of(variant);
  const int64_t shapes[][4] = {
      // rows, cols, ldx, ldy: pieces of 16, 8, 4 and 2 bytes; a long row; dense
      {37, 64, 96, 72}, {9, 12, 20, 12}, {9, 6, 10, 14}, {19, 7, 9, 11}, {1, 3001, 0, 0}, {21, 5, 5, 5}};
  for (const auto& [rows, cols, ldx, ldy] : shapes) {
    Values x = f.uniform(rows > 1 ? rows * ldx : cols), expected;
    const void* in = f.upload_as(dtype, x);
    for (int64_t i = 0; i < rows; ++i)
      expected.insert(expected.end(), x.begin() + i * ldx, x.begin() + i * ldx + cols);
    void* y = f.output_as(dtype, rows > 1 ? rows * ldy : cols);
    f.run(&allmrec_backend::copy_2d, allmrec_copy_2d_args{rows, cols, in, ldx, y, ldy, 0, dtype});
    f.expect_matrix("y", y, rows, cols, ldy, expected, dtype);
    for (double& v : expected) v *= 2;  // exact
    f.run(&allmrec_backend::copy_2d, allmrec_copy_2d_args{rows, cols, in, ldx, y, ldy, 1, dtype});
    f.expect_matrix("y added", y, rows, cols, ldy, expected, dtype);
  }
}

// More elements than a grid of a small card holds at once, so that threads go round with several groups in
// flight (one input of halves: four; otherwise two) and a rest.
constexpr int64_t kLarge = 1100003;

void test_cast_large(Fixture& f, int) {
  Values x = f.uniform(kLarge);
  const void* in = f.upload_as(ALLMREC_F16, x);
  void* y = f.output_as(ALLMREC_F32, kLarge);
  f.run(&allmrec_backend::cast, allmrec_cast_args{kLarge, in, ALLMREC_F16, y, ALLMREC_F32});
  f.expect("y", y, x);
}

void test_dropout_large(Fixture& f, int) {
  const allmrec_dropout dropout = {0.5f, 11, 12};  // a factor of 2: exact
  Values x = f.uniform(kLarge);
  void* in = f.upload_as(ALLMREC_F32, x);
  const Values factors = reference::dropout_factors(dropout, kLarge);
  for (int64_t i = 0; i < kLarge; ++i) x[i] *= factors[i];
  f.run(&allmrec_backend::dropout, allmrec_dropout_args{kLarge, dropout, in, nullptr, in, 0, ALLMREC_F32});
  f.expect("in place", in, x);
}

// Whole numbers, so that one piece left out or taken twice shows.
void test_sums_large(Fixture& f, int variant) {
  Values x(kLarge);
  double total = 0, squares = 0;
  for (int64_t i = 0; i < kLarge; ++i) x[i] = i % 7, total += x[i], squares += x[i] * x[i];
  const float* in = f.upload(x);
  float* out = f.output(1);
  if (variant == 0) {
    f.run(&allmrec_backend::sum, allmrec_sum_args{kLarge, in, 1, out, 0});
  } else {
    f.run(&allmrec_backend::squared_norm, allmrec_squared_norm_args{&in, &kLarge, 1, out});
  }
  f.expect("out", out, {variant == 0 ? total : squares});
}
void test_sum_large(Fixture& f, int) {
  test_sums_large(f, 0);
}
void test_squared_norm_large(Fixture& f, int) {
  test_sums_large(f, 1);
}

void test_advance(Fixture& f, int) {
  for (const int64_t n : {0, 1, 255, 10001}) {
    Ints x = f.integers(n, -1000, 1000);
    int32_t* in = f.upload(x);
    f.run(&allmrec_backend::advance, allmrec_advance_args{n, in, 3});
    f.run(&allmrec_backend::advance, allmrec_advance_args{n, in, -10});
    for (int32_t& v : x) v -= 7;
    f.expect_integers("x", in, x);
  }
}

// ---- layer norm ----

struct NormShape {
  int64_t rows, cols;
  bool askew;  // x aligned to its elements only
};
// A warp a row: short, long, one column at a time. A block a row: with and without vectors. Rows that no
// block can keep. The last has more rows than blocks that sum gradients of parameters, several times over.
const NormShape kNormShapes[] = {{37, 200, false}, {19, 768, false},  {21, 51, false},
                                 {5, 901, false},  {6, 2048, false},  {3, 256, true},
                                 {2, 9001, false}, {2, 17408, false}, {130, 1032, false}};
const std::vector<std::string> kNormNames = {"37x200",      "19x768", "21x51",   "5x901",   "6x2048",
                                             "3x256 askew", "2x9001", "2x17408", "130x1032"};

struct NormCase {
  NormShape shape;
  int32_t dtype;
  Values x, gamma, beta;
  const void* in;
};
NormCase make_norm(Fixture& f, int variant, int32_t dtype) {
  NormCase c = {kNormShapes[variant], dtype, {}, {}, {}, nullptr};
  c.x = f.uniform(c.shape.rows * c.shape.cols, -2, 4);
  c.gamma = f.uniform(c.shape.cols), c.beta = f.uniform(c.shape.cols);
  c.in = c.shape.askew ? upload_askew(f, dtype, c.x) : f.upload_as(dtype, c.x);
  return c;
}

void layer_norm(Fixture& f, int variant, int32_t dtype) {
  const NormCase c = make_norm(f, variant, dtype);
  const int64_t rows = c.shape.rows, cols = c.shape.cols;
  const reference::LayerNorm expected = reference::layer_norm(rows, cols, c.x, c.gamma, c.beta, 1e-5f);
  void* y = f.output_as(dtype, rows * cols);
  float *mean = f.output(rows), *rstd = f.output(rows);
  f.run(&allmrec_backend::layer_norm, allmrec_layer_norm_args{rows, cols, c.in, f.upload(c.gamma),
                                                              f.upload(c.beta), 1e-5f, y, mean, rstd, dtype});
  f.expect("y", y, expected.y, dtype);
  f.expect("mean", mean, expected.mean);
  f.expect("rstd", rstd, expected.rstd);
}
void test_layer_norm(Fixture& f, int variant) {
  layer_norm(f, variant, ALLMREC_F32);
}
void test_layer_norm_half(Fixture& f, int variant) {
  layer_norm(f, variant, ALLMREC_F16);
}
void test_layer_norm_bfloat16(Fixture& f, int variant) {
  layer_norm(f, variant, ALLMREC_BF16);
}

enum class NormOutput { dx, parameters };
void layer_norm_backward(Fixture& f, int variant, int32_t dtype, NormOutput output) {
  const NormCase c = make_norm(f, variant, dtype);
  const int64_t rows = c.shape.rows, cols = c.shape.cols, n = rows * cols;
  Values dy = f.uniform(n), dx_before = f.uniform(n);
  const Values before = f.uniform(cols);
  const void* dy_in = c.shape.askew ? upload_askew(f, dtype, dy) : f.upload_as(dtype, dy);
  const reference::LayerNorm forward = reference::layer_norm(rows, cols, c.x, c.gamma, c.beta, 1e-5f);
  const reference::LayerNormGradients g = reference::layer_norm_backward(rows, cols, dy, c.x, c.gamma, 1e-5f);
  allmrec_layer_norm_backward_args args = {};
  args.rows = rows, args.cols = cols, args.dy = dy_in, args.x = c.in, args.gamma = f.upload(c.gamma);
  args.mean = f.upload(forward.mean), args.rstd = f.upload(forward.rstd), args.dtype = dtype;
  // With and without the other gradients, both ways of keeping what was there.
  for (const bool both : {false, true}) {
    args.accumulate = args.accumulate_params = both;
    args.dx = nullptr, args.d_gamma = args.d_beta = nullptr;
    if (output == NormOutput::dx || both)
      args.dx = both ? f.output_as(dtype, dx_before) : f.output_as(dtype, n);
    if (output == NormOutput::parameters || both) {
      args.d_gamma = both ? f.output(before) : f.output(cols);
      args.d_beta = both ? f.output(before) : f.output(cols);
    }
    f.run(&allmrec_backend::layer_norm_backward, args);
    if (output == NormOutput::dx) {
      f.expect("dx", args.dx, both ? plus(g.dx, dx_before) : g.dx, dtype);
    } else {
      f.expect("d_gamma", args.d_gamma, both ? plus(g.d_gamma, before) : g.d_gamma);
      f.expect("d_beta", args.d_beta, both ? plus(g.d_beta, before) : g.d_beta);
    }
  }
}
void test_layer_norm_dx(Fixture& f, int variant) {
  layer_norm_backward(f, variant, ALLMREC_F32, NormOutput::dx);
}
void test_layer_norm_dx_half(Fixture& f, int variant) {
  layer_norm_backward(f, variant, ALLMREC_F16, NormOutput::dx);
}
void test_layer_norm_dx_bfloat16(Fixture& f, int variant) {
  layer_norm_backward(f, variant, ALLMREC_BF16, NormOutput::dx);
}
void test_layer_norm_parameters(Fixture& f, int variant) {
  layer_norm_backward(f, variant, ALLMREC_F32, NormOutput::parameters);
}
void test_layer_norm_parameters_half(Fixture& f, int variant) {
  layer_norm_backward(f, variant, ALLMREC_F16, NormOutput::parameters);
}

// ---- embedding and rows added by index ----

struct EmbeddingShape {
  int64_t tokens, cols;
  int32_t table_dtype, out_dtype;
  bool soft, extras;  // extras: positions, constant, dropout
};
const EmbeddingShape kEmbeddingShapes[] = {
    {45, 64, ALLMREC_F16, ALLMREC_F16, true, true},    {45, 64, ALLMREC_F32, ALLMREC_BF16, true, false},
    {45, 33, ALLMREC_BF16, ALLMREC_BF16, false, true}, {9, 4096, ALLMREC_BF16, ALLMREC_F32, true, false},
    {700, 24, ALLMREC_F32, ALLMREC_F32, false, true},
};
const std::vector<std::string> kEmbeddingNames = {"45x64 half to half", "45x64 to bfloat16", "45x33 bfloat16",
                                                  "9x4096 from bfloat16", "700x24"};

void embedding(Fixture& f, const EmbeddingShape& s) {
  const int64_t table_rows = 50, soft_rows = s.soft ? 6 : 0, position_rows = s.extras ? 20 : 0;
  reference::Embedding e = {};
  e.tokens = s.tokens, e.cols = s.cols, e.scale = 1.5;
  e.ids = f.integers(s.tokens, static_cast<int32_t>(-soft_rows), static_cast<int32_t>(table_rows - 1));
  e.table = f.uniform(table_rows * s.cols);
  e.soft = f.uniform(soft_rows * s.cols);
  if (s.extras) {
    e.positions = f.uniform(position_rows * s.cols);
    e.position_ids = f.integers(s.tokens, 0, static_cast<int32_t>(position_rows - 1));
    e.constant = f.uniform(s.cols);
    e.dropout = {0.25f, 5, 0x700000001u};
  }
  const void* table = f.upload_as(s.table_dtype, e.table);
  void* out = f.output_as(s.out_dtype, s.tokens * s.cols);
  f.run(&allmrec_backend::embedding,
        allmrec_embedding_args{s.tokens, s.cols, f.upload(e.ids), table, s.table_dtype, table_rows,
                               f.upload(e.soft), soft_rows, static_cast<float>(e.scale),
                               f.upload(e.positions), position_rows, f.upload(e.position_ids),
                               f.upload(e.constant), e.dropout, out, s.out_dtype, nullptr});
  f.expect("out", out, reference::embedding(e), s.out_dtype);
}
void test_embedding(Fixture& f, int variant) {
  embedding(f, kEmbeddingShapes[variant]);
}

struct GradientShape {
  int64_t tokens, cols, table_rows, soft_rows;
  int32_t dtype;  // of dy
  float p;
};
const GradientShape kGradientShapes[] = {
    {300, 72, 40, 4, ALLMREC_F16, 0.25f},   // vectors, two tiles of columns
    {300, 33, 40, 4, ALLMREC_BF16, 0.25f},  // single columns
    {1600, 8, 3, 0, ALLMREC_F32, 0},        // runs over many borders
    {32, 40, 1, 1, ALLMREC_F16, 0},         // ends at a border
    {9001, 3, 2000, 5, ALLMREC_F32, 0.5f},  // sorted in tiles
    {20, 2056, 300, 20, ALLMREC_BF16, 0},   // a prompt's soft rows
};
const std::vector<std::string> kGradientNames = {"300x72 half", "300x33 bfloat16", "1600x8, three ids",
                                                 "32x40 half",  "9001x3",          "20x2056 bfloat16"};

void test_embedding_backward(Fixture& f, int variant) {
  const GradientShape& s = kGradientShapes[variant];
  const int64_t position_rows = 17;
  reference::Embedding e = {};
  e.tokens = s.tokens, e.cols = s.cols, e.scale = 0.5;
  e.ids = f.integers(s.tokens, static_cast<int32_t>(-s.soft_rows), static_cast<int32_t>(s.table_rows - 1));
  e.table = Values(s.table_rows * s.cols), e.soft = Values(s.soft_rows * s.cols);
  e.positions = Values(position_rows * s.cols);
  e.position_ids = f.integers(s.tokens, 0, static_cast<int32_t>(position_rows - 1));
  e.constant = Values(s.cols);
  e.dropout = {s.p, 5, 0x700000001u};
  Values dy = f.uniform(s.tokens * s.cols);
  allmrec_embedding_backward_args args = {};
  args.tokens = s.tokens, args.cols = s.cols, args.scale = 0.5f, args.dropout = e.dropout;
  args.dy = f.upload_as(s.dtype, dy), args.dy_dtype = s.dtype;
  args.ids = f.upload(e.ids), args.position_ids = f.upload(e.position_ids);
  args.table_rows = s.table_rows, args.soft_rows = s.soft_rows, args.position_rows = position_rows;
  reference::EmbeddingGradients g = reference::embedding_backward(e, dy);
  const Values table_before = f.uniform(s.table_rows * s.cols), soft_before = f.uniform(s.soft_rows * s.cols);
  const Values positions_before = f.uniform(position_rows * s.cols), constant_before = f.uniform(s.cols);
  args.d_table = f.output(table_before), args.d_soft = f.output(soft_before);
  args.d_positions = f.output(positions_before), args.d_constant = f.output(constant_before);
  f.run(&allmrec_backend::embedding_backward, args);
  f.expect("d_table", args.d_table, plus(g.d_table, table_before));
  f.expect("d_soft", args.d_soft, plus(g.d_soft, soft_before));
  f.expect("d_positions", args.d_positions, plus(g.d_positions, positions_before));
  f.expect("d_constant", args.d_constant, plus(g.d_constant, constant_before));
  // Each frozen in turn.
  args.d_positions = args.d_constant = nullptr;
  args.d_table = f.output(table_before), args.d_soft = nullptr;
  f.run(&allmrec_backend::embedding_backward, args);
  f.expect("d_table alone", args.d_table, plus(g.d_table, table_before));
  args.d_table = nullptr, args.d_soft = f.output(soft_before);
  f.run(&allmrec_backend::embedding_backward, args);
  f.expect("d_soft alone", args.d_soft, plus(g.d_soft, soft_before));
}

const int64_t kRowShapes[][5] = {  // count, cols, rows of the other matrix, ldx, ldout
    {70, 48, 30, 56, 48},
    {70, 13, 30, 13, 17},
    {200, 264, 3, 264, 264}};
const std::vector<std::string> kRowNames = {
    "70x48 half",     "70x48 bfloat16",        "70x13 half",
    "70x13 bfloat16", "200x264 half, crowded", "200x264 bfloat16, crowded"};

void test_gather_rows(Fixture& f, int variant) {
  const auto [count, cols, height, ldx, ldout] = kRowShapes[variant / 2];
  const int32_t dtype = half_of(variant);
  Values x = f.uniform(height * ldx);
  const Ints rows = f.integers(count, 0, static_cast<int32_t>(height - 1));
  const void* in = f.upload_as(dtype, x);
  void* out = f.output_as(dtype, count * ldout);
  f.run(&allmrec_backend::gather_rows,
        allmrec_rows_args{count, cols, f.upload(rows), in, ldx, out, ldout, dtype});
  f.expect_matrix("out", out, count, cols, ldout, reference::gather_rows(cols, rows, x, ldx), dtype);
}

void test_scatter_add_rows(Fixture& f, int variant) {
  const auto [count, cols, height, ldx, ldout] = kRowShapes[variant / 2];
  const int32_t dtype = half_of(variant);
  Values x = f.uniform(count * ldx), expected = f.uniform(height * ldout);
  const Ints rows = f.integers(count, 0, static_cast<int32_t>(height - 1));
  const void* in = f.upload_as(dtype, x);
  void* out = f.output_as(dtype, expected);
  reference::scatter_add_rows(cols, rows, x, ldx, expected, ldout);
  f.run(&allmrec_backend::scatter_add_rows,
        allmrec_rows_args{count, cols, f.upload(rows), in, ldx, out, ldout, dtype});
  f.expect("out", out, expected, dtype);
}

// Distinct rows, some left out; what is not written stays NaN.
void test_put_rows(Fixture& f, int variant) {
  const int32_t dtypes[] = {ALLMREC_F32, ALLMREC_F16, ALLMREC_BF16};
  const int32_t dtype = dtypes[variant % 3];
  const int64_t shapes[][4] = {{20, 64, 64, 64}, {37, 19, 23, 21}, {1, 1030, 1030, 1032}, {0, 8, 8, 8}};
  for (const auto& [count, cols, ldx, ldout] : shapes) {
    const int64_t height = 3 * count + 1;
    Ints rows(count);
    for (int64_t i = 0; i < count; ++i)
      rows[i] = i % 5 == 3 ? -1 - static_cast<int32_t>(i) : static_cast<int32_t>((i * 7) % height);
    for (int64_t i = 0; i < count; ++i)  // distinct: 7 and the height have no common factor
      if (height % 7 == 0 && rows[i] >= 0) rows[i] = static_cast<int32_t>(3 * i);
    Values x = f.uniform(count * ldx), expected(height * cols, std::nan(""));
    const void* in = f.upload_as(dtype, x);
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t j = 0; rows[i] >= 0 && j < cols; ++j) expected[rows[i] * cols + j] = x[i * ldx + j];
    }
    void* out = f.output_as(dtype, height * ldout);
    f.run(&allmrec_backend::put_rows,
          allmrec_rows_args{count, cols, f.upload(rows), in, ldx, out, ldout, dtype});
    f.expect_matrix("out", out, height, cols, ldout, expected, dtype);
  }
}

// ---- means and sums ----

const int64_t kMeanCols[] = {50, 520, 51};

void test_segment_mean(Fixture& f, int variant) {
  const int32_t dtype = half_of(variant);
  const int64_t cols = kMeanCols[variant / 2], segments = 5;
  const Ints offsets = {0, 1, 1, 64, 70, 97};
  Values x = f.uniform(offsets.back() * cols), before = f.uniform(segments * cols);
  const int32_t* in_offsets = f.upload(offsets);
  const void* in = f.upload_as(dtype, x);
  const Values expected = reference::segment_mean(cols, offsets, x);
  void* out = f.output_as(dtype, segments * cols);
  f.run(&allmrec_backend::segment_mean,
        allmrec_segment_mean_args{segments, cols, in_offsets, in, out, 0, dtype});
  f.expect("out", out, expected, dtype);
  out = f.output_as(dtype, before);
  f.run(&allmrec_backend::segment_mean,
        allmrec_segment_mean_args{segments, cols, in_offsets, in, out, 1, dtype});
  f.expect("out added", out, plus(expected, before), dtype);
}

void test_segment_mean_backward(Fixture& f, int variant) {
  const int32_t dtype = half_of(variant);
  const int64_t cols = kMeanCols[variant / 2], segments = 5;
  const Ints offsets = {0, 1, 1, 64, 70, 97};
  const int64_t tokens = offsets.back();
  Values dy = f.uniform(segments * cols), before = f.uniform(tokens * cols);
  const int32_t* in_offsets = f.upload(offsets);
  const void* in = f.upload_as(dtype, dy);
  const Values expected = reference::segment_mean_backward(cols, offsets, dy, tokens);
  void* dx = f.output_as(dtype, tokens * cols);
  f.run(&allmrec_backend::segment_mean_backward,
        allmrec_segment_mean_args{segments, cols, in_offsets, in, dx, 0, dtype});
  f.expect("dx", dx, expected, dtype);
  dx = f.output_as(dtype, before);
  f.run(&allmrec_backend::segment_mean_backward,
        allmrec_segment_mean_args{segments, cols, in_offsets, in, dx, 1, dtype});
  f.expect("dx added", dx, plus(expected, before), dtype);
}

void test_column_sum(Fixture& f, int variant) {
  const int32_t dtype = half_of(variant);
  const int64_t shapes[][3] = {{500, 72, 80}, {31, 300, 304}, {1000, 19, 21}};
  const auto [rows, cols, ld] = shapes[variant / 2];
  for (const bool accumulate : {false, true}) {
    Values x = f.uniform(rows * ld);
    const Values before = f.uniform(cols);
    const void* in = f.upload_as(dtype, x);
    const Values expected = reference::column_sum(rows, cols, x, ld);
    float* out = accumulate ? f.output(before) : f.output(cols);
    f.run(&allmrec_backend::column_sum, allmrec_column_sum_args{rows, cols, in, ld, out, accumulate, dtype});
    f.expect("out", out, accumulate ? plus(expected, before) : expected);
  }
}

void test_sum_askew(Fixture& f, int) {
  for (const int64_t n : {3, 5000, 20011}) {
    Values x = f.uniform(n);
    const void* in = upload_askew(f, ALLMREC_F32, x);
    double expected = 0;
    for (double v : x) expected -= 2 * v;
    float* out = f.output(1);
    f.run(&allmrec_backend::sum, allmrec_sum_args{n, static_cast<const float*>(in), -2, out, 0});
    f.expect("out", out, {expected});
  }
}

// More tensors than lanes, some empty, some askew, one of several pieces.
void test_squared_norm_many(Fixture& f, int) {
  std::vector<const float*> tensors;
  std::vector<int64_t> sizes;
  double expected = 0;
  for (int t = 0; t < 75; ++t) {
    const int64_t n = t == 40 ? 30000 : t % 4 == 1 ? 0 : 13 * t;
    Values x = f.uniform(n, t % 2, t % 2 + 1);
    for (double v : x) expected += v * v;
    tensors.push_back(static_cast<const float*>(t % 3 == 0 ? upload_askew(f, ALLMREC_F32, x)
                                                           : f.upload_as(ALLMREC_F32, x)));
    sizes.push_back(n);
  }
  float* out = f.output(1);
  f.run(&allmrec_backend::squared_norm,
        allmrec_squared_norm_args{tensors.data(), sizes.data(), static_cast<int64_t>(sizes.size()), out});
  f.expect("out", out, {expected});
}

// Long rows: several steps of a warp, with and without vectors.
const int64_t kLongRows[][2] = {{5, 1500}, {3, 1027}};
const std::vector<std::string> kLongNames = {"5x1500", "3x1027"};

void test_row_dot_long(Fixture& f, int variant) {
  const auto [rows, cols] = kLongRows[variant];
  const Values a = f.uniform(rows * cols), b = f.uniform(rows * cols, 0, 1);
  float* out = f.output(rows);
  f.run(&allmrec_backend::row_dot, allmrec_row_dot_args{rows, cols, f.upload(a), f.upload(b), 0.5f, out});
  f.expect("out", out, reference::row_dot(rows, cols, a, b, 0.5));
}

void test_l2_normalize_long(Fixture& f, int variant) {
  const auto [rows, cols] = kLongRows[variant];
  const Values x = f.uniform(rows * cols);
  const reference::Normalized expected = reference::l2_normalize(rows, cols, x, 1e-6f);
  float *y = f.output(rows * cols), *norm = f.output(rows);
  f.run(&allmrec_backend::l2_normalize, allmrec_l2_normalize_args{rows, cols, f.upload(x), 1e-6f, y, norm});
  f.expect("y", y, expected.y);
  f.expect("norm", norm, expected.norm);
}

// Names for one dtype or the other in turn.
std::vector<std::string> in_halves(const std::vector<std::string>& names) {
  std::vector<std::string> both;
  for (const std::string& name : names) {
    both.push_back(name + " half");
    both.push_back(name + " bfloat16");
  }
  return both;
}
std::vector<std::string> with(const std::vector<std::string>& names, const char* what) {
  std::vector<std::string> longer;
  for (const std::string& name : names) longer.push_back(name + what);
  return longer;
}

}  // namespace

void half_row_cases(Cases& cases) {
  const std::vector<std::string> kinds = {"none",      "relu",    "leaky_relu", "gelu",
                                          "gelu_tanh", "sigmoid", "tanh"};
  // Both halves in one list: the tolerance is the wider one's.
  add_cases(cases, "activation", kBfloat16, test_activation, in_halves(kinds));
  add_cases(cases, "activation_backward", kBfloat16, test_activation_backward, in_halves(kinds));
  add_cases(cases, "add", kBfloat16, test_add, {"half", "bfloat16"});
  add_cases(cases, "add", kBfloat16, test_add_askew, {"half askew", "bfloat16 askew", "float32 askew"});
  add_cases(cases, "dropout", kBfloat16, test_dropout, in_halves({"p 0.3", "p 1"}));
  add_cases(
      cases, "cast", kExact, test_cast,
      {"float32 to float32", "float32 to half", "float32 to bfloat16", "half to float32", "half to half",
       "half to bfloat16", "bfloat16 to float32", "bfloat16 to half", "bfloat16 to bfloat16"});
  add_cases(cases, "copy_2d", kExact, test_copy_2d, {"half", "bfloat16"});
  add_cases(cases, "cast", kExact, test_cast_large, {"half to float32, large"});
  add_cases(cases, "dropout", kExact, test_dropout_large, {"large"});
  add_cases(cases, "sum", kLoss, test_sum_large, {"large"});
  add_cases(cases, "squared_norm", kLoss, test_squared_norm_large, {"large"});
  add_cases(cases, "advance", kExact, test_advance, {"all sizes"});

  add_cases(cases, "layer_norm", kSum, test_layer_norm, with(kNormNames, " float32"));
  add_cases(cases, "layer_norm", kHalf, test_layer_norm_half, with(kNormNames, " half"));
  add_cases(cases, "layer_norm", kBfloat16, test_layer_norm_bfloat16, with(kNormNames, " bfloat16"));
  add_cases(cases, "layer_norm_backward", kCancel, test_layer_norm_dx, with(kNormNames, " float32"));
  add_cases(cases, "layer_norm_backward", kHalf, test_layer_norm_dx_half, with(kNormNames, " half"));
  add_cases(cases, "layer_norm_backward", kBfloat16, test_layer_norm_dx_bfloat16,
            with(kNormNames, " bfloat16"));
  add_cases(cases, "layer_norm_backward", kCancel, test_layer_norm_parameters,
            with(kNormNames, " float32, parameters"));
  add_cases(cases, "layer_norm_backward", kCancel, test_layer_norm_parameters_half,
            with(kNormNames, " half, parameters"));

  add_cases(cases, "embedding", kBfloat16, test_embedding, kEmbeddingNames);
  add_cases(cases, "embedding_backward", kSum, test_embedding_backward, kGradientNames);
  add_cases(cases, "gather_rows", kExact, test_gather_rows, kRowNames);
  add_cases(cases, "scatter_add_rows", kBfloat16, test_scatter_add_rows, kRowNames);
  add_cases(cases, "put_rows", kExact, test_put_rows, {"float32", "half", "bfloat16"});

  const std::vector<std::string> means = {"50", "520", "51"};
  add_cases(cases, "segment_mean", kBfloat16, test_segment_mean, in_halves(means));
  add_cases(cases, "segment_mean_backward", kBfloat16, test_segment_mean_backward, in_halves(means));
  add_cases(cases, "column_sum", kSum, test_column_sum,
            in_halves({"500x72 strided", "31x300 strided", "1000x19 strided"}));
  add_cases(cases, "sum", kLoss, test_sum_askew, {"askew"});
  add_cases(cases, "squared_norm", kLoss, test_squared_norm_many, {"75 tensors"});
  add_cases(cases, "row_dot", kSum, test_row_dot_long, kLongNames);
  add_cases(cases, "l2_normalize", kSum, test_l2_normalize_long, kLongNames);
}

}  // namespace allmrec::test
