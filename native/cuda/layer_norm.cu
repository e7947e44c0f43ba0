// Layer normalisation and its backward. Bound by bytes: x in, y out; backward dy and x in, dx out.
// Idea: a row is read once and kept in registers, by a warp up to 1,024 columns and by a block up to 16,384
// (8,192 with gradients of parameters); 64 and 4,096 where 16-byte loads are not possible. Longer rows are
// read again from the caches. Statistics take two passes over the registers, the second over deviations from
// the mean of the first (E[x²] − E[x]² would cancel), which also puts that mean right: a constant row has
// variance zero exactly. The block's sums pass through shared memory behind one barrier each, in two buffers
// used in turn, so no barrier guards their reuse. Gradients of gamma and beta: each lane keeps sums for its
// columns over the rows its warp or block goes through; the warps of a block are added in order, the blocks
// by a second launch. Expected on an H200: 80–90 % of the copy bandwidth from some 10 MB on; for SASRec
// (6,400 × 50) 2–3 µs forward, 5–6 µs backward with parameters. Not yet measured on hardware.

#include "ops.h"
#include "partials.h"
#include "values.h"

namespace allmrec::cuda {

namespace {

constexpr int kWarpRowThreads = 256;
constexpr int kWarpRows = kWarpRowThreads / kWarp;  // rows a block works on when a warp takes a row
constexpr int kMostWarps = 32;
constexpr int kMostWarpCols = 1024;
constexpr int kWideThreads = 512;
constexpr int kBlockThreads = 1024;  // the most of a block that keeps a row
// The most where a thread keeps sums for parameters as well, or has an address for every value.
constexpr int kFewThreads = 512;

// A row is held by a warp (Block = false) or a block, `Values` of them a thread in pieces of V.
template <int V_, int Values, bool Block_>
struct Layout {
  static constexpr int V = V_, values = Values, Pieces = Values / V;
  static constexpr bool Block = Block_;
};

template <typename L>
__device__ __forceinline__ int row_thread() {
  return L::Block ? static_cast<int>(threadIdx.x) : static_cast<int>(threadIdx.x) % kWarp;
}
// The first column of piece i.
template <typename L>
__device__ __forceinline__ int column_of(int i) {
  const int threads = L::Block ? static_cast<int>(blockDim.x) : kWarp;
  return (i * threads + row_thread<L>()) * L::V;
}

// The sums of x[0], x[1], … over the threads of a row, for each of them. Calls of a block alternate between
// two shared buffers of N · 32 floats: whoever writes one again has passed the other's barrier, behind which
// nobody reads the first.
template <bool Block, int N>
__device__ __forceinline__ void row_sums(float (&x)[N], float* shared) {
#pragma unroll
  for (int n = 0; n < N; ++n) x[n] = warp_sum(x[n]);
  if (!Block) return;
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  if (warps == 1) return;
  if (lane == 0) {
#pragma unroll
    for (int n = 0; n < N; ++n) shared[n * kMostWarps + warp] = x[n];
  }
  __syncthreads();
#pragma unroll
  for (int n = 0; n < N; ++n) x[n] = warp_sum(lane < warps ? shared[n * kMostWarps + lane] : 0.0f);
}

struct Statistics {
  float mean, rstd;
};

// From the sums of the deviations from `rough` and of their squares. The rough mean is off by a rounding;
// `shift` says by how much. Its square is tiny, nothing cancels.
__device__ __forceinline__ Statistics statistics(float rough, const float (&deviations)[2], float cols,
                                                 float eps) {
  const float shift = deviations[0] / cols;
  const float variance = deviations[1] / cols - shift * shift;
  return {rough + shift, 1.0f / sqrtf((variance < 0.0f ? 0.0f : variance) + eps)};
}

template <typename T>
struct Forward {
  int64_t rows;
  int cols;
  const T* x;
  const float* gamma;
  const float* beta;
  float eps;
  T* y;
  float* mean;
  float* rstd;
};

template <typename T, typename L>
__global__ void __launch_bounds__(L::Block ? kBlockThreads : kWarpRowThreads)
    layer_norm_kernel(Forward<T> p) {
  constexpr int V = L::V;
  __shared__ float shared[2][2 * kMostWarps];
  const int64_t row = L::Block ? int64_t{blockIdx.x} : int64_t{blockIdx.x} * kWarpRows + threadIdx.x / kWarp;
  if (row >= p.rows) return;
  const T* x = p.x + row * p.cols;
  const float cols = static_cast<float>(p.cols);
  float value[L::Pieces][V] = {};
#pragma unroll
  for (int i = 0; i < L::Pieces; ++i) {
    if (column_of<L>(i) < p.cols) load_values<V>(x + column_of<L>(i), value[i]);
  }

  float sum[1] = {};
#pragma unroll
  for (int i = 0; i < L::Pieces; ++i) {
#pragma unroll
    for (int j = 0; j < V; ++j) sum[0] += value[i][j];
  }
  row_sums<L::Block>(sum, shared[0]);
  const float rough = sum[0] / cols;
  float deviations[2] = {};
#pragma unroll
  for (int i = 0; i < L::Pieces; ++i) {
    if (column_of<L>(i) >= p.cols) continue;
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const float d = value[i][j] - rough;
      deviations[0] += d;
      deviations[1] += d * d;
    }
  }
  row_sums<L::Block>(deviations, shared[1]);
  const Statistics s = statistics(rough, deviations, cols, p.eps);

#pragma unroll
  for (int i = 0; i < L::Pieces; ++i) {
    const int column = column_of<L>(i);
    if (column >= p.cols) continue;
    float gamma[V], beta[V];
    load_values<V>(p.gamma + column, gamma);
    load_values<V>(p.beta + column, beta);
#pragma unroll
    for (int j = 0; j < V; ++j) value[i][j] = (value[i][j] - s.mean) * s.rstd * gamma[j] + beta[j];
    store_values<V>(p.y + row * p.cols + column, value[i]);
  }
  if (row_thread<L>() == 0 && p.mean) p.mean[row] = s.mean;
  if (row_thread<L>() == 0 && p.rstd) p.rstd[row] = s.rstd;
}

// Rows too long for registers.
template <typename T>
__global__ void __launch_bounds__(kWideThreads, 2) layer_norm_wide_kernel(Forward<T> p) {
  __shared__ float shared[2][2 * kMostWarps];
  const int64_t row = blockIdx.x;
  const T* x = p.x + row * p.cols;
  const float cols = static_cast<float>(p.cols);
  const int first = static_cast<int>(threadIdx.x);
  float sum[1] = {};
#pragma unroll 8
  for (int c = first; c < p.cols; c += kWideThreads) sum[0] += to_float(x[c]);
  row_sums<true>(sum, shared[0]);
  const float rough = sum[0] / cols;
  float deviations[2] = {};
#pragma unroll 8
  for (int c = first; c < p.cols; c += kWideThreads) {
    const float d = to_float(x[c]) - rough;
    deviations[0] += d;
    deviations[1] += d * d;
  }
  row_sums<true>(deviations, shared[1]);
  const Statistics s = statistics(rough, deviations, cols, p.eps);
#pragma unroll 4
  for (int c = first; c < p.cols; c += kWideThreads)
    p.y[row * p.cols + c] = from_float<T>((to_float(x[c]) - s.mean) * s.rstd * p.gamma[c] + p.beta[c]);
  if (first == 0 && p.mean) p.mean[row] = s.mean;
  if (first == 0 && p.rstd) p.rstd[row] = s.rstd;
}

// With x̂ = (x − mean) · rstd and g = dy · gamma:  dx = rstd · (g − mean(g) − x̂ · mean(g · x̂)).
template <typename T>
struct Backward {
  int64_t rows;
  int cols;
  const T* dy;
  const T* x;
  const float* gamma;
  const float* mean;
  const float* rstd;
  T* dx;
  bool accumulate;
  float* partials;  // (blocks, 2, cols): sums for d_gamma and d_beta
};

template <typename T, typename L, bool Parameters>
__global__ void __launch_bounds__(!L::Block                 ? kWarpRowThreads
                                  : Parameters || L::V == 1 ? kFewThreads
                                                            : kBlockThreads,
                                  1) layer_norm_backward_kernel(Backward<T> p) {
  constexpr int V = L::V;
  __shared__ float shared[2][2 * kMostWarps];
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t stride = int64_t{gridDim.x} * (L::Block ? 1 : kWarpRows);
  const float inverse = 1.0f / static_cast<float>(p.cols);
  float d_gamma[L::Pieces][V] = {}, d_beta[L::Pieces][V] = {};
  int buffer = 0;
  for (int64_t row = L::Block ? int64_t{blockIdx.x} : int64_t{blockIdx.x} * kWarpRows + warp; row < p.rows;
       row += stride) {
    float normal[L::Pieces][V] = {}, g[L::Pieces][V] = {};
#pragma unroll
    for (int i = 0; i < L::Pieces; ++i) {
      const int column = column_of<L>(i);
      if (column >= p.cols) continue;
      load_values<V>(p.x + row * p.cols + column, normal[i]);
      load_values<V>(p.dy + row * p.cols + column, g[i]);
    }
    const float mean = p.mean[row], rstd = p.rstd[row];
#pragma unroll
    for (int i = 0; i < L::Pieces; ++i) {
#pragma unroll
      for (int j = 0; j < V; ++j) {
        normal[i][j] = (normal[i][j] - mean) * rstd;
        if (Parameters) {
          d_gamma[i][j] += g[i][j] * normal[i][j];
          d_beta[i][j] += g[i][j];
        }
      }
    }
    if (!p.dx) continue;
    float sums[2] = {};
#pragma unroll
    for (int i = 0; i < L::Pieces; ++i) {
      const int column = column_of<L>(i);
      if (column >= p.cols) continue;
      float gamma[V];
      load_values<V>(p.gamma + column, gamma);
#pragma unroll
      for (int j = 0; j < V; ++j) {
        g[i][j] *= gamma[j];
        sums[0] += g[i][j];
        sums[1] += g[i][j] * normal[i][j];
      }
    }
    row_sums<L::Block>(sums, shared[buffer]);
    buffer ^= 1;
#pragma unroll
    for (int i = 0; i < L::Pieces; ++i) {
      const int column = column_of<L>(i);
      if (column >= p.cols) continue;
#pragma unroll
      for (int j = 0; j < V; ++j)
        g[i][j] = (g[i][j] - sums[0] * inverse - normal[i][j] * (sums[1] * inverse)) * rstd;
      put_values<V>(p.dx + row * p.cols + column, g[i], p.accumulate);
    }
  }
  float* partials = p.partials + int64_t{blockIdx.x} * 2 * p.cols;
  if constexpr (Parameters && L::Block) {
#pragma unroll
    for (int i = 0; i < L::Pieces; ++i) {
      const int column = column_of<L>(i);
      if (column >= p.cols) continue;
      store_values<V>(partials + column, d_gamma[i]);
      store_values<V>(partials + p.cols + column, d_beta[i]);
    }
  }
  if constexpr (Parameters && !L::Block) {
    __shared__ float totals[2 * kMostWarpCols];
    for (int turn = 0; turn < kWarpRows; ++turn) {
      if (warp == turn) {
        float* to = turn + 1 < kWarpRows ? totals : partials;
#pragma unroll
        for (int i = 0; i < L::Pieces; ++i) {
          const int column = column_of<L>(i);
          if (column >= p.cols) continue;
#pragma unroll
          for (int j = 0; j < V; ++j) {
            const int gamma_at = column + j, beta_at = p.cols + column + j;
            to[gamma_at] = d_gamma[i][j] + (turn > 0 ? totals[gamma_at] : 0.0f);
            to[beta_at] = d_beta[i][j] + (turn > 0 ? totals[beta_at] : 0.0f);
          }
        }
      }
      if (turn + 1 < kWarpRows) __syncthreads();
    }
  }
}

// Rows too long for registers. A thread's columns are its own, in dx and in the block's sums.
template <typename T>
__global__ void __launch_bounds__(kWideThreads, 2) layer_norm_backward_wide_kernel(Backward<T> p) {
  __shared__ float shared[2][2 * kMostWarps];
  const int first = static_cast<int>(threadIdx.x);
  const float inverse = 1.0f / static_cast<float>(p.cols);
  float* d_gamma = p.partials ? p.partials + int64_t{blockIdx.x} * 2 * p.cols : nullptr;
  float* d_beta = d_gamma + p.cols;
  int buffer = 0;
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    const T* x = p.x + row * p.cols;
    const T* dy = p.dy + row * p.cols;
    const float mean = p.mean[row], rstd = p.rstd[row];
    const bool begins = row == blockIdx.x;
    float sums[2] = {};
#pragma unroll 4
    for (int c = first; c < p.cols; c += kWideThreads) {
      const float dy_c = to_float(dy[c]), normal = (to_float(x[c]) - mean) * rstd;
      if (p.dx) {
        sums[0] += dy_c * p.gamma[c];
        sums[1] += dy_c * p.gamma[c] * normal;
      }
      if (!p.partials) continue;
      d_gamma[c] = (begins ? 0.0f : d_gamma[c]) + dy_c * normal;
      d_beta[c] = (begins ? 0.0f : d_beta[c]) + dy_c;
    }
    if (!p.dx) continue;
    row_sums<true>(sums, shared[buffer]);
    buffer ^= 1;
    T* dx = p.dx + row * p.cols;
#pragma unroll 4
    for (int c = first; c < p.cols; c += kWideThreads) {
      const float normal = (to_float(x[c]) - mean) * rstd;
      float d = (to_float(dy[c]) * p.gamma[c] - sums[0] * inverse - normal * (sums[1] * inverse)) * rstd;
      if (p.accumulate) d += to_float(dx[c]);
      dx[c] = from_float<T>(d);
    }
  }
}

