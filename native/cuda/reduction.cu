// column_sum, sum and squared_norm. Bound by bytes: one read.
// Idea: every block sums a fixed part, a second launch adds the parts in order; small inputs take one block
// and one launch. sum and squared_norm add in float64, eight elements of a thread at a time with their loads
// in flight together; squared_norm walks all tensors in one launch, cut into pieces of 8,192 elements whose
// owner a warp finds by 32 comparisons at once. column_sum gives a block 32 pieces of columns, its eight
// warps every eighth row; the sums stay in float32, at most some hundred terms a thread. Expected on an H200:
// 85–90 % of the read bandwidth from some 10 MB on; cards with few float64 units (the consumer ones: 2 a
// cycle and multiprocessor) reach about their bandwidth. Two launches, 4–5 µs, when small. Not yet measured
// on hardware.

#include <vector>

#include "ops.h"
#include "partials.h"
#include "values.h"

namespace allmrec::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kPiece = 8192;  // elements of a tensor a block sums at a time
constexpr int kBlocksPerProcessor = 8;

// ---- sums over rows ----

// 32 columns a block; sixteen warps take every sixteenth block's sums.
constexpr int kPartialWarps = 16;
__global__ void __launch_bounds__(kPartialWarps* kWarp)
    add_partials_kernel(int64_t blocks, int64_t cols, int64_t width, const float* partials, float* first,
                        float* second, bool accumulate) {
  __shared__ float sums[kPartialWarps][kWarp];
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t column = int64_t{blockIdx.x} * kWarp + lane;
  float sum = 0.0f;
  if (column < width) {
#pragma unroll 8
    for (int64_t block = warp; block < blocks; block += kPartialWarps)
      sum += partials[block * width + column];
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp > 0 || column >= width) return;
  for (int other = 1; other < kPartialWarps; ++other) sum += sums[other][lane];
  float* out = column < cols ? first : second;
  if (!out) return;
  out += column < cols ? column : column - cols;
  *out = accumulate ? *out + sum : sum;
}

// Rows slice · rows_each … of 32 · V columns, into `out` (slices, cols).
template <typename T, int V>
__global__ void __launch_bounds__(kThreads)
    column_sum_kernel(int64_t rows, int64_t cols, int64_t rows_each, const T* x, int64_t ldx, float* out,
                      bool accumulate) {
  __shared__ float sums[kWarps][kWarp * V];
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t tile = int64_t{blockIdx.x} * kWarp * V, slice = blockIdx.y;
  const int64_t begin = slice * rows_each, end = begin + rows_each < rows ? begin + rows_each : rows;
  const int64_t column = tile + lane * V;
  float sum[V] = {};
  if (column < cols) {
#pragma unroll 4
    for (int64_t row = begin + warp; row < end; row += kWarps) {
      float value[V];
      load_values<V>(x + row * ldx + column, value);
#pragma unroll
      for (int j = 0; j < V; ++j) sum[j] += value[j];
    }
  }
#pragma unroll
  for (int j = 0; j < V; ++j) sums[warp][lane * V + j] = sum[j];
  __syncthreads();
  const int own = static_cast<int>(threadIdx.x);  // V is at most 8: a thread a column
  if (own >= kWarp * V || tile + own >= cols) return;
  float total = 0.0f;
  for (int other = 0; other < kWarps; ++other) total += sums[other][own];
  float* to = out + slice * cols + tile + own;
  *to = accumulate ? *to + total : total;
}

// ---- sums over everything ----

// Σ over [begin, end) of x, or of x², this thread's share.
template <bool Squares>
__device__ __forceinline__ double share_of_sum(const float* x, int64_t begin, int64_t end) {
  double sum = 0.0;
  const auto term = [](float v) {
    const double wide = v;
    return Squares ? wide * wide : wide;
  };
  int64_t i = begin;
  if (reinterpret_cast<uintptr_t>(x + begin) % 16 == 0) {
    const int64_t whole = begin + (end - begin) / 4 * 4;
#pragma unroll 4
    for (i = begin + 4 * int64_t{threadIdx.x}; i < whole; i += 4 * kThreads) {
      float value[4];
      load_values<4>(x + i, value);
      sum += (term(value[0]) + term(value[1])) + (term(value[2]) + term(value[3]));
    }
    i = whole;
  }
#pragma unroll 4
  for (i += threadIdx.x; i < end; i += kThreads) sum += term(x[i]);
  return sum;
}

// out[0] (+)= scale · total, rounded once.
__device__ __forceinline__ void put_sum(float* out, double total, double scale, bool accumulate) {
  *out = static_cast<float>((accumulate ? static_cast<double>(*out) : 0.0) + scale * total);
}

// Pieces blockIdx.x, blockIdx.x + gridDim.x, …; with `out` the one block there is finishes the sum.
__global__ void __launch_bounds__(kThreads)
    sum_kernel(int64_t n, const float* x, double* partials, float* out, double scale, bool accumulate) {
  __shared__ double shared[kWarps];
  double sum = 0.0;
  for (int64_t begin = int64_t{blockIdx.x} * kPiece; begin < n; begin += int64_t{gridDim.x} * kPiece)
    sum += share_of_sum<false>(x, begin, begin + kPiece < n ? begin + kPiece : n);
  sum = block_sum(sum, shared);
  if (threadIdx.x > 0) return;
  if (out)
    put_sum(out, sum, scale, accumulate);
  else
    partials[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads)
    finish_sum_kernel(int64_t count, const double* partials, float* out, double scale, bool accumulate) {
  __shared__ double shared[kWarps];
  double sum = 0.0;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += partials[i];
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) put_sum(out, sum, scale, accumulate);
}

