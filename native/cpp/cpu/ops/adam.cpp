// Adam over many tensors. Bound by memory: 4 reads and 3 writes per parameter (4 with zero_grad), in one
// pass. Tasks are blocks of 16 K parameters counted through all tensors, so that a thousand small tensors
// cost no more than a large one.
#include "../vec_math.h"
#include "ops.h"

namespace allmrec::cpu::ALLMREC_ISA {
namespace {

constexpr int64_t kBlock = 1 << 14;

struct Step {
  float grad_scale, weight_decay, take1, beta2, take2;  // take = 1 − beta
  float step_size;                                      // lr / (1 − beta1^step)
  float inverse_root;                                   // 1 / √(1 − beta2^step)
  float eps;
};

template <bool ZeroGrad>
void update(const Step& s, float* p, float* g, float* m, float* v, int64_t n) {
  sweep(n, [&](int64_t i, auto lanes) {
    const Vec p_i = get(p + i, lanes);
    const Vec g_i = get(g + i, lanes) * s.grad_scale + p_i * s.weight_decay;
    Vec m_i = get(m + i, lanes);
    m_i += (g_i - m_i) * s.take1;
    const Vec v_i = get(v + i, lanes) * s.beta2 + g_i * g_i * s.take2;
    put(m + i, m_i, lanes);
    put(v + i, v_i, lanes);
    put(p + i, p_i - s.step_size * m_i / (sqrt(v_i) * s.inverse_root + s.eps), lanes);
    if (ZeroGrad) put(g + i, zero(), lanes);
  });
}

// beta^step in float64 without libm's pow, by squaring.
double power(double base, int64_t exponent) {
  double result = 1.0;
  for (; exponent > 0; exponent >>= 1, base *= base) {
    if (exponent & 1) result *= base;
  }
  return result;
}

}  // namespace

void adam(Device& device, const allmrec_adam_args& a) {
  const double correction1 = 1.0 - power(a.beta1, a.step), correction2 = 1.0 - power(a.beta2, a.step);
  const Step s = {a.grad_scale,
                  a.weight_decay,
                  static_cast<float>(1.0 - static_cast<double>(a.beta1)),
                  a.beta2,
                  static_cast<float>(1.0 - static_cast<double>(a.beta2)),
                  static_cast<float>(a.lr / correction1),
                  static_cast<float>(1.0 / __builtin_sqrt(correction2)),
                  a.eps};
  // first_block[t]: the number of tensor t's first block.
  int64_t* first_block =
      static_cast<int64_t*>(device.shared_scratch(2, static_cast<size_t>(a.count + 1) * sizeof(int64_t)));
  first_block[0] = 0;
  for (int64_t t = 0; t < a.count; ++t)
    first_block[t + 1] = first_block[t] + (a.tensors[t].n + kBlock - 1) / kBlock;

  device.pool.run(first_block[a.count], [&](int64_t block, int) {
    int64_t low = 0, high = a.count - 1;  // the last tensor whose first block is not behind this one
    while (low < high) {
      const int64_t middle = (low + high + 1) / 2;
      if (first_block[middle] <= block)
        low = middle;
      else
        high = middle - 1;
    }
    const allmrec_adam_tensor& t = a.tensors[low];
    const int64_t begin = (block - first_block[low]) * kBlock;
    const int64_t n = t.n - begin < kBlock ? t.n - begin : kBlock;
    if (a.zero_grad)
      update<true>(s, t.param + begin, t.grad + begin, t.m + begin, t.v + begin, n);
    else
      update<false>(s, t.param + begin, t.grad + begin, t.m + begin, t.v + begin, n);
  });
}

}  // namespace allmrec::cpu::ALLMREC_ISA
