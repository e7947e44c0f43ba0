// Rows divided by their length, and the gradient. Bound by memory. `norm` is max(‖x‖, eps), what was divided
// by.
#include "../vec_math.h"
#include "ops.h"

namespace allmrec::cpu::ALLMREC_ISA {
namespace {
constexpr int64_t kGrain = 1 << 13;  // elements per task
}

void l2_normalize(Device& device, const allmrec_l2_normalize_args& a) {
  device.pool.parallel_for(a.rows, kGrain / (a.cols + 1) + 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const float* x = a.x + row * a.cols;
      float* y = a.y + row * a.cols;
      const float squares = sum_over(a.cols, [&](int64_t i, auto lanes) {
        const Vec v = get(x + i, lanes);
        return v * v;
      });
      const float length = __builtin_sqrtf(squares);
      const float norm = length < a.eps ? a.eps : length;  // NaN stays
      const float inverse = 1.0f / norm;
      sweep(a.cols, [&](int64_t i, auto lanes) { put(y + i, get(x + i, lanes) * inverse, lanes); });
      if (a.norm) a.norm[row] = norm;
    }
  });
}

void l2_normalize_backward(Device& device, const allmrec_l2_normalize_backward_args& a) {
  device.pool.parallel_for(a.rows, kGrain / (a.cols + 1) + 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const float* dy = a.dy + row * a.cols;
      const float* y = a.y + row * a.cols;
      float* dx = a.dx + row * a.cols;
      const float inverse = 1.0f / a.norm[row];
      const float along =
          sum_over(a.cols, [&](int64_t i, auto lanes) { return get(dy + i, lanes) * get(y + i, lanes); });
      sweep(a.cols, [&](int64_t i, auto lanes) {
        Vec d = (get(dy + i, lanes) - get(y + i, lanes) * along) * inverse;
        if (a.accumulate) d += get(dx + i, lanes);
        put(dx + i, d, lanes);
      });
    }
  });
}

}  // namespace allmrec::cpu::ALLMREC_ISA