struct NormTensor {
  const float* x;
  int64_t size;
  int64_t end_piece;  // pieces of this tensor and all before it
};

__global__ void __launch_bounds__(kThreads)
    squared_norm_kernel(const NormTensor* tensors, int count, int64_t pieces, double* partials) {
  __shared__ double shared[kWarps];
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  double sum = 0.0;
  for (int64_t piece = blockIdx.x; piece < pieces; piece += gridDim.x) {
    int owner = 0;  // the number of tensors that end at or before this piece
    for (int t = 0; t < count; t += kWarp) {
      const bool ended = t + lane < count && tensors[t + lane].end_piece <= piece;
      owner += __popc(__ballot_sync(kAllLanes, ended));
    }
    const NormTensor tensor = tensors[owner];
    const int64_t own_pieces = (tensor.size + kPiece - 1) / kPiece;
    const int64_t begin = (piece - (tensor.end_piece - own_pieces)) * kPiece;
    sum += share_of_sum<true>(tensor.x, begin, begin + kPiece < tensor.size ? begin + kPiece : tensor.size);
  }
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

int64_t blocks_of_pieces(const Context& context, int64_t pieces) {
  const int64_t most = int64_t{context.sm_count} * kBlocksPerProcessor;
  return pieces < most ? pieces : most;
}

void finish_sum(Context& context, int64_t count, const double* partials, float* out, double scale,
                bool accumulate) {
  launch(finish_sum_kernel, 1, kThreads, 0, context.stream, count, partials, out, scale, accumulate);
}

}  // namespace

void add_partials(Context& context, int64_t blocks, int64_t cols, int64_t width, const float* partials,
                  float* first, float* second, bool accumulate) {
  launch(add_partials_kernel, static_cast<unsigned>(divide_up(width, kWarp)), kPartialWarps * kWarp, 0,
         context.stream, blocks, cols, width, partials, first, second, accumulate);
}

void column_sum(Context& context, const allmrec_column_sum_args& a) {
  if (a.cols == 0) return;
  by_storage(a.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto run = [&](auto v) {
      constexpr int V = decltype(v)::value;
      const int64_t tiles = divide_up(a.cols, kWarp * V);
      // Enough slices to fill the card, each of four rows a warp at least.
      int64_t slices = divide_up(int64_t{context.sm_count} * 4, tiles);
      if (slices * kWarps * 4 > a.rows) slices = divide_up(a.rows, kWarps * 4);
      if (slices > 65535) slices = 65535;
      if (slices <= 1) {
        launch(column_sum_kernel<T, V>, static_cast<unsigned>(tiles), kThreads, 0, context.stream, a.rows,
               a.cols, a.rows, static_cast<const T*>(a.x), a.ldx, a.out, a.accumulate != 0);
        return;
      }
      const int64_t rows_each = divide_up(a.rows, slices);
      Scratch partials(context, static_cast<size_t>(slices * a.cols) * sizeof(float));
      launch(column_sum_kernel<T, V>, dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(slices)),
             kThreads, 0, context.stream, a.rows, a.cols, rows_each, static_cast<const T*>(a.x), a.ldx,
             partials.as<float>(), false);
      add_partials(context, slices, a.cols, a.cols, partials.as<float>(), a.out, nullptr, a.accumulate != 0);
    };
    constexpr int kSize = Vector<T>::size;
    if (a.cols % kSize == 0 && a.ldx % kSize == 0 && aligned_16(a.x))
      run(std::integral_constant<int, kSize>{});
    else
      run(std::integral_constant<int, 1>{});
  });
}

void sum(Context& context, const allmrec_sum_args& a) {
  const int64_t blocks = blocks_of_pieces(context, divide_up(a.n, kPiece));
  const bool accumulate = a.accumulate != 0;
  if (blocks <= 1) {
    launch(sum_kernel, 1, kThreads, 0, context.stream, a.n, a.x, static_cast<double*>(nullptr), a.out,
           static_cast<double>(a.scale), accumulate);
    return;
  }
  Scratch partials(context, static_cast<size_t>(blocks) * sizeof(double));
  launch(sum_kernel, static_cast<unsigned>(blocks), kThreads, 0, context.stream, a.n, a.x,
         partials.as<double>(), static_cast<float*>(nullptr), 1.0, false);
  finish_sum(context, blocks, partials.as<double>(), a.out, a.scale, accumulate);
}

void squared_norm(Context& context, const allmrec_squared_norm_args& a) {
  std::vector<NormTensor> tensors;
  int64_t pieces = 0;
  for (int64_t t = 0; t < a.count; ++t) {
    if (a.sizes[t] == 0) continue;
    pieces += divide_up(a.sizes[t], kPiece);
    tensors.push_back({a.tensors[t], a.sizes[t], pieces});
  }
  const int64_t blocks = blocks_of_pieces(context, pieces);
  Scratch table(context, tensors.size() * sizeof(NormTensor));
  Scratch partials(context, static_cast<size_t>(blocks) * sizeof(double));
  if (blocks > 0) {
    context.send(table.as<NormTensor>(), tensors.data(), tensors.size() * sizeof(NormTensor));
    launch(squared_norm_kernel, static_cast<unsigned>(blocks), kThreads, 0, context.stream,
           table.as<NormTensor>(), static_cast<int>(tensors.size()), pieces, partials.as<double>());
  }
  finish_sum(context, blocks, partials.as<double>(), a.out, 1.0, false);
}

}  // namespace allmrec::cuda
