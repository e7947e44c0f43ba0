// References of the losses, the ranking, the recurrent layer, the optimiser and the random numbers.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "../cpp/core/philox.h"
#include "reference.h"

namespace allmrec::reference {

namespace {
double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}
}  // namespace

Loss bce(const Values& logits, const Values& targets, double target, const Values& weights, double scale) {
  Loss r = {0, Values(logits.size())};
  for (size_t i = 0; i < logits.size(); ++i) {
    const double x = logits[i], y = targets.empty() ? target : targets[i],
                 w = weights.empty() ? 1 : weights[i];
    const double softplus = std::max(x, 0.0) + std::log1p(std::exp(-std::fabs(x)));
    r.loss += scale * w * (softplus - y * x);
    r.gradient[i] = scale * w * (sigmoid(x) - y);
  }
  return r;
}

Loss mse(const Values& a, const Values& b, double scale) {
  Loss r = {0, Values(a.size())};
  for (size_t i = 0; i < a.size(); ++i) {
    r.loss += scale * (a[i] - b[i]) * (a[i] - b[i]);
    r.gradient[i] = 2 * scale * (a[i] - b[i]);
  }
  return r;
}

CrossEntropy cross_entropy(int64_t rows, int64_t cols, const Values& logits, int64_t ld, const Ints& targets,
                           double scale) {
  CrossEntropy r = {0, Values(rows), Values(rows * cols)};
  for (int64_t i = 0; i < rows; ++i) {
    if (targets[i] < 0) continue;
    const double* x = logits.data() + i * ld;
    const double top = *std::max_element(x, x + cols);
    double total = 0;
    for (int64_t j = 0; j < cols; ++j) total += std::exp(x[j] - top);
    r.log_prob[i] = x[targets[i]] - top - std::log(total);
    r.loss -= scale * r.log_prob[i];
    for (int64_t j = 0; j < cols; ++j)
      r.d_logits[i * cols + j] = scale * (std::exp(x[j] - top) / total - (j == targets[i] ? 1 : 0));
  }
  return r;
}

TopK top_k(int64_t rows, int64_t cols, const Values& scores, int64_t ld, const Ints& exclude_offsets,
           const Ints& exclude_columns, int32_t k) {
  TopK r = {Ints(rows * k, -1), Values(rows * k, -std::numeric_limits<double>::infinity())};
  for (int64_t i = 0; i < rows; ++i) {
    Ints columns(cols);
    std::iota(columns.begin(), columns.end(), 0);
    if (!exclude_offsets.empty()) {
      for (int32_t e = exclude_offsets[i]; e < exclude_offsets[i + 1]; ++e)
        columns.erase(std::remove(columns.begin(), columns.end(), exclude_columns[e]), columns.end());
    }
    const double* x = scores.data() + i * ld;
    std::stable_sort(columns.begin(), columns.end(), [&](int32_t a, int32_t b) { return x[a] > x[b]; });
    for (size_t rank = 0; rank < columns.size() && rank < static_cast<size_t>(k); ++rank) {
      r.indices[i * k + rank] = columns[rank];
      r.values[i * k + rank] = x[columns[rank]];
    }
  }
  return r;
}

GruOutput gru(const Gru& g) {
  const int64_t h = g.hidden;
  GruOutput r = {Values(g.batch * g.steps * h), Values(g.batch * g.steps * 4 * h)};
  for (int64_t b = 0; b < g.batch; ++b) {
    for (int64_t s = 0; s < g.steps; ++s) {
      const double* before = s == 0 ? &g.h0[b * h] : &r.out[(b * g.steps + s - 1) * h];
      const double* gx = &g.gates_x[(b * g.steps + s) * 3 * h];
      Values gh(3 * h);
      for (int64_t i = 0; i < 3 * h; ++i) {
        gh[i] = g.b_hh.empty() ? 0 : g.b_hh[i];
        for (int64_t j = 0; j < h; ++j) gh[i] += before[j] * g.w_hh[i * h + j];
      }
      double* saved = &r.saved[(b * g.steps + s) * 4 * h];
      for (int64_t i = 0; i < h; ++i) {
        saved[i] = sigmoid(gx[i] + gh[i]);
        saved[h + i] = sigmoid(gx[h + i] + gh[h + i]);
        saved[2 * h + i] = std::tanh(gx[2 * h + i] + saved[i] * gh[2 * h + i]);
        saved[3 * h + i] = gh[2 * h + i];
        r.out[(b * g.steps + s) * h + i] = (1 - saved[h + i]) * saved[2 * h + i] + saved[h + i] * before[i];
      }
    }
  }
  return r;
}

