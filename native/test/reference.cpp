#include "reference.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "../cpp/core/philox.h"

namespace allmrec::reference {

Values gemm(const Gemm& g) {
  Values c(g.m * g.n);
  for (int64_t i = 0; i < g.m; ++i) {
    for (int64_t j = 0; j < g.n; ++j) {
      double sum = 0;
      for (int64_t p = 0; p < g.k; ++p) {
        const double a = g.trans_a ? g.a[p * g.lda + i] : g.a[i * g.lda + p];
        const double b = g.trans_b ? g.b[j * g.ldb + p] : g.b[p * g.ldb + j];
        sum += a * b;
      }
      sum *= g.alpha;
      if (!g.bias.empty()) sum += g.bias[j];
      if (!g.residual.empty()) sum += g.residual[i * g.n + j];
      c[i * g.n + j] = g.activation == ALLMREC_ACT_RELU ? std::max(sum, 0.0) : sum;
    }
  }
  return c;
}

Values column_sum(int64_t rows, int64_t cols, const Values& x, int64_t ldx) {
  Values out(cols);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < cols; ++j) out[j] += x[i * ldx + j];
  }
  return out;
}

LayerNorm layer_norm(int64_t rows, int64_t cols, const Values& x, const Values& gamma, const Values& beta,
                     double eps) {
  LayerNorm r = {Values(rows * cols), Values(rows), Values(rows)};
  for (int64_t i = 0; i < rows; ++i) {
    double mean = 0, variance = 0;
    for (int64_t j = 0; j < cols; ++j) mean += x[i * cols + j] / cols;
    for (int64_t j = 0; j < cols; ++j) variance += std::pow(x[i * cols + j] - mean, 2) / cols;
    r.mean[i] = mean;
    r.rstd[i] = 1 / std::sqrt(variance + eps);
    for (int64_t j = 0; j < cols; ++j)
      r.y[i * cols + j] = (x[i * cols + j] - mean) * r.rstd[i] * gamma[j] + beta[j];
  }
  return r;
}

LayerNormGradients layer_norm_backward(int64_t rows, int64_t cols, const Values& dy, const Values& x,
                                       const Values& gamma, double eps) {
  LayerNormGradients r = {Values(rows * cols), Values(cols), Values(cols)};
  const LayerNorm f = layer_norm(rows, cols, x, gamma, Values(cols), eps);
  for (int64_t i = 0; i < rows; ++i) {
    double mean_g = 0, mean_gx = 0;
    for (int64_t j = 0; j < cols; ++j) {
      const int64_t e = i * cols + j;
      const double normal = (x[e] - f.mean[i]) * f.rstd[i];
      r.d_gamma[j] += dy[e] * normal;
      r.d_beta[j] += dy[e];
      mean_g += dy[e] * gamma[j] / cols;
      mean_gx += dy[e] * gamma[j] * normal / cols;
    }
    for (int64_t j = 0; j < cols; ++j) {
      const int64_t e = i * cols + j;
      const double normal = (x[e] - f.mean[i]) * f.rstd[i];
      r.dx[e] = f.rstd[i] * (dy[e] * gamma[j] - mean_g - normal * mean_gx);
    }
  }
  return r;
}

Values activation(int32_t kind, const Values& x) {
  Values y(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const double v = x[i];
    switch (kind) {
      case ALLMREC_ACT_RELU:
        y[i] = v > 0 ? v : 0;
        break;
      case ALLMREC_ACT_LEAKY_RELU:
        y[i] = v > 0 ? v : 0.01 * v;
        break;
      case ALLMREC_ACT_GELU:
        y[i] = 0.5 * v * std::erfc(-v / std::sqrt(2.0));
        break;
      case ALLMREC_ACT_GELU_TANH:
        y[i] = 0.5 * v * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
        break;
      case ALLMREC_ACT_SIGMOID:
        y[i] = 1 / (1 + std::exp(-v));
        break;
      case ALLMREC_ACT_TANH:
        y[i] = std::tanh(v);
        break;
      default:
        y[i] = v;
    }
  }
  return y;
}

Values activation_backward(int32_t kind, const Values& dy, const Values& x) {
  const Values y = activation(kind, x);
  Values dx(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const double v = x[i];
    double slope = 1;
    switch (kind) {
      case ALLMREC_ACT_RELU:
        slope = v > 0 ? 1 : 0;
        break;
      case ALLMREC_ACT_LEAKY_RELU:
        slope = v > 0 ? 1 : 0.01;
        break;
      case ALLMREC_ACT_GELU:
        slope = 0.5 * std::erfc(-v / std::sqrt(2.0)) + v * std::exp(-v * v / 2) / std::sqrt(2 * M_PI);
        break;
      case ALLMREC_ACT_GELU_TANH: {
        const double c = std::sqrt(2 / M_PI), t = std::tanh(c * (v + 0.044715 * v * v * v));
        slope = 0.5 * (1 + t) + 0.5 * v * (1 - t * t) * c * (1 + 3 * 0.044715 * v * v);
        break;
      }
      case ALLMREC_ACT_SIGMOID:
        slope = y[i] * (1 - y[i]);
        break;
      case ALLMREC_ACT_TANH:
        slope = 1 - y[i] * y[i];
        break;
      default:
        break;
    }
    dx[i] = dy[i] * slope;
  }
  return dx;
}

