// cross_entropy: log-probability of each row's target, the loss, and the gradient, which may overwrite the
// logits.
//
// Bound by bytes: one read and one write of the logits. One block a row. A row of up to kHeld values stays in
// registers: each exponential is taken once. A longer one (a vocabulary of 50,272 is 200 KB) is read once for
// maximum and sum together (online: the sum is scaled down when the maximum rises), and once more, backwards,
// for the gradient, which finds it in the L2 cache: a call has some hundred target rows, 20 MB. Each
// column is read and written by one thread, so in place needs no care. Row sums meet in float64; rows are
// added by a second launch, in an order that depends on their number alone. Expected 70–80 % of bandwidth
// with many rows; not yet measured on hardware.

#include "numeric.h"
#include "ops.h"

namespace allmrec::cuda {
namespace {

constexpr float kLowest = -3.402823466e38f;  // not −∞: −∞ − −∞ is NaN
constexpr int kPerThread = 16, kHeldThreads = 256;
constexpr int kHeld = kPerThread * kHeldThreads;
constexpr int kLongThreads = 1024;
constexpr int kInFlight = 4;  // vectors

struct Row {
  const float* x;
  float* d;  // or null
  int target;
};

// The target's probability is near one in a trained model: p − 1 needs more than float32.
__device__ __forceinline__ float target_gradient(float x, float top, double total, float scale) {
  return scale * static_cast<float>(exp(static_cast<double>(x) - static_cast<double>(top)) / total - 1.0);
}

__device__ __forceinline__ void put_row(const allmrec_cross_entropy_args& a, double* log_probs,
                                        double value) {
  const int64_t row = blockIdx.x;
  if (log_probs) log_probs[row] = value;
  if (a.log_prob) a.log_prob[row] = static_cast<float>(value);
}

// An ignored row: zeros. True when it was one.
__device__ __forceinline__ bool ignored(const allmrec_cross_entropy_args& a, const Row& row,
                                        double* log_probs) {
  if (row.target >= 0) return false;
  if (row.d) {
    for (int64_t i = threadIdx.x; i < a.cols; i += blockDim.x) row.d[i] = 0.0f;
  }
  if (threadIdx.x == 0) put_row(a, log_probs, 0.0);
  return true;
}

__device__ __forceinline__ Row row_of(const allmrec_cross_entropy_args& a) {
  const int64_t row = blockIdx.x;
  return {a.logits + row * a.ld, a.d_logits ? a.d_logits + row * a.ld_d : nullptr, a.targets[row]};
}

// Value u of a thread is in this column: four neighbours at a time, or one.
template <bool Vectors>
__device__ __forceinline__ int column_of(int u) {
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  return Vectors ? (u / 4 * threads + thread) * 4 + u % 4 : u * threads + thread;
}

template <bool Vectors>
__global__ void __launch_bounds__(kHeldThreads)
    cross_entropy_held_kernel(const allmrec_cross_entropy_args a, double* log_probs) {
  __shared__ float shared_max[kWarp];
  __shared__ double shared_sum[kWarp];
  const Row row = row_of(a);
  if (ignored(a, row, log_probs)) return;
  const int cols = static_cast<int>(a.cols);
  float x[kPerThread];
#pragma unroll
  for (int u = 0; u < kPerThread; u += 4) {
    const int column = column_of<Vectors>(u);
    if (Vectors && column + 3 < cols) {
      const Vector<float> four = load_vector(row.x + column);
      for (int j = 0; j < 4; ++j) x[u + j] = four.value[j];
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j)
        x[u + j] = column_of<Vectors>(u + j) < cols ? row.x[column_of<Vectors>(u + j)] : kLowest;
    }
  }
  float top = kLowest;
#pragma unroll
  for (int u = 0; u < kPerThread; ++u) top = fmaxf(top, x[u]);
  top = block_max(top, shared_max);
  float sum = 0.0f, target_logit = 0.0f;
  int target_place = -1;  // of the thread that has the target's column
#pragma unroll
  for (int u = 0; u < kPerThread; ++u) {
    const int column = column_of<Vectors>(u);
    if (column == row.target) target_place = u, target_logit = x[u];
    x[u] = column < cols ? expf(x[u] - top) : 0.0f;
    sum += x[u];
  }
  const double total = block_sum(static_cast<double>(sum), shared_sum);
  float target_d = 0.0f;
  if (target_place >= 0) {
    put_row(a, log_probs, static_cast<double>(target_logit) - static_cast<double>(top) - log(total));
    target_d = target_gradient(target_logit, top, total, a.scale);
  }
  if (!row.d) return;
  const float factor = static_cast<float>(a.scale / total);
#pragma unroll
  for (int u = 0; u < kPerThread; u += 4) {
    float d[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) d[j] = u + j == target_place ? target_d : x[u + j] * factor;
    const int column = column_of<Vectors>(u);
    if (Vectors && column + 3 < cols) {
      store_vector(row.d + column, Vector<float>{{d[0], d[1], d[2], d[3]}});
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (column_of<Vectors>(u + j) < cols) row.d[column_of<Vectors>(u + j)] = d[j];
      }
    }
  }
}

