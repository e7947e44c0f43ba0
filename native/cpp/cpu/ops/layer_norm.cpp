// Layer normalisation, forward and backward. Bound by memory (SASRec's rows of 50) or by the L1 cache (768).
// Idea: a row is read three times, but from the L1 cache. Statistics take two passes, the second over
// deviations from the mean of the first (E[x²] − E[x]² would cancel), which also puts that mean right: a
// constant row has variance zero exactly, and an eps of 1e-8 does not magnify the mean's rounding. Gradients
// of gamma and beta are summed in blocks of rows whose number depends on the shape alone, then over blocks in
// order: the same bits for any number of threads.
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
  Vec sum = zero(), squares = zero();  // of the deviations from the rough mean
  sweep(cols, [&](int64_t i, auto lanes) {
    const Vec d = keep(get(x + i, lanes) - rough, lanes);
    sum += d;
    squares = fma(d, d, squares);
  });
  // The rough mean is off by a rounding; `shift` says by how much. Its square is tiny, nothing cancels.
  const float shift = horizontal_sum(sum) / n;
  const float variance = horizontal_sum(squares) / n - shift * shift;
  return {rough + shift, 1.0f / __builtin_sqrtf((variance < 0.0f ? 0.0f : variance) + eps)};
}

// With x̂ = (x − mean) · rstd and g = dy · gamma:  dx = rstd · (g − mean(g) − x̂ · mean(g · x̂)).
// d_gamma and d_beta are the sums of one block of rows, added to here; without `Parameters` they are NULL.
template <bool Parameters>
ALLMREC_INLINE void backward_row(const allmrec_layer_norm_backward_args& a, int64_t row, float* d_gamma,
                                 float* d_beta) {
  const float* x = f32(a.x) + row * a.cols;  // (cols)
  const float* dy = f32(a.dy) + row * a.cols;
  const float mean = a.mean[row], rstd = a.rstd[row];
  Vec sum_g = zero(), sum_gx = zero();
  sweep(a.cols, [&](int64_t i, auto lanes) {
    const Vec dy_i = get(dy + i, lanes);
    const Vec normal = (get(x + i, lanes) - mean) * rstd;
    if (Parameters) {
      put(d_gamma + i, fma(dy_i, normal, get(d_gamma + i, lanes)), lanes);
      put(d_beta + i, get(d_beta + i, lanes) + dy_i, lanes);
    }
    if (!a.dx) return;
    const Vec g = dy_i * get(a.gamma + i, lanes);  // zero where there is no lane
    sum_g += g;
    sum_gx = fma(g, normal, sum_gx);
  });
  if (!a.dx) return;
  const float n = static_cast<float>(a.cols);
  const float mean_g = horizontal_sum(sum_g) / n, mean_gx = horizontal_sum(sum_gx) / n;
  float* dx = f32(a.dx) + row * a.cols;
  sweep(a.cols, [&](int64_t i, auto lanes) {
    const Vec normal = (get(x + i, lanes) - mean) * rstd;
    Vec d = (get(dy + i, lanes) * get(a.gamma + i, lanes) - mean_g - normal * mean_gx) * rstd;
    if (a.accumulate) d += get(dx + i, lanes);
    put(dx + i, d, lanes);
  });
}

}  // namespace

void layer_norm(Device& device, const allmrec_layer_norm_args& a) {
  if (a.cols == 0) return;
  device.pool.parallel_for(a.rows, kGrain / a.cols + 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const float* x = f32(a.x) + row * a.cols;  // (cols)
      float* y = f32(a.y) + row * a.cols;
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
    const int64_t begin = block * block_rows;
    const int64_t end = begin + block_rows < a.rows ? begin + block_rows : a.rows;
    if (!parameters) {
      for (int64_t row = begin; row < end; ++row) backward_row<false>(a, row, nullptr, nullptr);
      return;
    }
    float* d_gamma = partial + block * 2 * a.cols;
    std::memset(d_gamma, 0, static_cast<size_t>(2 * a.cols) * sizeof(float));
    for (int64_t row = begin; row < end; ++row) backward_row<true>(a, row, d_gamma, d_gamma + a.cols);
  });

  const auto add_blocks = [&](const float* from, float* to) {
    if (!to) return;
    sweep(a.cols, [&](int64_t i, auto lanes) {
      Vec sum = a.accumulate_params ? get(to + i, lanes) : zero();
      for (int64_t block = 0; block < blocks; ++block) sum += get(from + block * 2 * a.cols + i, lanes);
      put(to + i, sum, lanes);
    });
  };
  if (!parameters) return;
  add_blocks(partial, a.d_gamma);
  add_blocks(partial + a.cols, a.d_beta);
}

}  // namespace allmrec::cpu::ALLMREC_ISA
