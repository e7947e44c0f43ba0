// Dropout: y (+)= x · mask / (1 − p) + residual, forward and backward alike. Bound by the ten rounds of
// Philox, about one cycle per element with AVX-512. Idea: the mask is never stored; its bits are a function
// of the element's number, made in blocks that stay in the L1 cache (vec_math.h).
#include "../vec_math.h"
#include "ops.h"

namespace allmrec::cpu::ALLMREC_ISA {
namespace {
constexpr int64_t kGrain = 1 << 14;  // a multiple of 8: tasks begin at a whole counter
}

void dropout(Device& device, const allmrec_dropout_args& a) {
  device.pool.parallel_for(a.n, kGrain, [&](int64_t begin, int64_t end, int) {
    const float* x = f32(a.x) + begin;
    const float* residual = a.residual ? f32(a.residual) + begin : nullptr;
    float* y = f32(a.y) + begin;
    sweep_dropout(a.dropout, begin, end - begin, [&](int64_t i, Vec factor, auto lanes) {
      Vec value = get(x + i, lanes) * factor;
      if (residual) value += get(residual + i, lanes);
      if (a.accumulate) value += get(y + i, lanes);
      put(y + i, value, lanes);
    });
  });
}

}  // namespace allmrec::cpu::ALLMREC_ISA
