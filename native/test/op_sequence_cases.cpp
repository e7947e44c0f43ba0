// Cases of conv, spmm and rank_catalogue; of gru, top_k, cross_entropy, bce, mse and adam the shapes at which
// a device changes its way: long rows, many sequences, wide states, odd addresses.
#include <cmath>

#include "op_fixture.h"
#include "reference_sequence.h"

namespace allmrec::test {

namespace {

Values sum_of(const Values& a, const Values& b) {
  Values sum(a.size());
  for (size_t i = 0; i < a.size(); ++i) sum[i] = a[i] + b[i];
  return sum;
}

struct ConvShape {
  const char* name;
  int64_t batch, steps, c_in, c_out;
  int32_t taps, dilation;
  bool bias;
};
const std::vector<ConvShape> kConvShapes = {
    {"2x7x5 to 6, dilation 2", 2, 7, 5, 6, 3, 2, true},
    {"3x50x64 to 64", 3, 50, 64, 64, 3, 1, true},
    {"2x40x20 to 70, dilation 8, no bias", 2, 40, 20, 70, 3, 8, false},
    {"1x5x8, dilation longer than the sequence", 1, 5, 8, 8, 3, 9, true},
    {"9x33x70 to 4, one tap", 9, 33, 70, 4, 1, 1, true},
    {"300x1x12 to 3, two taps", 300, 1, 12, 3, 2, 4, true},
    {"no batch", 0, 7, 5, 6, 3, 2, true},
    {"no input columns", 2, 3, 0, 6, 3, 2, true},
};

reference::Conv make_conv(Fixture& f, const ConvShape& s) {
  return {s.batch,
          s.steps,
          s.c_in,
          s.c_out,
          s.taps,
          s.dilation,
          f.uniform(s.batch * s.steps * s.c_in),
          f.uniform(s.taps * s.c_out * s.c_in),
          s.bias ? f.uniform(s.c_out) : Values{}};
}

allmrec_conv_args conv_args(Fixture& f, const reference::Conv& c) {
  return {c.batch,    c.steps,       c.c_in,        c.c_out,          c.taps,
          c.dilation, f.upload(c.x), f.upload(c.w), f.upload(c.bias), nullptr};
}

void test_conv(Fixture& f, int variant) {
  const reference::Conv c = make_conv(f, kConvShapes[variant]);
  allmrec_conv_args args = conv_args(f, c);
  args.y = f.output(c.batch * c.steps * c.c_out);
  f.run(&allmrec_backend::conv, args);
  f.expect("y", args.y, reference::conv(c));
}

void test_conv_backward(Fixture& f, int variant) {
  const reference::Conv c = make_conv(f, kConvShapes[variant]);
  const Values dy = f.uniform(c.batch * c.steps * c.c_out);
  const reference::ConvGradients expected = reference::conv_backward(c, dy);
  const Values x_before = f.uniform(static_cast<int64_t>(c.x.size())),
               w_before = f.uniform(static_cast<int64_t>(c.w.size())), bias_before = f.uniform(c.c_out);
  allmrec_conv_backward_args args = {};
  args.forward = conv_args(f, c), args.dy = f.upload(dy);
  args.dx = f.output(x_before), args.accumulate = 1;
  args.d_w = f.output(w_before), args.d_bias = f.output(bias_before);
  f.run(&allmrec_backend::conv_backward, args);
  f.expect("dx added", args.dx, sum_of(x_before, expected.dx));
  f.expect("d_w", args.d_w, sum_of(w_before, expected.d_w));
  f.expect("d_bias", args.d_bias, sum_of(bias_before, expected.d_bias));
  args.dx = f.output(static_cast<int64_t>(c.x.size())), args.accumulate = 0;
  args.d_w = args.d_bias = nullptr;
  f.run(&allmrec_backend::conv_backward, args);
  f.expect("dx alone", args.dx, expected.dx);
}

struct SpmmShape {
  const char* name;
  int64_t rows, cols;
  std::vector<int32_t> long_rows;  // lengths of rows 5, 6, …
};
const std::vector<SpmmShape> kSpmmShapes = {
    {"40x50", 40, 50, {}},
    {"40x64, two long rows", 40, 64, {700, 1501}},
    {"37x20", 37, 20, {513}},
    {"20x200, two long rows", 20, 200, {600, 900}},
    {"12x35, two long rows", 12, 35, {530, 514}},
    {"no rows", 0, 8, {}},
};

void test_spmm(Fixture& f, int variant) {
  const SpmmShape& s = kSpmmShapes[variant];
  const int64_t height = 90;
  Ints offsets = {0};
  for (int64_t row = 0; row < s.rows; ++row) {
    const auto nth_long = static_cast<size_t>(row - 5);  // below row 5 past the end
    const int32_t length = nth_long < s.long_rows.size() ? s.long_rows[nth_long] : f.integers(1, 0, 19)[0];
    offsets.push_back(offsets.back() + (row == 3 ? 0 : length));
  }
  const int64_t edges = offsets.back();
  const Ints columns = f.integers(edges, 0, static_cast<int32_t>(height - 1));
  const Values values = f.uniform(edges), x = f.uniform(height * s.cols), before = f.uniform(s.rows * s.cols);
  const Values expected = reference::spmm(s.rows, s.cols, offsets, columns, values, x);
  allmrec_spmm_args args = {s.rows,           s.cols,      f.upload(offsets), f.upload(columns),
                            f.upload(values), f.upload(x), nullptr,           0};
  args.out = f.output(s.rows * s.cols);
  f.run(&allmrec_backend::spmm, args);
  f.expect("out", args.out, expected);
  args.out = f.output(before), args.accumulate = 1;
  f.run(&allmrec_backend::spmm, args);
  f.expect("out added", args.out, sum_of(before, expected));
}

// Every third column from the row's number on.
void exclude_thirds(int64_t rows, int64_t cols, Ints& offsets, Ints& columns) {
  offsets.push_back(0);
  for (int64_t row = 0; row < rows; ++row) {
    for (int32_t column = static_cast<int32_t>(row % 3); column < cols; column += 3)
      columns.push_back(column);
    offsets.push_back(static_cast<int32_t>(columns.size()));
  }
}

struct RankShape {
  const char* name;
  int64_t rows, items, cols;
  int32_t k;
  bool bias, exclude;
};
const std::vector<RankShape> kRankShapes = {
    {"5x1500x50, k 10", 5, 1500, 50, 10, true, true},
    {"12x700x64, k 3", 12, 700, 64, 3, false, false},
    {"20x1100x20, k 64", 20, 1100, 20, 64, true, false},
    {"70x1100x33, k 20", 70, 1100, 33, 20, true, true},
    {"40x500x16, k 100", 40, 500, 16, 100, false, true},
    {"18x600x16, k 200", 18, 600, 16, 200, true, false},
    {"9x1200x8, k 300", 9, 1200, 8, 300, false, false},
    {"70x600x20, k 5", 70, 600, 20, 5, false, false},
    {"20x600x19, k 9", 20, 600, 19, 9, false, false},
    {"11x600x21, k 9", 11, 600, 21, 9, true, false},
    {"3x900x8, k 600", 3, 900, 8, 600, true, true},
    {"fewer items than k", 4, 7, 5, 10, true, true},
    {"no items", 2, 0, 5, 3, false, false},
    {"no columns", 2, 300, 0, 5, true, false},
};

// Small integers: every score is exact, and there are many ties.
void test_rank_catalogue(Fixture& f, int variant) {
  const RankShape& s = kRankShapes[variant];
  const auto small = [&](int64_t n) {
    Values x = f.uniform(n, -4, 5);
    for (double& v : x) v = std::floor(v);
    return x;
  };
  const Values queries = small(s.rows * s.cols), items = small(s.items * s.cols),
               bias = s.bias ? small(s.items) : Values{};
  Ints offsets, columns;
  if (s.exclude) exclude_thirds(s.rows, s.items, offsets, columns);
  const reference::TopK expected =
      reference::rank_catalogue(s.rows, s.items, s.cols, queries, items, bias, offsets, columns, s.k);
  int32_t* indices = f.output_integers(s.rows * s.k);
  float* values = f.output(s.rows * s.k);
  f.run(
      &allmrec_backend::rank_catalogue,
      allmrec_rank_catalogue_args{s.rows, s.items, s.cols, f.upload(queries), f.upload(items), f.upload(bias),
                                  f.upload(offsets), f.upload(columns), s.k, indices, values});
  f.expect_integers("indices", indices, expected.indices);
  f.expect("values", values, expected.values);
}

// Real numbers: near ties may change places, the ranked scores may not change.
void test_rank_catalogue_scores(Fixture& f, int) {
  const int64_t rows = 9, count = 1300, cols = 100;
  const Values queries = f.uniform(rows * cols), items = f.uniform(count * cols);
  const reference::TopK expected =
      reference::rank_catalogue(rows, count, cols, queries, items, {}, {}, {}, 25);
  int32_t* indices = f.output_integers(rows * 25);
  float* values = f.output(rows * 25);
  f.run(&allmrec_backend::rank_catalogue,
        allmrec_rank_catalogue_args{rows, count, cols, f.upload(queries), f.upload(items), nullptr, nullptr,
                                    nullptr, 25, indices, values});
  f.expect("values", values, expected.values);
}

struct TopKShape {
  const char* name;
  int64_t rows, cols, ld;
  int32_t k;
  enum { random, ascending, zeros } scores;
  bool exclude;
};
const std::vector<TopKShape> kTopKShapes = {
    {"1x40000, k 10", 1, 40000, 40000, 10, TopKShape::random, false},
    {"2x33001 odd distance, k 70, excluded", 2, 33001, 33003, 70, TopKShape::random, true},
    {"1x5000 ascending, k 100", 1, 5000, 5000, 100, TopKShape::ascending, false},
    {"2x3000, k 1500", 2, 3000, 3000, 1500, TopKShape::random, true},
    {"1x33000, k 1100", 1, 33000, 33000, 1100, TopKShape::random, false},
    {"3x900 of both zeros and −infinity, k 900", 3, 900, 900, 900, TopKShape::zeros, true},
};

void test_top_k(Fixture& f, int variant) {
  const TopKShape& s = kTopKShapes[variant];
  Values scores = f.uniform(s.rows * s.ld);
  for (int64_t i = 0; i < s.rows * s.ld; ++i) {
    if (s.scores == TopKShape::ascending) scores[i] = static_cast<double>(i);
    if (s.scores == TopKShape::zeros) scores[i] = scores[i] < -0.5 ? -INFINITY : scores[i] < 0 ? -0.0 : 0.0;
  }
  Ints offsets, columns;
  if (s.exclude) exclude_thirds(s.rows, s.cols, offsets, columns);
  // The reference takes out one column at a time: excluded ones are −infinity behind all here, and not
  // ranked.
  reference::TopK expected = {Ints(s.rows * s.k, -1), Values(s.rows * s.k, -INFINITY)};
  for (int64_t row = 0; row < s.rows; ++row) {
    Values kept;
    Ints names;
    for (int32_t column = 0; column < s.cols; ++column) {
      if (s.exclude && column % 3 == row % 3) continue;
      kept.push_back(scores[row * s.ld + column]);
      names.push_back(column);
    }
    const auto n = static_cast<int64_t>(kept.size());
    const reference::TopK one = reference::top_k(1, n, kept, n, {}, {}, s.k);
    for (int32_t rank = 0; rank < s.k; ++rank) {
      if (one.indices[rank] < 0) continue;
      expected.indices[row * s.k + rank] = names[one.indices[rank]];
      expected.values[row * s.k + rank] = one.values[rank];
    }
  }
  int32_t* indices = f.output_integers(s.rows * s.k);
  float* values = f.output(s.rows * s.k);
  f.run(&allmrec_backend::top_k, allmrec_top_k_args{s.rows, s.cols, f.upload(scores), s.ld, f.upload(offsets),
                                                    f.upload(columns), s.k, indices, values});
  f.expect_integers("indices", indices, expected.indices);
  f.expect("values", values, expected.values);
}

struct GruShape {
  const char* name;
  int64_t batch, steps, hidden;
};
const std::vector<GruShape> kGruShapes = {
    {"40x5x20", 40, 5, 20}, {"194x3x8", 194, 3, 8}, {"1600x2x1", 1600, 2, 1},
    {"5x4x64", 5, 4, 64},   {"70x3x64", 70, 3, 64}, {"194x3x33", 194, 3, 33},
    {"4x3x100", 4, 3, 100}, {"40x3x70", 40, 3, 70}, {"6x4x130", 6, 4, 130},
};

void test_gru(Fixture& f, int variant) {
  const GruShape& s = kGruShapes[variant];
  const int64_t h = s.hidden, n = s.batch * s.steps * h;
  const reference::Gru g = {s.batch,
                            s.steps,
                            h,
                            f.uniform(3 * n, -2, 2),
                            f.uniform(3 * h * h, -0.3, 0.3),
                            f.uniform(3 * h),
                            f.uniform(s.batch * h)};
  const reference::GruOutput expected = reference::gru(g);
  allmrec_gru_args args = {
      s.batch,          s.steps,        h,           f.upload(g.gates_x), f.upload(g.w_hh),
      f.upload(g.b_hh), f.upload(g.h0), f.output(n), f.output(4 * n)};
  f.run(&allmrec_backend::gru, args);
  f.expect("out", args.out, expected.out);
  f.expect("saved", args.saved, expected.saved);
  args.out = f.output(n), args.saved = nullptr;
  f.run(&allmrec_backend::gru, args);
  f.expect("out without saved", args.out, expected.out);
}

void test_gru_backward(Fixture& f, int variant) {
  const GruShape& s = kGruShapes[variant];
  const int64_t h = s.hidden, n = s.batch * s.steps * h;
  const reference::Gru g = {s.batch,
                            s.steps,
                            h,
                            f.uniform(3 * n, -2, 2),
                            f.uniform(3 * h * h, -0.3, 0.3),
                            f.uniform(3 * h),
                            f.uniform(s.batch * h)};
  const reference::GruOutput forward = reference::gru(g);
  const Values d_out = f.uniform(n), d_hn = f.uniform(s.batch * h);
  const reference::GruGradients expected = reference::gru_backward(g, d_out, d_hn);
  allmrec_gru_backward_args args = {};
  args.forward = {s.batch,
                  s.steps,
                  h,
                  f.upload(g.gates_x),
                  f.upload(g.w_hh),
                  f.upload(g.b_hh),
                  f.upload(g.h0),
                  f.upload(forward.out),
                  f.upload(forward.saved)};
  args.d_out = f.upload(d_out), args.d_hn = f.upload(d_hn);
  args.d_gates_x = f.output(3 * n), args.d_h0 = f.output(s.batch * h);
  args.d_w_hh = f.output(Values(3 * h * h)), args.d_b_hh = f.output(Values(3 * h));
  f.run(&allmrec_backend::gru_backward, args);
  f.expect("d_gates_x", args.d_gates_x, expected.d_gates_x);
  f.expect("d_h0", args.d_h0, expected.d_h0);
  f.expect("d_w_hh", args.d_w_hh, expected.d_w_hh);
  f.expect("d_b_hh", args.d_b_hh, expected.d_b_hh);
  args.d_h0 = args.d_w_hh = args.d_b_hh = nullptr;
  args.d_gates_x = f.output(3 * n);
  f.run(&allmrec_backend::gru_backward, args);
  f.expect("d_gates_x alone", args.d_gates_x, expected.d_gates_x);
}

void test_cross_entropy(Fixture& f, int variant) {
  const int64_t shapes[][3] = {{3, 20003, 20004}, {2, 5001, 5001}, {3, 2048, 2048}, {2, 1501, 1501}};
  const auto [rows, cols, ld] = shapes[variant];
  const Values x = f.uniform(rows * ld, -8, 8);
  const Ints targets = {static_cast<int32_t>(cols - 1), 7, -1};
  const reference::CrossEntropy expected = reference::cross_entropy(rows, cols, x, ld, targets, 0.5);
  float *in = f.output(x), *log_prob = f.output(rows), *loss = f.output(1);
  f.run(&allmrec_backend::cross_entropy,
        allmrec_cross_entropy_args{rows, cols, in, ld, f.upload(targets), 0.5f, log_prob, loss, 0, in, ld});
  f.expect("log_prob", log_prob, expected.log_prob);
  f.expect("loss", loss, {expected.loss});
  Values in_place = x;
  for (int64_t i = 0; i < rows * ld; ++i) {
    if (i % ld < cols) in_place[i] = expected.d_logits[i / ld * cols + i % ld];
  }
  f.expect("in place", in, in_place);
}

// Arrays that begin four bytes behind an address of 16 bytes.
float* odd_upload(Fixture& f, const Values& x) {
  Values shifted(x.size() + 1);
  for (size_t i = 0; i < x.size(); ++i) shifted[i + 1] = x[i];
  return f.output(shifted) + 1;
}

void test_bce_odd(Fixture& f, int) {
  const Values x = f.uniform(301, -5, 5), targets = f.uniform(301, 0, 1);
  const reference::Loss expected = reference::bce(x, targets, 0, {}, 0.5);
  float *loss = f.output(1), *dx = f.output(302);
  f.run(&allmrec_backend::bce,
        allmrec_bce_args{301, odd_upload(f, x), odd_upload(f, targets), 0, nullptr, 0.5f, loss, 0, dx + 1});
  f.expect("loss", loss, {expected.loss});
  f.expect("d_logits", dx + 1, expected.gradient);
  f.expect_untouched("before", dx, 1);
}

void test_mse_odd(Fixture& f, int) {
  const Values a = f.uniform(301), b = f.uniform(301);
  const reference::Loss expected = reference::mse(a, b, 0.5);
  float *loss = f.output(1), *da = f.output(302);
  f.run(&allmrec_backend::mse,
        allmrec_mse_args{301, odd_upload(f, a), odd_upload(f, b), 0.5f, loss, 0, da + 1, 0, nullptr, 0});
  f.expect("loss", loss, {expected.loss});
  f.expect("da", da + 1, expected.gradient);
}

// More tensors than one launch's table holds, some of them at odd addresses.
void test_adam_many(Fixture& f, int) {
  const float lr = 0.1f, beta1 = 0.9f, beta2 = 0.999f, eps = 1e-8f;
  std::vector<allmrec_adam_tensor> list;
  std::vector<Values> params, grads, ms, vs;
  for (int64_t t = 0; t < 150; ++t) {
    const int64_t n = t % 7 * 3;
    params.push_back(f.uniform(n)), grads.push_back(f.uniform(n));
    ms.push_back(f.uniform(n)), vs.push_back(f.uniform(n, 0, 1));
    const auto put = [&](const Values& x) { return t % 2 ? odd_upload(f, x) : f.output(x); };
    list.push_back({put(params[t]), put(grads[t]), put(ms[t]), put(vs[t]), n});
  }
  f.run(&allmrec_backend::adam,
        allmrec_adam_args{list.data(), static_cast<int64_t>(list.size()), lr, beta1, beta2, eps, 0, 5, 1, 0});
  for (size_t t = 0; t < list.size(); ++t) {
    const Values grad = grads[t];
    reference::adam({lr, beta1, beta2, eps, 0, 1, 5}, params[t], grads[t], ms[t], vs[t]);
    f.expect("param", list[t].param, params[t]);
    f.expect("grad", list[t].grad, grad);
    f.expect("m", list[t].m, ms[t]);
    f.expect("v", list[t].v, vs[t]);
  }
}

template <typename Shape>
std::vector<std::string> names_of(const std::vector<Shape>& shapes) {
  std::vector<std::string> names;
  for (const Shape& s : shapes) names.push_back(s.name);
  return names;
}

}  // namespace

void sequence_cases(Cases& cases) {
  add_cases(cases, "conv", kSum, test_conv, names_of(kConvShapes));
  add_cases(cases, "conv_backward", kSum, test_conv_backward, names_of(kConvShapes));
  add_cases(cases, "spmm", kSum, test_spmm, names_of(kSpmmShapes));
  add_cases(cases, "rank_catalogue", kExact, test_rank_catalogue, names_of(kRankShapes));
  add_cases(cases, "rank_catalogue", kSum, test_rank_catalogue_scores, {"real numbers"});
  add_cases(cases, "top_k", kExact, test_top_k, names_of(kTopKShapes));
  add_cases(cases, "gru", kRecurrent, test_gru, names_of(kGruShapes));
  add_cases(cases, "gru_backward", kRecurrent, test_gru_backward, names_of(kGruShapes));
  add_cases(cases, "cross_entropy", kElementary, test_cross_entropy,
            {"3x20003 strided", "2x5001 odd distance", "3x2048", "2x1501 odd distance"});
  add_cases(cases, "bce", kElementary, test_bce_odd, {"odd addresses"});
  add_cases(cases, "mse", kLoss, test_mse_odd, {"odd addresses"});
  add_cases(cases, "adam",
            {1e-6, "the step is ten times the parameter's size here, with a division and a root"},
            test_adam_many, {"150 tensors, odd addresses"});
}

}  // namespace allmrec::test
