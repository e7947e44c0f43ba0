// Cases of embedding, gather, scatter, segment_mean, row_dot, l2_normalize and top_k.
#include <cmath>
#include <numeric>

#include "op_fixture.h"

namespace allmrec::test {

namespace {

struct EmbeddingShape {
  int64_t tokens, cols, table_rows, soft_rows, position_rows;
  bool constant;
  float p;
  int32_t dtype;
};
const std::vector<EmbeddingShape> kEmbeddingShapes = {
    {300, 50, 1000, 0, 51, false, 0.2f, ALLMREC_F32}, {40, 768, 60, 6, 20, true, 0.0f, ALLMREC_F32},
    {29, 33, 7, 3, 11, true, 0.5f, ALLMREC_F16},      {29, 33, 7, 0, 0, true, 0.0f, ALLMREC_BF16},
    {0, 50, 10, 0, 0, false, 0.1f, ALLMREC_F32},      {3000, 50, 97, 5, 200, true, 0.3f, ALLMREC_F32},
};

reference::Embedding make_embedding(Fixture& f, const EmbeddingShape& s) {
  reference::Embedding e = {};
  e.tokens = s.tokens, e.cols = s.cols, e.scale = 7.25;
  e.ids = f.integers(s.tokens, static_cast<int32_t>(-s.soft_rows), static_cast<int32_t>(s.table_rows - 1));
  for (size_t t = 0; t < e.ids.size(); t += 3)
    e.ids[t] = static_cast<int32_t>(s.table_rows - 1);  // a popular item
  e.table = f.uniform(s.table_rows * s.cols);
  e.soft = f.uniform(s.soft_rows * s.cols);
  e.positions = f.uniform(s.position_rows * s.cols);
  if (s.position_rows) e.position_ids = f.integers(s.tokens, 0, static_cast<int32_t>(s.position_rows - 1));
  if (s.constant) e.constant = f.uniform(s.cols);
  e.dropout = {s.p, 5, 0x700000001u};
  return e;
}

void test_embedding(Fixture& f, int variant) {
  const EmbeddingShape s = kEmbeddingShapes[variant];
  reference::Embedding e = make_embedding(f, s);
  const void* table = nullptr;
  if (s.dtype == ALLMREC_F32) {
    table = f.upload(e.table);
  } else {
    std::vector<uint16_t> bits;
    for (double& v : e.table) {
      bits.push_back(static_cast<uint16_t>(0x3c00 + static_cast<int>(v * 100)));
      v = s.dtype == ALLMREC_F16 ? reference::half_value(bits.back())
                                 : reference::bfloat16_value(bits.back());
    }
    table = f.upload(bits);
  }
  float* out = f.output(s.tokens * s.cols);
  f.run(&allmrec_backend::embedding,
        allmrec_embedding_args{s.tokens, s.cols, f.upload(e.ids), table, s.dtype, s.table_rows,
                               f.upload(e.soft), s.soft_rows, static_cast<float>(e.scale),
                               f.upload(e.positions), s.position_rows, f.upload(e.position_ids),
                               f.upload(e.constant), e.dropout, out, ALLMREC_F32, nullptr});
  f.expect("out", out, reference::embedding(e));
}

void test_embedding_backward(Fixture& f, int variant) {
  const EmbeddingShape s = kEmbeddingShapes[variant];
  const reference::Embedding e = make_embedding(f, s);
  const Values dy = f.uniform(s.tokens * s.cols);
  reference::EmbeddingGradients g = reference::embedding_backward(e, dy);
  const auto added = [&](Values& gradient) {
    const Values before = f.uniform(static_cast<int64_t>(gradient.size()));
    for (size_t i = 0; i < gradient.size(); ++i) gradient[i] += before[i];
    return before.empty() ? nullptr : f.output(before);
  };
  allmrec_embedding_backward_args args = {};
  args.tokens = s.tokens, args.cols = s.cols, args.ids = f.upload(e.ids);
  args.position_ids = f.upload(e.position_ids), args.dy = f.upload(dy);
  args.scale = static_cast<float>(e.scale), args.dropout = e.dropout;
  args.table_rows = s.table_rows, args.soft_rows = s.soft_rows, args.position_rows = s.position_rows;
  const reference::EmbeddingGradients alone = g;
  args.d_table = added(g.d_table), args.d_soft = added(g.d_soft);
  args.d_positions = added(g.d_positions), args.d_constant = added(g.d_constant);
  f.run(&allmrec_backend::embedding_backward, args);
  f.expect("d_table", args.d_table, g.d_table);
  f.expect("d_soft", args.d_soft, g.d_soft);
  f.expect("d_positions", args.d_positions, g.d_positions);
  f.expect("d_constant", args.d_constant, g.d_constant);
  // A frozen table, soft rows only.
  if (s.soft_rows) {
    args.d_table = args.d_positions = args.d_constant = nullptr;
    args.d_soft = f.output(Values(alone.d_soft.size()));
    f.run(&allmrec_backend::embedding_backward, args);
    f.expect("d_soft alone", args.d_soft, alone.d_soft);
  }
}

const int64_t kRowShapes[][5] = {  // count, cols, rows of the other matrix, ldx, ldout
    {200, 50, 77, 50, 50},
    {64, 33, 500, 40, 35},
    {1500, 64, 9, 64, 64},
    {0, 5, 3, 5, 5}};

void test_gather_rows(Fixture& f, int variant) {
  const auto [count, cols, height, ldx, ldout] = kRowShapes[variant];
  const Values x = f.uniform(height * ldx);
  const Ints rows = f.integers(count, 0, static_cast<int32_t>(height - 1));
  float* out = f.output(count * ldout);
  f.run(&allmrec_backend::gather_rows,
        allmrec_rows_args{count, cols, f.upload(rows), f.upload(x), ldx, out, ldout, ALLMREC_F32});
  f.expect_matrix("out", out, count, cols, ldout, reference::gather_rows(cols, rows, x, ldx));
}

void test_scatter_add_rows(Fixture& f, int variant) {
  const auto [count, cols, height, ldx, ldout] = kRowShapes[variant];
  const Values x = f.uniform(count * ldx);
  const Ints rows = f.integers(count, 0, static_cast<int32_t>(height - 1));
  Values expected = f.uniform(height * ldout);
  float* out = f.output(expected);
  reference::scatter_add_rows(cols, rows, x, ldx, expected, ldout);
  f.run(&allmrec_backend::scatter_add_rows,
        allmrec_rows_args{count, cols, f.upload(rows), f.upload(x), ldx, out, ldout, ALLMREC_F32});
  f.expect("out", out, expected);
}

void test_segment_mean(Fixture& f, int variant) {
  const int64_t cols = variant == 0 ? 50 : 768;
  const Ints offsets = {0, 1, 1, 64, 70, 170};
  const int64_t segments = 5, tokens = offsets.back();
  const Values x = f.uniform(tokens * cols), before = f.uniform(segments * cols);
  const int32_t* in_offsets = f.upload(offsets);
  Values expected = reference::segment_mean(cols, offsets, x);
  float* out = f.output(segments * cols);
  const float* in = f.upload(x);
  f.run(&allmrec_backend::segment_mean,
        allmrec_segment_mean_args{segments, cols, in_offsets, in, out, 0, ALLMREC_F32});
  f.expect("out", out, expected);
  for (size_t i = 0; i < expected.size(); ++i) expected[i] += before[i];
  out = f.output(before);
  f.run(&allmrec_backend::segment_mean,
        allmrec_segment_mean_args{segments, cols, in_offsets, in, out, 1, ALLMREC_F32});
  f.expect("out added", out, expected);
}

void test_segment_mean_backward(Fixture& f, int variant) {
  const int64_t cols = variant == 0 ? 50 : 768;
  const Ints offsets = {0, 1, 1, 64, 70, 170};
  const int64_t segments = 5, tokens = offsets.back();
  const Values dy = f.uniform(segments * cols), before = f.uniform(tokens * cols);
  const int32_t* in_offsets = f.upload(offsets);
  const float* in = f.upload(dy);
  Values expected = reference::segment_mean_backward(cols, offsets, dy, tokens);
  float* dx = f.output(tokens * cols);
  f.run(&allmrec_backend::segment_mean_backward,
        allmrec_segment_mean_args{segments, cols, in_offsets, in, dx, 0, ALLMREC_F32});
  f.expect("dx", dx, expected);
  for (size_t i = 0; i < expected.size(); ++i) expected[i] += before[i];
  dx = f.output(before);
  f.run(&allmrec_backend::segment_mean_backward,
        allmrec_segment_mean_args{segments, cols, in_offsets, in, dx, 1, ALLMREC_F32});
  f.expect("dx added", dx, expected);
}

const int64_t kDotShapes[][2] = {{500, 50}, {33, 768}, {9, 1}, {0, 50}, {1000, 19}};
const std::vector<std::string> kDotNames = {"500x50", "33x768", "9x1", "no rows", "1000x19"};

void test_row_dot(Fixture& f, int variant) {
  const auto [rows, cols] = kDotShapes[variant];
  const Values a = f.uniform(rows * cols), b = f.uniform(rows * cols);
  float* out = f.output(rows);
  f.run(&allmrec_backend::row_dot, allmrec_row_dot_args{rows, cols, f.upload(a), f.upload(b), 0.25f, out});
  f.expect("out", out, reference::row_dot(rows, cols, a, b, 0.25));
}

void test_row_dot_backward(Fixture& f, int variant) {
  const auto [rows, cols] = kDotShapes[variant];
  const int64_t n = rows * cols;
  const Values a = f.uniform(n), b = f.uniform(n), g = f.uniform(rows), before = f.uniform(n);
  Values da(n), db(n);
  for (int64_t i = 0; i < n; ++i) {
    da[i] = 0.25 * g[i / cols] * b[i];
    db[i] = 0.25 * g[i / cols] * a[i] + before[i];
  }
  const float *in_a = f.upload(a), *in_b = f.upload(b), *in_g = f.upload(g);
  float *out_a = f.output(n), *out_b = f.output(before);
  f.run(&allmrec_backend::row_dot_backward,
        allmrec_row_dot_backward_args{rows, cols, in_a, in_b, 0.25f, in_g, out_a, 0, out_b, 1});
  f.expect("da", out_a, da);
  f.expect("db added", out_b, db);
  out_a = f.output(n);
  f.run(&allmrec_backend::row_dot_backward,
        allmrec_row_dot_backward_args{rows, cols, nullptr, in_b, 0.25f, in_g, out_a, 0, nullptr, 0});
  f.expect("da alone", out_a, da);
}

void test_l2_normalize(Fixture& f, int variant) {
  const auto [rows, cols] = kDotShapes[variant];
  Values x = f.uniform(rows * cols);
  for (int64_t j = 0; j < (rows > 1 ? cols : 0); ++j) x[j] = 0;  // a zero row gives zeros
  const reference::Normalized expected = reference::l2_normalize(rows, cols, x, 1e-6f);
  float *y = f.output(rows * cols), *norm = f.output(rows);
  f.run(&allmrec_backend::l2_normalize, allmrec_l2_normalize_args{rows, cols, f.upload(x), 1e-6f, y, norm});
  f.expect("y", y, expected.y);
  f.expect("norm", norm, expected.norm);
}

void test_l2_normalize_backward(Fixture& f, int variant) {
  const auto [rows, cols] = kDotShapes[variant];
  const int64_t n = rows * cols;
  const Values x = f.uniform(n), dy = f.uniform(n), before = f.uniform(n);
  reference::Normalized forward = reference::l2_normalize(rows, cols, x, 1e-6f);
  for (double& v : forward.y) v = static_cast<float>(v);
  for (double& v : forward.norm) v = static_cast<float>(v);
  Values expected = reference::l2_normalize_backward(rows, cols, dy, forward.y, forward.norm);
  allmrec_l2_normalize_backward_args args = {
      rows, cols, f.upload(dy), f.upload(forward.y), f.upload(forward.norm), f.output(n), 0};
  f.run(&allmrec_backend::l2_normalize_backward, args);
  f.expect("dx", args.dx, expected);
  for (int64_t i = 0; i < n; ++i) expected[i] += before[i];
  args.dx = f.output(before);
  args.accumulate = 1;
  f.run(&allmrec_backend::l2_normalize_backward, args);
  f.expect("dx added", args.dx, expected);
}

void test_top_k(Fixture& f, int variant) {
  const int64_t shapes[][4] = {// rows, cols, ld, k
                               {5, 2000, 2000, 10}, {3, 777, 800, 100}, {4, 7, 7, 10},
                               {2, 1000, 1000, 20}, {3, 50, 50, 50},    {2, 0, 0, 3}};
  const auto [rows, cols, ld, k] = shapes[variant];
  Values scores = f.uniform(rows * ld);
  if (variant == 3)  // ties: eight values only
    for (double& v : scores) v = std::floor(v * 4);
  Ints offsets, columns;
  if (variant == 1 || variant == 2) {
    offsets.push_back(0);
    for (int64_t row = 0; row < rows; ++row) {
      for (int32_t column = static_cast<int32_t>(row); column < cols; column += 3) columns.push_back(column);
      offsets.push_back(static_cast<int32_t>(columns.size()));
    }
  }
  const reference::TopK expected =
      reference::top_k(rows, cols, scores, ld, offsets, columns, static_cast<int32_t>(k));
  int32_t* indices = f.output_integers(rows * k);
  float* values = f.output(rows * k);
  f.run(&allmrec_backend::top_k,
        allmrec_top_k_args{rows, cols, f.upload(scores), ld, f.upload(offsets), f.upload(columns),
                           static_cast<int32_t>(k), indices, values});
  f.expect_integers("indices", indices, expected.indices);
  f.expect("values", values, expected.values);
}

void test_top_k_nan(Fixture& f, int) {
  Values scores = f.uniform(1000);
  scores[700] = scores[998] = std::nan("");
  scores[3] = -INFINITY;
  int32_t* indices = f.output_integers(3);
  float* values = f.output(3);
  f.run(&allmrec_backend::top_k,
        allmrec_top_k_args{1, 1000, f.upload(scores), 1000, nullptr, nullptr, 3, indices, values});
  const Values found = f.download(values, 3);
  f.expect_true("NaN comes first", std::isnan(found[0]) && std::isnan(found[1]) && !std::isnan(found[2]));
}

}  // namespace

void row_cases(Cases& cases) {
  const std::vector<std::string> embeddings = {"300x50 positions dropout",
                                               "40x768 soft positions constant",
                                               "29x33 half dropout",
                                               "29x33 bfloat16",
                                               "no tokens",
                                               "3000x50 soft, crowded ids"};
  add_cases(cases, "embedding", kRounding, test_embedding, embeddings);
  add_cases(cases, "embedding_backward", kSum, test_embedding_backward, embeddings);
  const std::vector<std::string> rows = {"200x50", "64x33 strided", "1500x64, crowded", "none"};
  add_cases(cases, "gather_rows", kExact, test_gather_rows, rows);
  add_cases(cases, "scatter_add_rows", kSum, test_scatter_add_rows, rows);
  add_cases(cases, "segment_mean", kSum, test_segment_mean, {"50", "768"});
  add_cases(cases, "segment_mean_backward", kRounding, test_segment_mean_backward, {"50", "768"});
  add_cases(cases, "row_dot", kSum, test_row_dot, kDotNames);
  add_cases(cases, "row_dot_backward", kRounding, test_row_dot_backward, kDotNames);
  add_cases(cases, "l2_normalize", kSum, test_l2_normalize, kDotNames);
  add_cases(cases, "l2_normalize_backward", kCancel, test_l2_normalize_backward, kDotNames);
  add_cases(
      cases, "top_k", kExact, test_top_k,
      {"5x2000 k 10", "3x777 strided, excluded", "fewer than k, excluded", "ties", "k = cols", "no columns"});
  add_cases(cases, "top_k", kExact, test_top_k_nan, {"NaN"});
}

}  // namespace allmrec::test
