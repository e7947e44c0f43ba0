// Cross entropy of rows of logits: log-probability of the target, loss, gradient. Bound by exp: 12 rows of
// 50,272 logits stay in the L2 cache. Three passes per row: maximum; Σ e^(x − max); gradient. In place when
// d_logits is logits: the target's logit is read before, and each vector before it is written.
#include "reduction.h"

namespace allmrec::cpu::ALLMREC_ISA {
namespace {

// NaN is skipped here and found again in the sum of exponentials.
ALLMREC_INLINE float row_max(const float* x, int64_t n) {
  Vec m0 = broadcast(-__builtin_inff()), m1 = m0, m2 = m0, m3 = m0;
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    m0 = max(load(x + i), m0);
    m1 = max(load(x + i + kLanes), m1);
    m2 = max(load(x + i + 2 * kLanes), m2);
    m3 = max(load(x + i + 3 * kLanes), m3);
  }
  float m = horizontal_max(max(max(m0, m1), max(m2, m3)));
  for (; i < n; ++i) m = x[i] > m ? x[i] : m;
  return m;
}

}  // namespace

void cross_entropy(Device& device, const allmrec_cross_entropy_args& a) {
  double* log_probs =  // (rows)
      static_cast<double*>(device.shared_scratch(2, static_cast<size_t>(a.rows) * sizeof(double)));
  device.pool.parallel_for(a.rows, 4096 / (a.cols + 1) + 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const float* x = a.logits + row * a.ld;
      float* d = a.d_logits ? a.d_logits + row * a.ld_d : nullptr;
      const int64_t target = a.targets[row];
      if (target < 0) {
        log_probs[row] = 0.0;
        if (d) std::memset(d, 0, static_cast<size_t>(a.cols) * sizeof(float));
        continue;
      }
      const float top = row_max(x, a.cols);
      const double total =
          sum_over_double(a.cols, [&](int64_t i, auto lanes) { return exp(get(x + i, lanes) - top); });
      log_probs[row] = static_cast<double>(x[target]) - top - __builtin_log(total);
      if (!d) continue;
      // The exponential is taken again rather than stored: reading it back would cost as much.
      const float factor = static_cast<float>(a.scale / total);
      const float probability = static_cast<float>(__builtin_exp(log_probs[row]));
      sweep(a.cols, [&](int64_t i, auto lanes) { put(d + i, exp(get(x + i, lanes) - top) * factor, lanes); });
      d[target] = a.scale * (probability - 1.0f);
    }
  });
  double total = 0.0;
  for (int64_t row = 0; row < a.rows; ++row) {
    total += log_probs[row];
    if (a.log_prob) a.log_prob[row] = static_cast<float>(log_probs[row]);
  }
  put_sum(a.loss, -a.scale * total, a.accumulate_loss);
}

}  // namespace allmrec::cpu::ALLMREC_ISA
