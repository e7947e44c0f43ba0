// Binary cross entropy from logits, and mean squared error: the loss and its gradient in one pass. Bound by
// memory (mse) or by exp and log (bce). softplus(x) = max(x, 0) + log1p(e^−|x|) never overflows; the same
// e^−|x| gives σ(x).
#include "reduction.h"

namespace allmrec::cpu::ALLMREC_ISA {

void bce(Device& device, const allmrec_bce_args& a) {
  const double total = sum_blocks(device, a.n, [&](int64_t begin, int64_t end) {
    return sum_over_double(end - begin, [&](int64_t j, auto lanes) {
      const int64_t i = begin + j;
      const Vec x = get(a.logits + i, lanes);
      const Vec y = a.targets ? get(a.targets + i, lanes) : broadcast(a.target);
      const Vec w = a.weights ? get(a.weights + i, lanes) : broadcast(1.0f);
      const Vec e = exp(-abs(x));
      if (a.d_logits) {
        const Vec sigma = blend(x >= 0.0f, broadcast(1.0f), e) / (1.0f + e);
        put(a.d_logits + i, a.scale * w * (sigma - y), lanes);
      }
      return w * (max(zero(), x) - x * y + log1p_unit(e));
    });
  });
  put_sum(a.loss, total * a.scale, a.accumulate_loss);
}

void mse(Device& device, const allmrec_mse_args& a) {
  const float slope = 2.0f * a.scale;
  const double total = sum_blocks(device, a.n, [&](int64_t begin, int64_t end) {
    return sum_over_double(end - begin, [&](int64_t j, auto lanes) {
      const int64_t i = begin + j;
      const Vec difference = get(a.a + i, lanes) - get(a.b + i, lanes);
      if (a.da) {
        Vec d = slope * difference;
        if (a.accumulate_a) d += get(a.da + i, lanes);
        put(a.da + i, d, lanes);
      }
      if (a.db) {
        Vec d = -slope * difference;
        if (a.accumulate_b) d += get(a.db + i, lanes);
        put(a.db + i, d, lanes);
      }
      return difference * difference;
    });
  });
  put_sum(a.loss, total * a.scale, a.accumulate_loss);
}

}  // namespace allmrec::cpu::ALLMREC_ISA
