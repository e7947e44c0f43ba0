// Cases of gemm with halves, mixed dtypes and more than eight rows of quantised weights, and of float32
// products that need several tiles or parts of k. The sizes are chosen for a device of 16 multiprocessors, as
// the emulated one is: each kernel, tile and orientation comes up.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "op_fixture.h"
#include "reference_quantized.h"

namespace allmrec::test {

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr int32_t F32 = ALLMREC_F32, F16 = ALLMREC_F16, BF16 = ALLMREC_BF16;

enum Extra {
  kBias = 1,
  kResidual = 2,
  kRelu = 4,
  kAccumulate = 8,
  kInPlace = 16
};  // kInPlace: residual is c

struct Product {
  int64_t m, n, k;
  bool trans_a, trans_b;
  int32_t a, b, c;  // dtypes
  int extras;
  int64_t gap = 0;     // ld − row length
  int64_t offset = 0;  // elements that every matrix begins behind an aligned address
  int32_t compute = F32;
};

const char* name_of(int32_t dtype) {
  const char* const names[] = {"f32", "f16", "bf16", "i8", "i4"};
  return names[dtype];
}

std::string title(const Product& p) {
  std::string s = std::to_string(p.m) + "x" + std::to_string(p.n) + "x" + std::to_string(p.k) + " ";
  s += p.trans_a ? "t" : "n";
  s += p.trans_b ? "t " : "n ";
  s += std::string(name_of(p.a)) + "*" + name_of(p.b) + "->" + name_of(p.c);
  const char* const extras[] = {" bias", " residual", " relu", " accumulate", " in place"};
  for (int i = 0; i < 5; ++i) {
    if (p.extras >> i & 1) s += extras[i];
  }
  if (p.compute != F32) s += std::string(" in ") + name_of(p.compute);
  if (p.gap) s += " gap " + std::to_string(p.gap);
  if (p.offset) s += " offset " + std::to_string(p.offset);
  return s;
}

int64_t size_of(int32_t dtype) {
  return dtype == F32 ? 4 : 2;
}

// rows × cols of random values with NaN between the rows and before the first. `values` become the matrix as
// it was stored, without gaps; the pointer is that of the first element.
void* upload_matrix(Fixture& f, int32_t dtype, int64_t rows, int64_t cols, const Product& p, Values& values,
                    bool output = false) {
  if (rows == 0 || cols == 0) return nullptr;
  const int64_t ld = cols + p.gap;
  Values padded(static_cast<size_t>(p.offset + (rows - 1) * ld + cols), kNaN);
  for (int64_t i = 0; i < rows; ++i) std::copy_n(&values[i * cols], cols, &padded[p.offset + i * ld]);
  void* memory = output ? f.output_as(dtype, padded) : f.upload_as(dtype, padded);
  for (int64_t i = 0; i < rows; ++i) std::copy_n(&padded[p.offset + i * ld], cols, &values[i * cols]);
  return static_cast<char*>(memory) + p.offset * size_of(dtype);
}

// The values rounded to a dtype.
void round_to(Fixture& f, int32_t dtype, Values& values) {
  f.upload_as(dtype, values);
}

// Everything but a and b, which the caller has put into `g`, and b into `args`.
void run_product(Fixture& f, const Product& p, reference::Gemm& g, allmrec_gemm_args& args) {
  g.m = p.m, g.n = p.n, g.k = p.k, g.trans_a = p.trans_a, g.trans_b = p.trans_b, g.alpha = 0.75;
  g.lda = p.trans_a ? p.m : p.k;
  g.ldb = p.trans_b ? p.k : p.n;
  args.m = p.m, args.n = p.n, args.k = p.k, args.trans_a = p.trans_a, args.trans_b = p.trans_b;
  args.compute_dtype = p.compute;
  args.a_dtype = p.a, args.b_dtype = p.b, args.c_dtype = p.c, args.alpha = 0.75f;
  args.a = upload_matrix(f, p.a, p.trans_a ? p.k : p.m, g.lda, p, g.a);
  args.lda = g.lda + p.gap;
  if (p.extras & kBias) g.bias = f.uniform(p.n);
  args.bias = f.upload(g.bias);
  Values before(static_cast<size_t>(p.m * p.n), kNaN);
  if (p.extras & (kAccumulate | kInPlace)) before = f.uniform(p.m * p.n);
  args.ldc = args.ld_residual = p.n + p.gap;
  args.c = upload_matrix(f, p.c, p.m, p.n, p, before, true);
  if (p.extras & kInPlace) {
    g.residual = before;
    args.residual = args.c;
  } else if (p.extras & kResidual) {
    g.residual = f.uniform(p.m * p.n);
    args.residual = upload_matrix(f, p.c, p.m, p.n, p, g.residual);
  }
  args.accumulate = (p.extras & kAccumulate) != 0;
  g.activation = args.activation = p.extras & kRelu ? ALLMREC_ACT_RELU : ALLMREC_ACT_NONE;
  Values expected = reference::gemm(g);
  if (p.extras & kAccumulate) {
    for (size_t i = 0; i < expected.size(); ++i) expected[i] += before[i];
  }
  f.run(&allmrec_backend::gemm, args);
  f.expect_matrix("c", args.c, p.m, p.n, args.ldc, expected, p.c);
}

void test_product(Fixture& f, const Product& p) {
  reference::Gemm g = {};
  allmrec_gemm_args args = {};
  const int64_t rows = p.trans_b ? p.n : p.k, cols = p.trans_b ? p.k : p.n;
  g.a = f.uniform(p.m * p.k);
  g.b = f.uniform(rows * cols);
  args.b = upload_matrix(f, p.b, rows, cols, p, g.b);
  args.ldb = cols + p.gap;
  if (p.b == F32 && p.a != F32) round_to(f, p.a, g.b);
  run_product(f, p, g, args);
}

// ---- float32 sums of exact products ----

const Product kExactSums[] = {
    // halves, tiles of 64 × 64: five and more steps of the four-stage pipeline, the last one cut off
    {70, 72, 200, false, true, F16, F16, F32, kBias},
    {70, 72, 200, false, false, BF16, BF16, F32, kRelu | kAccumulate, 8},
    {72, 136, 168, true, false, F16, F16, F32, kAccumulate},
    {72, 64, 8, true, false, BF16, BF16, F32, 0, 8},  // one step
    {24, 40, 64, false, true, F16, F16, F32, kResidual},
    // tiles of 128 × 128 and of 128 × 256, each orientation
    {250, 1000, 136, false, true, F16, F16, F32, kBias | kResidual},
    {256, 1000, 72, true, false, BF16, BF16, F32, kAccumulate},
    {500, 1000, 136, false, false, F16, F16, F32, 0},
    {512, 1000, 168, true, false, F16, F16, F32, kAccumulate},
    // few tiles, long k
    {64, 64, 2056, true, false, F16, F16, F32, kAccumulate},
    {16, 130, 2048, false, true, BF16, BF16, F32, kBias | kResidual | kRelu, 8},
    {30, 31, 1999, true, false, F16, F16, F32, kAccumulate},
    // what 16 bytes at a time cannot load
    {37, 53, 100, false, true, F16, F16, F32, kBias | kResidual, 1},
    {67, 70, 45, false, false, BF16, BF16, F32, kRelu, 3},
    {70, 67, 77, true, false, F16, F16, F32, kAccumulate},
    {72, 80, 96, true, true, BF16, BF16, F32, 0},
    {70, 72, 64, false, true, F16, F16, F32, 0, 8, 1},
    // float32 weights: up to 128 rows, and above
    {40, 72, 100, false, true, F16, F32, F32, kBias},
    {33, 70, 64, false, false, BF16, F32, F32, 0, 1},
    {136, 72, 40, false, true, BF16, F32, F32, kBias},
    {130, 70, 36, false, false, F16, F32, F32, 0, 2},
    {136, 64, 72, true, false, F16, F32, F32, kAccumulate},
    // float32: tiles of 128, 64 and 32, each orientation, whole vectors and not
    {500, 500, 40, false, true, F32, F32, F32, kBias | kRelu},
    {500, 500, 36, false, false, F32, F32, F32, kResidual, 4},
    {500, 500, 20, true, false, F32, F32, F32, kAccumulate},
    {500, 500, 24, true, true, F32, F32, F32, 0},
    {200, 200, 52, false, true, F32, F32, F32, kResidual},
    {200, 200, 52, true, false, F32, F32, F32, 0, 4},
    {200, 201, 51, false, false, F32, F32, F32, kBias},
    {201, 200, 35, true, true, F32, F32, F32, 0, 1},
    {40, 50, 50, true, false, F32, F32, F32, kBias | kResidual | kAccumulate},
    {40, 50, 50, false, false, F32, F32, F32, 0, 0, 1},
    {50, 50, 3000, true, false, F32, F32, F32, kAccumulate},
    {20, 30, 3001, false, true, F32, F32, F32, kBias | kRelu | kResidual, 1},
    // float32 activations, half weights
    {100, 70, 50, false, false, F32, F16, F32, kBias},
    {70, 130, 40, true, true, F32, BF16, F32, kAccumulate, 3},
    // sizes that cuBLASLt takes, where it is there
    {128, 136, 136, false, true, F16, F16, F32, kBias},
    {136, 128, 128, true, false, BF16, BF16, F32, kAccumulate, 8},
    {130, 132, 132, false, false, F32, F32, F32, kBias | kResidual},
    {132, 128, 128, true, false, F32, F32, F32, kAccumulate, 4},
    {132, 128, 128, false, true, F32, F32, F32, kRelu | kBias | kAccumulate},
    {128, 128, 128, false, true, F32, F32, F32, kBias | kInPlace},
    // nothing to multiply
    {20, 24, 0, false, true, F16, F16, F32, kBias | kResidual},
    {20, 24, 0, false, false, F32, F16, F32, kBias},
    {0, 24, 8, false, true, BF16, BF16, F32, 0},
    {24, 0, 8, false, true, BF16, BF16, F32, 0},
};

void test_exact_sums(Fixture& f, int variant) {
  test_product(f, kExactSums[variant]);
}

// ---- arithmetic in bfloat16 ----

// A device may round float32 operands or not: 128ths up to one are exact either way.
const Product kRoundedProducts[] = {
    // the four products of a layer, several tiles and blocks of k
    {130, 200, 900, false, true, F32, BF16, F32, kBias | kRelu, 0, 0, BF16},
    {130, 200, 900, false, true, F32, F32, F32, kBias | kResidual, 0, 0, BF16},
    {130, 200, 900, false, false, F32, BF16, F32, kAccumulate, 0, 0, BF16},
    {130, 200, 900, false, false, F32, F32, F32, 0, 0, 0, BF16},
    {200, 130, 900, true, false, F32, F32, F32, kAccumulate, 0, 0, BF16},
    {75, 330, 900, true, true, F32, F32, F32, kBias, 0, 0, BF16},
    // odd k, tails of every side, gaps
    {37, 71, 1, false, true, F32, BF16, F32, kBias, 3, 0, BF16},
    {41, 67, 33, false, true, F32, F32, F32, kResidual | kRelu | kAccumulate, 1, 0, BF16},
    {31, 9, 801, false, false, F32, BF16, F32, kResidual, 5, 1, BF16},
    {43, 17, 45, true, false, F32, F32, F32, kAccumulate, 3, 0, BF16},
    {15, 49, 63, true, true, F32, BF16, F32, kInPlace, 1, 1, BF16},
    {22, 24, 0, false, true, F32, F32, F32, kBias | kResidual, 0, 0, BF16},
    // few outputs, long k
    {50, 50, 3001, true, false, F32, F32, F32, kAccumulate | kBias, 0, 0, BF16},
    {20, 30, 2999, false, true, F32, BF16, F32, kRelu, 1, 0, BF16},
    // columns enough for strips of their own for three threads
    {14, 3100, 70, false, true, F32, F32, F32, kBias, 0, 0, BF16},
    // few rows
    {1, 70, 500, false, true, F32, BF16, F32, kBias, 0, 0, BF16},
    {2, 37, 31, false, true, F32, BF16, F32, kResidual, 1, 0, BF16},
    {4, 70, 95, false, true, F32, F32, F32, kRelu, 3, 0, BF16},
    {7, 66, 161, false, true, F32, BF16, F32, kAccumulate, 0, 1, BF16},
    {12, 70, 100, false, true, F32, BF16, F32, kBias | kRelu, 8, 0, BF16},
    // halves all over
    {33, 70, 77, false, true, BF16, BF16, BF16, kBias, 1, 0, BF16},
    {70, 33, 129, true, false, BF16, F32, F32, kAccumulate, 0, 0, BF16},
};

void test_rounded_products(Fixture& f, int variant) {
  const Product& p = kRoundedProducts[variant];
  reference::Gemm g = {};
  allmrec_gemm_args args = {};
  const auto fractions = [&](int64_t n) {
    const Ints q = f.integers(n, -128, 128);
    Values x(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) x[i] = q[i] / 128.0;
    return x;
  };
  const int64_t rows = p.trans_b ? p.n : p.k, cols = p.trans_b ? p.k : p.n;
  g.a = fractions(p.m * p.k);
  g.b = fractions(rows * cols);
  args.b = upload_matrix(f, p.b, rows, cols, p, g.b);
  args.ldb = cols + p.gap;
  run_product(f, p, g, args);
}

// A bfloat16 is off by up to 2^-9 of the power of two above it, evenly: 2^-9 / √3 = 1.1e-3 of it, 1.6e-3 of
// values' root mean square; twice, as both operands are rounded, independently: 2.3e-3. Cutting off instead
// of rounding would double that.
constexpr Tolerance kRoundedOperands = {3e-3, "both operands rounded to 8 bits"};
const Product kUnevenProducts[] = {
    {60, 70, 800, false, true, F32, F32, F32, kBias, 0, 0, BF16},
    {60, 70, 800, false, false, F32, F32, F32, 0, 0, 0, BF16},
    {60, 70, 800, true, false, F32, F32, F32, kAccumulate, 0, 0, BF16},
};
void test_uneven_products(Fixture& f, int variant) {
  test_product(f, kUnevenProducts[variant]);
}

// ---- fixed order ----

struct Ordered {
  int32_t b, compute;
  bool trans_b;
};
constexpr Ordered kOrdered[] = {
    {F32, F32, true},    {F32, F32, false},       {F16, F32, true},
    {BF16, F32, true},   {F32, BF16, true},       {BF16, BF16, true},
    {BF16, BF16, false}, {ALLMREC_I8, F32, true}, {ALLMREC_I4, F32, true},
};

// A row alone, among ten and among 150 has the same bits. k would be split for few outputs, and is more than
// a block.
void test_fixed_order(Fixture& f, int variant) {
  if (!f.on_cpu()) return;  // elsewhere a library may multiply
  const Ordered& o = kOrdered[variant];
  const int64_t m = 150, n = 70, k = 1120, b_rows = o.trans_b ? n : k;
  allmrec_gemm_args args = {};
  Values a = f.uniform(m * k), b = f.uniform(n * k);
  args.n = n, args.k = k, args.lda = k, args.ldb = o.trans_b ? k : n, args.ldc = n;
  args.trans_b = o.trans_b, args.b_dtype = o.b, args.compute_dtype = o.compute, args.fixed_order = 1;
  args.alpha = 0.75f, args.bias = f.upload(f.uniform(n)), args.activation = ALLMREC_ACT_RELU;
  if (o.b == ALLMREC_I8 || o.b == ALLMREC_I4) {
    const reference::Quantized weights = reference::quantize(o.b, b_rows, args.ldb, b);
    const auto upload = [&](const std::vector<unsigned char>& bytes) {
      std::vector<uint16_t> words((bytes.size() + 1) / 2);
      std::memcpy(words.data(), bytes.data(), bytes.size());
      return f.upload(words);
    };
    args.b = upload(weights.quants), args.b_scales = upload(weights.scales);
  } else {
    args.b = f.upload_as(o.b, b);
  }
  const float* from = f.upload(a);
  const auto rows = [&](int64_t first, int64_t count) {
    float* c = f.output(count * n);
    args.m = count, args.a = from + first * k, args.c = c;
    f.run(&allmrec_backend::gemm, args);
    return f.download(c, count * n);
  };
  const Values all = rows(0, m);
  f.expect_true("not all zero", std::count(all.begin(), all.end(), 0.0) < m * n / 4 * 3);
  for (const int64_t first : {0, 63, 140}) {
    for (const int64_t count : {1, 2, 10}) {
      f.expect_true("same bits", std::equal(all.begin() + first * n, all.begin() + (first + count) * n,
                                            rows(first, count).begin()));
    }
  }
}

// ---- halves out ----

const Product kHalfOutputs[] = {
    {70, 72, 200, false, true, F16, F16, F16, kBias | kRelu, 8},
    {70, 66, 72, false, true, F16, F16, F16, kBias | kResidual},
    {72, 71, 64, true, false, F16, F16, F16, kAccumulate, 1},  // n odd: one output at a time
    {250, 1000, 104, false, false, F16, F16, F16, kResidual},
    {500, 1000, 104, false, true, F16, F16, F16, kBias | kRelu},
    {33, 40, 2048, false, true, F16, F16, F16, kBias | kResidual | kRelu | kAccumulate},
    {45, 51, 67, false, false, F16, F16, F16, kBias | kInPlace, 1, 1},
    {40, 72, 100, false, true, F16, F32, F16, kBias},
    {128, 136, 136, false, true, F16, F16, F16, kBias | kRelu},
    {136, 128, 128, false, true, F16, F16, F16, kBias | kResidual, 8},
    {136, 128, 128, false, false, F16, F16, F16, kInPlace},
    {128, 136, 128, false, true, F16, F16, F16, kBias | kRelu | kResidual},
};

void test_half_outputs(Fixture& f, int variant) {
  test_product(f, kHalfOutputs[variant]);
}

void test_bfloat16_outputs(Fixture& f, int variant) {
  Product p = kHalfOutputs[variant];
  p.a = p.c = BF16;
  if (p.b == F16) p.b = BF16;
  test_product(f, p);
}

// ---- quantised weights, more than eight rows ----

void test_quantized(Fixture& f, const Product& p) {
  reference::Gemm g = {};
  allmrec_gemm_args args = {};
  const int64_t rows = p.trans_b ? p.n : p.k, cols = p.trans_b ? p.k : p.n;
  const reference::Quantized weights = reference::quantize(p.b, rows, cols, f.uniform(rows * cols));
  const auto upload = [&](const std::vector<unsigned char>& bytes, int64_t offset) {
    std::vector<uint16_t> words((static_cast<size_t>(offset) + bytes.size() + 1) / 2);
    if (!bytes.empty())
      std::memcpy(reinterpret_cast<unsigned char*>(words.data()) + offset, bytes.data(), bytes.size());
    return static_cast<const void*>(reinterpret_cast<unsigned char*>(f.upload(words)) + offset);
  };
  // Whether A is rounded to 8 bits, by rows or by groups, makes no difference: it consists of whole numbers
  // with 127 in every group.
  g.a.resize(static_cast<size_t>(p.m * p.k));
  const Ints q = f.integers(p.m * p.k, -127, 127);
  for (int64_t i = 0; i < p.m * p.k; ++i) {
    const int64_t col = p.trans_a ? i / p.m : i % p.k;
    g.a[i] = (col % 32 == 0 ? 127 : q[i]) / 128.0;
  }
  g.b = weights.values;
  args.b = upload(weights.quants, p.offset);
  args.b_scales = upload(weights.scales, 0);
  args.ldb = cols;
  run_product(f, p, g, args);
}

constexpr int32_t I8 = ALLMREC_I8, I4 = ALLMREC_I4;

// int8 up to 128 rows: the quants are exact in halves. Float32 activations: the weights are.
const Product kExactQuantized[] = {
    {9, 70, 208, false, true, F16, I8, F32, kBias},
    {33, 64, 176, false, true, BF16, I8, F32, kResidual | kRelu},
    {70, 130, 96, false, true, F16, I8, F32, kAccumulate},
    {128, 40, 64, false, true, BF16, I8, F32, 0},
    {20, 66, 2048, false, true, F16, I8, F32, kBias | kRelu},  // parts of k
    {10, 40, 64, false, true, F32, I8, F32, kBias},
    {40, 64, 35, false, false, F32, I8, F32, 0},
    {10, 40, 64, false, true, F32, I4, F32, kResidual},
    {12, 20, 0, false, true, F16, I8, F32, kBias},
};
void test_exact_quantized(Fixture& f, int variant) {
  test_quantized(f, kExactQuantized[variant]);
}

// Elsewhere a weight is rounded to the activations' dtype first, which costs as much as rounding the output
// does.
const Product kHalfQuantized[] = {
    {9, 70, 288, false, true, F16, I4, F32, kBias},
    {40, 72, 160, false, true, F16, I4, F16, kBias | kRelu},
    {100, 66, 96, false, true, F16, I4, F32, kAccumulate},
    {20, 66, 2048, false, true, F16, I4, F16, kBias | kResidual},
    {70, 72, 128, false, true, F16, I8, F16, kBias | kRelu},
    {130, 72, 64, false, true, F16, I8, F32, kBias},  // the layer written out
    {130, 40, 64, false, true, F16, I4, F16, 0},
    {20, 64, 48, false, false, F16, I8, F32, kResidual},
    {24, 96, 40, false, false, F16, I4, F16, 0},
    {16, 64, 40, true, false, F16, I8, F32, 0},
    {24, 40, 52, false, true, F16, I8, F32, 0},         // rows of 52 bytes
    {24, 40, 64, false, true, F16, I8, F16, 0, 0, 1},   // misaligned
    {136, 136, 128, false, true, F16, I8, F16, kBias},  // for cuBLASLt
};

void test_half_quantized(Fixture& f, int variant) {
  test_quantized(f, kHalfQuantized[variant]);
}

void test_bfloat16_quantized(Fixture& f, int variant) {
  Product p = kHalfQuantized[variant];
  p.a = BF16;
  if (p.c == F16) p.c = BF16;
  test_quantized(f, p);
}

template <size_t N>
std::vector<std::string> titles(const Product (&products)[N], int32_t half = F16) {
  std::vector<std::string> all;
  for (Product p : products) {
    for (int32_t* dtype : {&p.a, &p.b, &p.c}) {
      if (half == BF16 && *dtype == F16) *dtype = BF16;
    }
    all.push_back(title(p));
  }
  return all;
}

}  // namespace