template <typename L>
unsigned threads_of_row(int64_t cols) {
  return L::Block ? static_cast<unsigned>(divide_up(cols, L::values * kWarp) * kWarp) : kWarpRowThreads;
}

// Calls fn with the layout for rows of `cols`, or wide() where a block of most_threads cannot hold them.
template <typename T, typename Fn, typename Wide>
void by_layout(int64_t cols, bool vectors, int64_t most_threads, Fn&& fn, Wide&& wide) {
  constexpr int kSize = Vector<T>::size;
  if (vectors && cols <= 8 * kWarp) return fn(Layout<kSize, 8, false>{});
  if (vectors && cols <= kMostWarpCols) return fn(Layout<kSize, 32, false>{});
  if (!vectors && cols <= 2 * kWarp) return fn(Layout<1, 2, false>{});
  if (vectors && cols <= most_threads * 16) return fn(Layout<kSize, 16, true>{});
  if (!vectors && cols <= kFewThreads * 8) return fn(Layout<1, 8, true>{});
  wide();
}

int checked_cols(int64_t cols) {
  if (cols > (int64_t{1} << 30)) unsupported("layer_norm: rows of more than 2^30 columns");
  return static_cast<int>(cols);
}

}  // namespace

void layer_norm(Context& context, const allmrec_layer_norm_args& a) {
  if (a.rows == 0 || a.cols == 0) return;
  by_storage(a.dtype, [&](auto zero) {
    using T = decltype(zero);
    const Forward<T> p = {a.rows,
                          checked_cols(a.cols),
                          static_cast<const T*>(a.x),
                          a.gamma,
                          a.beta,
                          a.eps,
                          static_cast<T*>(a.y),
                          a.mean,
                          a.rstd};
    const bool vectors = a.cols % Vector<T>::size == 0 && aligned_16(a.x) && aligned_16(a.y) &&
                         aligned_16(a.gamma) && aligned_16(a.beta);
    by_layout<T>(
        a.cols, vectors, kBlockThreads,
        [&](auto layout) {
          using L = decltype(layout);
          const int64_t blocks = L::Block ? a.rows : divide_up(a.rows, kWarpRows);
          launch(layer_norm_kernel<T, L>, static_cast<unsigned>(blocks), threads_of_row<L>(a.cols), 0,
                 context.stream, p);
        },
        [&] {
          launch(layer_norm_wide_kernel<T>, static_cast<unsigned>(a.rows), kWideThreads, 0, context.stream,
                 p);
        });
  });
}

