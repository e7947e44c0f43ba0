// Layer normalisation, forward and backward. Bound by memory (SASRec's rows of 50) or by the L1 cache (768).
// Idea: a row is read three times, but from the L1 cache; statistics take two passes (never E[x²] − E[x]²,
// which cancels), and the second pass puts the mean right as well, so that a constant row has variance zero
// exactly and an eps of 1e-8 does not magnify the mean's rounding. Gradients of gamma and beta are summed in
// blocks of rows whose number depends on the shape alone, then over blocks in order: the same bits for any
// number of threads.
#include "../vec_math.h"
#include "ops.h"

namespace allmrec::cpu::ALLMREC_ISA {
namespace {

constexpr int64_t kGrain = 1 << 14;  // elements per task
constexpr int64_t kMaxBlocks = 64;   // of rows with partial sums of their own
constexpr int64_t kMinBlockRows = 16;

struct Statistics {
  float mean, rstd;
};

ALLMREC_INLINE Statistics statistics(const float* x, int64_t cols, float eps) {
  const float n = static_cast<float>(cols);
  const float rough = sum_over(cols, [&](int64_t i, auto lanes) { return get(x + i, lanes); }) / n;
  // A rough mean is off by a rounding; the deviations from it say by how much.
  const float shift = sum_over(cols, [&](int64_t i, auto lanes) { return get(x + i, lanes) - rough; }) / n;
  const float mean = rough + shift;
  const float variance = sum_over(cols,
                                  [&](int64_t i, auto lanes) {
                                    const Vec d = get(x + i, lanes) - mean;
                                    return d * d;
                                  }) /
                         n;
  return {mean, 1.0f / __builtin_sqrtf(variance + eps)};
}

}  // namespace

void layer_norm(Device& device, const allmrec_layer_norm_args& a) {
  if (a.cols == 0) return;
  device.pool.parallel_for(a.rows, kGrain / a.cols + 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const float* x = a.x + row * a.cols;  // (cols)
      float* y = a.y + row * a.cols;
      const Statistics s = statistics(x, a.cols, a.eps);
      sweep(a.cols, [&](int64_t i, auto lanes) {
        const Vec normal = (get(x + i, lanes) - s.mean) * s.rstd;
        put(y + i, fma(normal, get(a.gamma + i, lanes), get(a.beta + i, lanes)), lanes);
      });
      if (a.mean) a.mean[row] = s.mean;
      if (a.rstd) a.rstd[row] = s.rstd;
    }
  });
}

// With x̂ = (x − mean) · rstd and g = dy · gamma:  dx = rstd · (g − mean(g) − x̂ · mean(g · x̂)).
void layer_norm_backward(Device& device, const allmrec_layer_norm_backward_args& a) {
  if (a.cols == 0) return;
  const bool parameters = a.d_gamma || a.d_beta;
  int64_t block_rows = (a.rows + kMaxBlocks - 1) / kMaxBlocks;
  if (block_rows < kMinBlockRows) block_rows = kMinBlockRows;
  const int64_t blocks = (a.rows + block_rows - 1) / block_rows;
  float* partial = nullptr;  // (blocks, 2, cols): d_gamma, d_beta
  if (parameters)
    partial = static_cast<float*>(
        device.shared_scratch(2, static_cast<size_t>(blocks * 2 * a.cols) * sizeof(float)));

  device.pool.run(blocks, [&](int64_t block, int) {
    float* d_gamma = nullptr;
    float* d_beta = nullptr;
    if (parameters) {
      d_gamma = partial + block * 2 * a.cols;
      d_beta = d_gamma + a.cols;
      std::memset(d_gamma, 0, static_cast<size_t>(2 * a.cols) * sizeof(float));
    }
    const int64_t end = (block + 1) * block_rows < a.rows ? (block + 1) * block_rows : a.rows;
    for (int64_t row = block * block_rows; row < end; ++row) {
      const float* x = a.x + row * a.cols;
      const float* dy = a.dy + row * a.cols;
      const float mean = a.mean[row], rstd = a.rstd[row];
      if (parameters) {
        sweep(a.cols, [&](int64_t i, auto lanes) {
          const Vec dy_i = get(dy + i, lanes);
          const Vec normal = (get(x + i, lanes) - mean) * rstd;
          put(d_gamma + i, fma(dy_i, normal, get(d_gamma + i, lanes)), lanes);
          put(d_beta + i, get(d_beta + i, lanes) + dy_i, lanes);
        });
      }
      if (!a.dx) continue;
      const float n = static_cast<float>(a.cols);
      const float mean_g =
          sum_over(a.cols,
                   [&](int64_t i, auto lanes) { return get(dy + i, lanes) * get(a.gamma + i, lanes); }) /
          n;
      const float mean_gx = sum_over(a.cols,
                                     [&](int64_t i, auto lanes) {
                                       const Vec normal = (get(x + i, lanes) - mean) * rstd;
                                       return get(dy + i, lanes) * get(a.gamma + i, lanes) * normal;
                                     }) /
                            n;
      float* dx = a.dx + row * a.cols;
      sweep(a.cols, [&](int64_t i, auto lanes) {
        const Vec normal = (get(x + i, lanes) - mean) * rstd;
        Vec d = (get(dy + i, lanes) * get(a.gamma + i, lanes) - mean_g - normal * mean_gx) * rstd;
        if (a.accumulate) d += get(dx + i, lanes);
        put(dx + i, d, lanes);
      });
    }
  });

  if (!parameters) return;
  const auto add_blocks = [&](const float* from, float* to) {
    if (!to) return;
    sweep(a.cols, [&](int64_t i, auto lanes) {
      Vec sum = a.accumulate_params ? get(to + i, lanes) : zero();
      for (int64_t block = 0; block < blocks; ++block) sum += get(from + block * 2 * a.cols + i, lanes);
      put(to + i, sum, lanes);
    });
  };
  add_blocks(partial, a.d_gamma);
  add_blocks(partial + a.cols, a.d_beta);
}

}  // namespace allmrec::cpu::ALLMREC_ISA