void half_dense_cases(Cases& cases) {
  add_cases(cases, "gemm", kSum, test_exact_sums, titles(kExactSums));
  std::vector<std::string> names = titles(kRoundedProducts);
  for (size_t i = 0; i < names.size(); ++i) {
    const Tolerance t = kRoundedProducts[i].c == BF16 ? kBfloat16 : kSum;
    cases.push_back({"gemm", names[i], t.value, t.reason, test_rounded_products, static_cast<int>(i)});
  }
  add_cases(cases, "gemm", kRoundedOperands, test_uneven_products, titles(kUnevenProducts));
  names.clear();
  for (const Ordered& o : kOrdered) {
    names.push_back(std::string("fixed order, f32*") + name_of(o.b) + " in " + name_of(o.compute) +
                    (o.trans_b ? " nt" : " nn"));
  }
  add_cases(cases, "gemm", kExact, test_fixed_order, names);
  add_cases(cases, "gemm", kHalf, test_half_outputs, titles(kHalfOutputs));
  add_cases(cases, "gemm", kBfloat16, test_bfloat16_outputs, titles(kHalfOutputs, BF16));
  add_cases(cases, "gemm", kSum, test_exact_quantized, titles(kExactQuantized));
  add_cases(cases, "gemm", kHalf, test_half_quantized, titles(kHalfQuantized));
  add_cases(cases, "gemm", kBfloat16, test_bfloat16_quantized, titles(kHalfQuantized, BF16));
}

}  // namespace allmrec::test