// The running maximum and the sum of e^(x − maximum).
struct Online {
  float top = kLowest, sum = 0.0f;
  __device__ __forceinline__ void raise(float x) {
    const float higher = fmaxf(top, x);
    if (higher > top) {
      sum *= expf(top - higher);
      top = higher;
    }
  }
  __device__ __forceinline__ void add(float x) { sum += expf(x - top); }
};

template <bool Vectors>
__global__ void __launch_bounds__(kLongThreads)
    cross_entropy_long_kernel(const allmrec_cross_entropy_args a, double* log_probs) {
  __shared__ float shared_max[kWarp];
  __shared__ double shared_sum[kWarp];
  const Row row = row_of(a);
  if (ignored(a, row, log_probs)) return;
  const int64_t thread = threadIdx.x;
  const int64_t whole = Vectors ? a.cols / 4 : 0;  // vectors
  Online online;
  int64_t v = thread;
  for (; v + (kInFlight - 1) * kLongThreads < whole; v += kInFlight * kLongThreads) {
    Vector<float> x[kInFlight];
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) x[u] = load_vector(row.x + 4 * (v + u * kLongThreads));
    float top = kLowest;
#pragma unroll
    for (int u = 0; u < 4 * kInFlight; ++u) top = fmaxf(top, x[u / 4].value[u % 4]);
    online.raise(top);
#pragma unroll
    for (int u = 0; u < 4 * kInFlight; ++u) online.add(x[u / 4].value[u % 4]);
  }
  for (; v < whole; v += kLongThreads) {
    const Vector<float> x = load_vector(row.x + 4 * v);
    online.raise(fmaxf(fmaxf(x.value[0], x.value[1]), fmaxf(x.value[2], x.value[3])));
    for (int j = 0; j < 4; ++j) online.add(x.value[j]);
  }
  for (int64_t i = 4 * whole + thread; i < a.cols; i += kLongThreads) {
    online.raise(row.x[i]);
    online.add(row.x[i]);
  }
  const float top = block_max(online.top, shared_max);
  const double total = block_sum(static_cast<double>(online.sum * expf(online.top - top)), shared_sum);
  const int64_t owner = row.target < 4 * whole ? row.target / 4 : row.target - 4 * whole;
  if (thread == owner % kLongThreads)  // who alone will overwrite this logit
    put_row(a, log_probs, static_cast<double>(row.x[row.target]) - static_cast<double>(top) - log(total));
  if (!row.d) return;
  const float factor = static_cast<float>(a.scale / total);
  const auto gradient = [&](float x, int64_t column) {
    return column == row.target ? target_gradient(x, top, total, a.scale) : expf(x - top) * factor;
  };
  for (int64_t i = 4 * whole + thread; i < a.cols; i += kLongThreads) row.d[i] = gradient(row.x[i], i);
  // Backwards: what was read last is still near.
  const int64_t turns = (whole - thread + kLongThreads - 1) / kLongThreads;
#pragma unroll 2
  for (int64_t turn = turns - 1; turn >= 0; --turn) {
    const int64_t column = 4 * (turn * kLongThreads + thread);
    Vector<float> x = load_vector(row.x + column);
    for (int j = 0; j < 4; ++j) x.value[j] = gradient(x.value[j], column + j);
    store_vector(row.d + column, x);
  }
}

// loss[0] (+)= −scale · Σ log_probs.
__global__ void cross_entropy_loss_kernel(const double* log_probs, int64_t rows, float scale, float* loss,
                                          int32_t accumulate) {
  __shared__ double shared[kWarp];
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < rows; i += blockDim.x) sum += log_probs[i];
  sum = block_sum(sum, shared) * -static_cast<double>(scale);
  if (threadIdx.x == 0) *loss = static_cast<float>(accumulate ? static_cast<double>(*loss) + sum : sum);
}

}  // namespace

void cross_entropy(Context& context, const allmrec_cross_entropy_args& a) {
  const Scratch log_probs(context, a.loss ? static_cast<size_t>(a.rows) * sizeof(double) : 0);
  double* sums = a.loss ? log_probs.as<double>() : nullptr;
  const bool vectors = aligned_16(a.logits) && aligned_16(a.d_logits) && (a.rows <= 1 || a.ld % 4 == 0) &&
                       (a.rows <= 1 || !a.d_logits || a.ld_d % 4 == 0);
  const dim3 grid(static_cast<unsigned>(a.rows));
  if (a.cols <= kHeld) {
    const int64_t warps = divide_up(a.cols, kPerThread * kWarp);
    const int threads = static_cast<int>(warps < 1 ? 1 : warps) * kWarp;
    launch(vectors ? cross_entropy_held_kernel<true> : cross_entropy_held_kernel<false>, grid, threads, 0,
           context.stream, a, sums);
  } else {
    launch(vectors ? cross_entropy_long_kernel<true> : cross_entropy_long_kernel<false>, grid, kLongThreads,
           0, context.stream, a, sums);
  }
  if (a.loss)
    launch(cross_entropy_loss_kernel, 1, 256, 0, context.stream, sums, a.rows, a.scale, a.loss,
           a.accumulate_loss);
}

}  // namespace allmrec::cuda