void layer_norm_backward(Context& context, const allmrec_layer_norm_backward_args& a) {
  if (a.cols == 0) return;
  const bool parameters = a.d_gamma || a.d_beta;
  if (!parameters && (a.rows == 0 || !a.dx)) return;
  by_storage(a.dtype, [&](auto zero) {
    using T = decltype(zero);
    Backward<T> p = {a.rows,
                     checked_cols(a.cols),
                     static_cast<const T*>(a.dy),
                     static_cast<const T*>(a.x),
                     a.gamma,
                     a.mean,
                     a.rstd,
                     static_cast<T*>(a.dx),
                     a.accumulate != 0,
                     nullptr};
    const bool vectors = a.cols % Vector<T>::size == 0 && aligned_16(a.x) && aligned_16(a.dy) &&
                         aligned_16(a.dx) && aligned_16(a.gamma);
    // Runs `kernel` over `needed` blocks, or with parameters over fewer, and adds up what they leave.
    const auto run = [&](void (*kernel)(Backward<T>), int64_t needed, int per_processor, unsigned threads) {
      if (!parameters) {
        launch(kernel, static_cast<unsigned>(needed), threads, 0, context.stream, p);
        return;
      }
      const int64_t most = int64_t{context.sm_count} * per_processor;
      const int64_t blocks = needed < most ? needed : most;
      Scratch partials(context, static_cast<size_t>(blocks * 2 * a.cols) * sizeof(float));
      p.partials = partials.as<float>();
      launch(kernel, static_cast<unsigned>(blocks), threads, 0, context.stream, p);
      add_partials(context, blocks, a.cols, 2 * a.cols, p.partials, a.d_gamma, a.d_beta,
                   a.accumulate_params != 0);
    };
    by_layout<T>(
        a.cols, vectors, parameters ? kFewThreads : kBlockThreads,
        [&](auto layout) {
          using L = decltype(layout);
          // With parameters a warp should have two rows at least: each block's sums cost as much as a row.
          const int64_t blocks = L::Block ? a.rows : divide_up(a.rows, kWarpRows * (parameters ? 2 : 1));
          const int per_processor = L::values >= 16 ? 2 : 4;
          run(parameters ? layer_norm_backward_kernel<T, L, true> : layer_norm_backward_kernel<T, L, false>,
              blocks, per_processor, threads_of_row<L>(a.cols));
        },
        [&] { run(layer_norm_backward_wide_kernel<T>, a.rows, 1, kWideThreads); });
  });
}

}  // namespace allmrec::cuda
