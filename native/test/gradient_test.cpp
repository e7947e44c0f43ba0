// The references' gradients against central differences of the references' forwards, in float64.
#include <cmath>
#include <functional>
#include <random>

#include "op_fixture.h"
#include "reference_sequence.h"

namespace allmrec::test {

namespace {

std::mt19937_64 engine(20240607);

Values uniform(int64_t n, double low = -1, double high = 1) {
  Values x(static_cast<size_t>(n));
  for (double& v : x) v = std::uniform_real_distribution<double>(low, high)(engine);
  return x;
}

double dot(const Values& a, const Values& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// loss() reads x, which is changed and restored in place. With h = 1e-5 the truncation is h² ≈ 1e-10 and the
// rounding 1e-16 / h = 1e-11, so 1e-7 tells any wrong term.
void check_gradient(const char* what, const std::function<double()>& loss, Values& x,
                    const Values& analytic) {
  constexpr double h = 1e-5;
  double difference = 0, norm = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double kept = x[i];
    x[i] = kept + h;
    const double above = loss();
    x[i] = kept - h;
    const double below = loss();
    x[i] = kept;
    const double numeric = (above - below) / (2 * h);
    difference += (numeric - analytic[i]) * (numeric - analytic[i]);
    norm += numeric * numeric;
  }
  const double error = std::sqrt(difference) / std::fmax(std::sqrt(norm), 1e-30);
  CHECK_WHAT(analytic.size() == x.size() && error < 1e-7,
             std::string("gradient of ") + what + ": error " + std::to_string(error));
}

void layer_norm_gradient() {
  const int64_t rows = 4, cols = 7;
  Values x = uniform(rows * cols), gamma = uniform(cols), beta = uniform(cols);
  const Values dy = uniform(rows * cols);
  const auto loss = [&] { return dot(dy, reference::layer_norm(rows, cols, x, gamma, beta, 1e-3).y); };
  const reference::LayerNormGradients g = reference::layer_norm_backward(rows, cols, dy, x, gamma, 1e-3);
  check_gradient("layer_norm x", loss, x, g.dx);
  check_gradient("layer_norm gamma", loss, gamma, g.d_gamma);
  check_gradient("layer_norm beta", loss, beta, g.d_beta);
}

void activation_gradients() {
  for (int32_t kind = ALLMREC_ACT_NONE; kind <= ALLMREC_ACT_TANH; ++kind) {
    Values x = uniform(40, -3, 3);
    const Values dy = uniform(40);
    const auto loss = [&] { return dot(dy, reference::activation(kind, x)); };
    check_gradient("activation", loss, x, reference::activation_backward(kind, dy, x));
  }
}

void attention_gradient(bool padding, float p) {
  reference::Attention a = {};
  a.sequences = 2, a.heads = 2, a.head_dim = 3, a.scale = 0.7;
  a.q_offsets = {0, 4, 7}, a.tokens = 7, a.kv_start = {0, 5}, a.kv_len = {5, 3};
  a.prefix = {0, 0, 1, 2, 0, 1, 2}, a.own_begin = {0, 0, 2, 2, 0, 1, 2}, a.own_end = {1, 1, 4, 5, 0, 3, 3};
  const int64_t width = 6;
  a.q = uniform(7 * width), a.k = uniform(8 * width), a.v = uniform(8 * width);
  if (padding) a.pad_k = uniform(width), a.pad_v = uniform(width), a.pad_count = {3, 5};
  a.dropout = {p, 5, 6}, a.drop_columns = 16;
  const Values d_out = uniform(7 * width);
  const auto loss = [&] { return dot(d_out, reference::attention(a).out); };
  const reference::AttentionGradients g = reference::attention_backward(a, d_out);
  check_gradient("attention q", loss, a.q, g.dq);
  check_gradient("attention k", loss, a.k, g.dk);
  check_gradient("attention v", loss, a.v, g.dv);
  if (padding) check_gradient("attention pad_k", loss, a.pad_k, g.d_pad_k);
  if (padding) check_gradient("attention pad_v", loss, a.pad_v, g.d_pad_v);
}

void embedding_gradient() {
  reference::Embedding e = {};
  e.tokens = 9, e.cols = 5, e.ids = {0, 2, -1, 2, 2, -2, 0, 1, -1}, e.scale = 3;
  e.table = uniform(15), e.soft = uniform(10), e.positions = uniform(20), e.constant = uniform(5);
  e.position_ids = {0, 1, 2, 3, 0, 1, 2, 3, 3}, e.dropout = {0.3f, 1, 2};
  const Values dy = uniform(45);
  const auto loss = [&] { return dot(dy, reference::embedding(e)); };
  const reference::EmbeddingGradients g = reference::embedding_backward(e, dy);
  check_gradient("embedding table", loss, e.table, g.d_table);
  check_gradient("embedding soft", loss, e.soft, g.d_soft);
  check_gradient("embedding positions", loss, e.positions, g.d_positions);
  check_gradient("embedding constant", loss, e.constant, g.d_constant);
}

void row_gradients() {
  const Ints offsets = {0, 2, 2, 7};
  Values x = uniform(7 * 3);
  const Values d_mean = uniform(3 * 3);
  check_gradient(
      "segment_mean", [&] { return dot(d_mean, reference::segment_mean(3, offsets, x)); }, x,
      reference::segment_mean_backward(3, offsets, d_mean, 7));
  const Values dy = uniform(7 * 3);
  const reference::Normalized n = reference::l2_normalize(7, 3, x, 1e-6);
  check_gradient(
      "l2_normalize", [&] { return dot(dy, reference::l2_normalize(7, 3, x, 1e-6).y); }, x,
      reference::l2_normalize_backward(7, 3, dy, n.y, n.norm));
}

void loss_gradients() {
  Values x = uniform(30, -4, 4);
  const Values targets = uniform(30, 0, 1), weights = uniform(30);
  check_gradient(
      "bce", [&] { return reference::bce(x, targets, 0, weights, 0.3).loss; }, x,
      reference::bce(x, targets, 0, weights, 0.3).gradient);
  check_gradient(
      "mse", [&] { return reference::mse(x, targets, 0.3).loss; }, x,
      reference::mse(x, targets, 0.3).gradient);
  const Ints rows = {3, -1, 0};
  check_gradient(
      "cross_entropy", [&] { return reference::cross_entropy(3, 10, x, 10, rows, 0.7).loss; }, x,
      reference::cross_entropy(3, 10, x, 10, rows, 0.7).d_logits);
}

void gru_gradient() {
  reference::Gru g = {2, 3, 4, uniform(2 * 3 * 12), uniform(12 * 4), uniform(12), uniform(8)};
  const Values d_out = uniform(24), d_hn = uniform(8);
  const auto loss = [&] {
    const reference::GruOutput f = reference::gru(g);
    double sum = dot(d_out, f.out);
    for (int b = 0; b < 2; ++b) {
      for (int i = 0; i < 4; ++i) sum += d_hn[b * 4 + i] * f.out[(b * 3 + 2) * 4 + i];
    }
    return sum;
  };
  const reference::GruGradients r = reference::gru_backward(g, d_out, d_hn);
  check_gradient("gru gates_x", loss, g.gates_x, r.d_gates_x);
  check_gradient("gru w_hh", loss, g.w_hh, r.d_w_hh);
  check_gradient("gru b_hh", loss, g.b_hh, r.d_b_hh);
  check_gradient("gru h0", loss, g.h0, r.d_h0);
}

void conv_gradient() {
  for (const int32_t dilation : {1, 2, 5}) {  // the last reaches beyond the beginning with every tap but one
    reference::Conv c = {2, 5, 3, 4, 3, dilation, uniform(2 * 5 * 3), uniform(3 * 4 * 3), uniform(4)};
    const Values dy = uniform(2 * 5 * 4);
    const auto loss = [&] { return dot(dy, reference::conv(c)); };
    const reference::ConvGradients g = reference::conv_backward(c, dy);
    check_gradient("conv x", loss, c.x, g.dx);
    check_gradient("conv w", loss, c.w, g.d_w);
    check_gradient("conv bias", loss, c.bias, g.d_bias);
  }
}

}  // namespace

void gradient_tests() {
  layer_norm_gradient();
  activation_gradients();
  attention_gradient(false, 0);
  attention_gradient(true, 0);
  attention_gradient(true, 0.4f);
  embedding_gradient();
  row_gradients();
  loss_gradients();
  gru_gradient();
  conv_gradient();
}

}  // namespace allmrec::test