Values dropout_factors(const allmrec_dropout& dropout, int64_t n) {
  Values factors(n, 1.0);
  if (dropout.p == 0) return factors;
  for (int64_t i = 0; i < n; ++i) {
    const bool kept = dropout_keeps(dropout.p, dropout.seed, dropout.stream, static_cast<uint64_t>(i));
    factors[i] = kept ? 1 / (1 - static_cast<double>(dropout.p)) : 0;
  }
  return factors;
}

Values embedding(const Embedding& e) {
  const Values factors = dropout_factors(e.dropout, e.tokens * e.cols);
  Values out(e.tokens * e.cols);
  for (int64_t t = 0; t < e.tokens; ++t) {
    const int64_t id = e.ids[t];
    for (int64_t j = 0; j < e.cols; ++j) {
      double value = e.scale * (id >= 0 ? e.table[id * e.cols + j] : e.soft[(-id - 1) * e.cols + j]);
      if (!e.positions.empty()) value += e.positions[e.position_ids[t] * e.cols + j];
      if (!e.constant.empty()) value += e.constant[j];
      out[t * e.cols + j] = value * factors[t * e.cols + j];
    }
  }
  return out;
}

EmbeddingGradients embedding_backward(const Embedding& e, const Values& dy) {
  EmbeddingGradients r = {Values(e.table.size()), Values(e.soft.size()), Values(e.positions.size()),
                          Values(e.cols)};
  const Values factors = dropout_factors(e.dropout, e.tokens * e.cols);
  for (int64_t t = 0; t < e.tokens; ++t) {
    const int64_t id = e.ids[t];
    for (int64_t j = 0; j < e.cols; ++j) {
      const double d = dy[t * e.cols + j] * factors[t * e.cols + j];
      (id >= 0 ? r.d_table[id * e.cols + j] : r.d_soft[(-id - 1) * e.cols + j]) += e.scale * d;
      if (!e.positions.empty()) r.d_positions[e.position_ids[t] * e.cols + j] += d;
      r.d_constant[j] += d;
    }
  }
  return r;
}

Values gather_rows(int64_t cols, const Ints& rows, const Values& x, int64_t ldx) {
  Values out;
  for (int32_t row : rows) out.insert(out.end(), x.begin() + row * ldx, x.begin() + row * ldx + cols);
  return out;
}

void scatter_add_rows(int64_t cols, const Ints& rows, const Values& x, int64_t ldx, Values& out,
                      int64_t ldout) {
  for (size_t i = 0; i < rows.size(); ++i) {
    for (int64_t j = 0; j < cols; ++j) out[rows[i] * ldout + j] += x[i * ldx + j];
  }
}

Values segment_mean(int64_t cols, const Ints& offsets, const Values& x) {
  const int64_t segments = static_cast<int64_t>(offsets.size()) - 1;
  Values out(segments * cols);
  for (int64_t s = 0; s < segments; ++s) {
    const double length = offsets[s + 1] - offsets[s];
    for (int64_t t = offsets[s]; t < offsets[s + 1]; ++t) {
      for (int64_t j = 0; j < cols; ++j) out[s * cols + j] += x[t * cols + j] / length;
    }
  }
  return out;
}

Values segment_mean_backward(int64_t cols, const Ints& offsets, const Values& dy, int64_t tokens) {
  Values dx(tokens * cols);
  for (size_t s = 0; s + 1 < offsets.size(); ++s) {
    const double length = offsets[s + 1] - offsets[s];
    for (int64_t t = offsets[s]; t < offsets[s + 1]; ++t) {
      for (int64_t j = 0; j < cols; ++j) dx[t * cols + j] = dy[s * cols + j] / length;
    }
  }
  return dx;
}

Values row_dot(int64_t rows, int64_t cols, const Values& a, const Values& b, double scale) {
  Values out(rows);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < cols; ++j) out[i] += scale * a[i * cols + j] * b[i * cols + j];
  }
  return out;
}

Normalized l2_normalize(int64_t rows, int64_t cols, const Values& x, double eps) {
  Normalized r = {Values(rows * cols), Values(rows)};
  for (int64_t i = 0; i < rows; ++i) {
    double squares = 0;
    for (int64_t j = 0; j < cols; ++j) squares += x[i * cols + j] * x[i * cols + j];
    r.norm[i] = std::max(std::sqrt(squares), eps);
    for (int64_t j = 0; j < cols; ++j) r.y[i * cols + j] = x[i * cols + j] / r.norm[i];
  }
  return r;
}

Values l2_normalize_backward(int64_t rows, int64_t cols, const Values& dy, const Values& y,
                             const Values& norm) {
  Values dx(rows * cols);
  for (int64_t i = 0; i < rows; ++i) {
    double along = 0;
    for (int64_t j = 0; j < cols; ++j) along += dy[i * cols + j] * y[i * cols + j];
    for (int64_t j = 0; j < cols; ++j)
      dx[i * cols + j] = (dy[i * cols + j] - y[i * cols + j] * along) / norm[i];
  }
  return dx;
}

}  // namespace allmrec::reference
