// Dot products of corresponding rows (scores of a sequence's state and an item), and their gradients. Bound
// by memory.
#include "../vec_math.h"
#include "ops.h"

namespace allmrec::cpu::ALLMREC_ISA {
namespace {
constexpr int64_t kGrain = 1 << 13;  // elements per task
// Added up in float32, then in float64: chains of 16 terms whatever the vector's width, as terms may cancel.
constexpr int64_t kRun = 64 * kLanes;
}  // namespace

void row_dot(Device& device, const allmrec_row_dot_args& a) {
  device.pool.parallel_for(a.rows, kGrain / (a.cols + 1) + 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const float* x = a.a + row * a.cols;
      const float* y = a.b + row * a.cols;
      double sum = 0;
      for (int64_t at = 0; at < a.cols; at += kRun) {
        sum += sum_over(a.cols - at < kRun ? a.cols - at : kRun, [&](int64_t i, auto lanes) {
          return get(x + at + i, lanes) * get(y + at + i, lanes);
        });
      }
      a.out[row] = static_cast<float>(a.scale * sum);
    }
  });
}

void row_dot_backward(Device& device, const allmrec_row_dot_backward_args& a) {
  const auto scaled = [&](int64_t row, const float* from, float* to, bool accumulate) {
    const float g = a.scale * a.g[row];
    from += row * a.cols;
    to += row * a.cols;
    sweep(a.cols, [&](int64_t i, auto lanes) {
      Vec d = get(from + i, lanes) * g;
      if (accumulate) d += get(to + i, lanes);
      put(to + i, d, lanes);
    });
  };
  device.pool.parallel_for(a.rows, kGrain / (a.cols + 1) + 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      if (a.da) scaled(row, a.b, a.da, a.accumulate_a);
      if (a.db) scaled(row, a.a, a.db, a.accumulate_b);
    }
  });
}

}  // namespace allmrec::cpu::ALLMREC_ISA