GruGradients gru_backward(const Gru& g, const Values& d_out, const Values& d_hn) {
  const int64_t h = g.hidden;
  const GruOutput f = gru(g);
  GruGradients r = {Values(g.batch * g.steps * 3 * h), Values(g.batch * h), Values(3 * h * h), Values(3 * h)};
  for (int64_t b = 0; b < g.batch; ++b) {
    Values carry(h);
    if (!d_hn.empty()) carry.assign(&d_hn[b * h], &d_hn[b * h] + h);
    for (int64_t s = g.steps - 1; s >= 0; --s) {
      const int64_t t = b * g.steps + s;
      const double* before = s == 0 ? &g.h0[b * h] : &f.out[(t - 1) * h];
      const double* saved = &f.saved[t * 4 * h];
      Values next(h), dh(3 * h);
      for (int64_t i = 0; i < h; ++i) {
        const double gate_r = saved[i], z = saved[h + i], n = saved[2 * h + i], hn = saved[3 * h + i];
        const double d = carry[i] + d_out[t * h + i];
        const double dn = d * (1 - z) * (1 - n * n), dz = d * (before[i] - n) * z * (1 - z);
        const double dr = dn * hn * gate_r * (1 - gate_r);
        r.d_gates_x[t * 3 * h + i] = dh[i] = dr;
        r.d_gates_x[t * 3 * h + h + i] = dh[h + i] = dz;
        r.d_gates_x[t * 3 * h + 2 * h + i] = dn;
        dh[2 * h + i] = dn * gate_r;
        next[i] = d * z;
      }
      for (int64_t i = 0; i < 3 * h; ++i) {
        r.d_b_hh[i] += dh[i];
        for (int64_t j = 0; j < h; ++j) {
          next[j] += dh[i] * g.w_hh[i * h + j];
          r.d_w_hh[i * h + j] += dh[i] * before[j];
        }
      }
      carry = next;
    }
    std::copy(carry.begin(), carry.end(), r.d_h0.begin() + b * h);
  }
  return r;
}

void adam(const Adam& o, Values& param, const Values& grad, Values& m, Values& v) {
  const double correction1 = 1 - std::pow(o.beta1, o.step), correction2 = 1 - std::pow(o.beta2, o.step);
  for (size_t i = 0; i < param.size(); ++i) {
    const double g = grad[i] * o.grad_scale + o.weight_decay * param[i];
    m[i] = o.beta1 * m[i] + (1 - o.beta1) * g;
    v[i] = o.beta2 * v[i] + (1 - o.beta2) * g * g;
    param[i] -= o.lr / correction1 * m[i] / (std::sqrt(v[i]) / std::sqrt(correction2) + o.eps);
  }
}

Values random(int64_t n, uint64_t seed, uint64_t stream, bool normal, double a, double b) {
  Values x(n);
  const double unit = std::ldexp(1.0, -24);
  for (int64_t e = 0; e < n; ++e) {
    const PhiloxWords words = philox(seed, stream, static_cast<uint64_t>(e / 4));
    if (normal) {
      const int pair = static_cast<int>(e % 4) / 2 * 2;
      const double radius = std::sqrt(-2 * std::log(((words.word[pair] >> 8) + 1) * unit));
      const double angle = 2 * M_PI * (words.word[pair + 1] >> 8) * unit;
      x[e] = a + b * radius * (e % 2 == 0 ? std::cos(angle) : std::sin(angle));
    } else {
      x[e] = a + (b - a) * (words.word[e % 4] >> 8) * unit;
    }
  }
  return x;
}

double half_value(uint16_t bits) {
  const double sign = bits & 0x8000 ? -1 : 1;
  const int exponent = (bits >> 10) & 0x1f, mantissa = bits & 0x3ff;
  if (exponent == 31) return mantissa ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024 + mantissa, exponent - 25);
}

double bfloat16_value(uint16_t bits) {
  const double sign = bits & 0x8000 ? -1 : 1;
  const int exponent = (bits >> 7) & 0xff, mantissa = bits & 0x7f;
  if (exponent == 255) return mantissa ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(mantissa, -133);
  return sign * std::ldexp(128 + mantissa, exponent - 134);
}

}  // namespace allmrec::reference
