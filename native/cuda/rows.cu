// Ops that move, average or compare whole rows: gather_rows, put_rows, scatter_add_rows, segment_mean,
// row_dot, l2_normalize and their backwards. Bound by bytes. Idea: moving rows needs no arithmetic, so pieces
// are the widest of 16, 8, 4 and 2 bytes that addresses and row lengths allow, four rows in flight a thread.
// Row-wise sums take a warp a row, and a second pass over the row finds it in the L1 cache. Means take a
// block per segment and 32 pieces of columns, its eight warps summing every eighth row. scatter_add_rows is
// in scatter.cu. Expected on an H200: 80–90 % of the copy bandwidth for rows of 512 bytes and more, 60–80 %
// for rows of 200, 2–3 µs a launch for small recommenders. Not yet measured on hardware.

#include "ops.h"
#include "row_copy.h"
#include "scatter.h"
#include "values.h"

namespace allmrec::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

// ---- rows moved ----

template <typename Piece>
__global__ void __launch_bounds__(kThreads)
    copy_rows_kernel(int64_t rows, int64_t pieces, const int32_t* from, const int32_t* to, const Piece* x,
                     int64_t ldx, Piece* out, int64_t ldout) {
  const int64_t first = int64_t{blockIdx.x} * kRowsInFlight * blockDim.y + threadIdx.y;
  const int64_t stride = int64_t{gridDim.y} * blockDim.x;
  for (int64_t piece = int64_t{blockIdx.y} * blockDim.x + threadIdx.x; piece < pieces; piece += stride) {
    Piece value[kRowsInFlight];
    int64_t target[kRowsInFlight];
#pragma unroll
    for (int k = 0; k < kRowsInFlight; ++k) {
      const int64_t row = first + k * int64_t{blockDim.y};
      target[k] = -1;
      if (row >= rows) continue;
      target[k] = to ? to[row] : row;
      value[k] = x[(from ? from[row] : row) * ldx + piece];
    }
#pragma unroll
    for (int k = 0; k < kRowsInFlight; ++k) {
      if (target[k] >= 0) out[target[k] * ldout + piece] = value[k];
    }
  }
}

template <typename T, int V>
__global__ void __launch_bounds__(kThreads)
    add_rows_kernel(int64_t rows, int64_t pieces, const T* x, int64_t ldx, T* y, int64_t ldy) {
  const int64_t first = int64_t{blockIdx.x} * kRowsInFlight * blockDim.y + threadIdx.y;
  const int64_t stride = int64_t{gridDim.y} * blockDim.x;
  for (int64_t piece = int64_t{blockIdx.y} * blockDim.x + threadIdx.x; piece < pieces; piece += stride) {
#pragma unroll
    for (int k = 0; k < kRowsInFlight; ++k) {
      const int64_t row = first + k * int64_t{blockDim.y};
      if (row >= rows) continue;
      float value[V];
      load_values<V>(x + row * ldx + piece * V, value);
      put_values<V>(y + row * ldy + piece * V, value, true);
    }
  }
}

template <typename Piece>
void copy_pieces(Context& context, int64_t rows, int64_t bytes, const int32_t* from, const int32_t* to,
                 const void* x, int64_t x_bytes, void* out, int64_t out_bytes) {
  constexpr int64_t kSize = sizeof(Piece);
  const RowTiles tiles = row_tiles(rows, bytes / kSize);
  launch(copy_rows_kernel<Piece>, tiles.grid, tiles.block, 0, context.stream, rows, bytes / kSize, from, to,
         static_cast<const Piece*>(x), x_bytes / kSize, static_cast<Piece*>(out), out_bytes / kSize);
}

// ---- one warp a row ----

// This thread's row and lane; V columns a lane and step.
struct WarpRow {
  int64_t row;
  int lane;
};
__device__ __forceinline__ WarpRow warp_row() {
  return {int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp, static_cast<int>(threadIdx.x) % kWarp};
}
unsigned blocks_of_rows(int64_t rows) {
  return static_cast<unsigned>(divide_up(rows, kWarps));
}

template <int V>
__device__ __forceinline__ float dot_of_rows(const float* a, const float* b, int64_t cols, int lane) {
  float sum[V] = {};
#pragma unroll 4
  for (int64_t column = int64_t{lane} * V; column < cols; column += kWarp * V) {
    float x[V], y[V];
    load_values<V>(a + column, x);
    load_values<V>(b + column, y);
#pragma unroll
    for (int j = 0; j < V; ++j) sum[j] += x[j] * y[j];
  }
  float total = 0.0f;
#pragma unroll
  for (int j = 0; j < V; ++j) total += sum[j];
  return warp_sum(total);
}

template <int V>
__global__ void __launch_bounds__(kThreads)
    row_dot_kernel(int64_t rows, int64_t cols, const float* a, const float* b, float scale, float* out) {
  const auto [row, lane] = warp_row();
  if (row >= rows) return;
  const float dot = dot_of_rows<V>(a + row * cols, b + row * cols, cols, lane);
  if (lane == 0) out[row] = scale * dot;
}

template <int V>
__device__ __forceinline__ void scale_row(const float* from, float factor, float* to, int64_t cols, int lane,
                                          bool accumulate) {
#pragma unroll 4
  for (int64_t column = int64_t{lane} * V; column < cols; column += kWarp * V) {
    float x[V];
    load_values<V>(from + column, x);
#pragma unroll
    for (int j = 0; j < V; ++j) x[j] *= factor;
    put_values<V>(to + column, x, accumulate);
  }
}

template <int V>
__global__ void __launch_bounds__(kThreads) row_dot_backward_kernel(allmrec_row_dot_backward_args p) {
  const auto [row, lane] = warp_row();
  if (row >= p.rows) return;
  const float g = p.scale * p.g[row];
  const int64_t at = row * p.cols;
  if (p.da) scale_row<V>(p.b + at, g, p.da + at, p.cols, lane, p.accumulate_a != 0);
  if (p.db) scale_row<V>(p.a + at, g, p.db + at, p.cols, lane, p.accumulate_b != 0);
}

template <int V>
__global__ void __launch_bounds__(kThreads)
    l2_normalize_kernel(int64_t rows, int64_t cols, const float* x, float eps, float* y, float* norm) {
  const auto [row, lane] = warp_row();
  if (row >= rows) return;
  x += row * cols;
  const float length = sqrtf(dot_of_rows<V>(x, x, cols, lane));
  const float divisor = length < eps ? eps : length;  // NaN stays
  scale_row<V>(x, 1.0f / divisor, y + row * cols, cols, lane, false);
  if (norm && lane == 0) norm[row] = divisor;
}

template <int V>
__global__ void __launch_bounds__(kThreads)
    l2_normalize_backward_kernel(int64_t rows, int64_t cols, const float* dy, const float* y,
                                 const float* norm, float* dx, bool accumulate) {
  const auto [row, lane] = warp_row();
  if (row >= rows) return;
  dy += row * cols;
  y += row * cols;
  const float along = dot_of_rows<V>(dy, y, cols, lane), inverse = 1.0f / norm[row];
#pragma unroll 4
  for (int64_t column = int64_t{lane} * V; column < cols; column += kWarp * V) {
    float d[V], y_j[V];
    load_values<V>(dy + column, d);
    load_values<V>(y + column, y_j);
#pragma unroll
    for (int j = 0; j < V; ++j) d[j] = (d[j] - y_j[j] * along) * inverse;
    put_values<V>(dx + row * cols + column, d, accumulate);
  }
}

// Calls fn<4> where every row can be read in vectors, else fn<1>.
template <typename Fn>
void by_alignment(int64_t cols, bool aligned, Fn&& fn) {
  if (cols % 4 == 0 && aligned)
    fn(std::integral_constant<int, 4>{});
  else
    fn(std::integral_constant<int, 1>{});
}

// ---- segments ----

template <typename T, int V>
__global__ void __launch_bounds__(kThreads)
    segment_mean_kernel(int64_t tiles, int64_t cols, const int32_t* offsets, const T* x, T* out,
                        bool accumulate) {
  __shared__ float sums[kWarps][kWarp * V];
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t segment = blockIdx.x / tiles, tile = (blockIdx.x % tiles) * kWarp * V;
  const int64_t column = tile + lane * V;
  const int64_t begin = offsets[segment], end = offsets[segment + 1];
  float sum[V] = {};
  if (column < cols) {
#pragma unroll 4
    for (int64_t row = begin + warp; row < end; row += kWarps) {
      float value[V];
      load_values<V>(x + row * cols + column, value);
#pragma unroll
      for (int j = 0; j < V; ++j) sum[j] += value[j];
    }
  }
#pragma unroll
  for (int j = 0; j < V; ++j) sums[warp][lane * V + j] = sum[j];
  __syncthreads();
  if (warp > 0 || column >= cols) return;
  const float inverse = end > begin ? 1.0f / static_cast<float>(end - begin) : 0.0f;
#pragma unroll
  for (int j = 0; j < V; ++j) {
    for (int other = 1; other < kWarps; ++other) sum[j] += sums[other][lane * V + j];
    sum[j] *= inverse;
  }
  put_values<V>(out + segment * cols + column, sum, accumulate);
}

template <typename T, int V>
__global__ void __launch_bounds__(kThreads)
    segment_mean_backward_kernel(int64_t tiles, int64_t cols, const int32_t* offsets, const T* dy, T* dx,
                                 bool accumulate) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t segment = blockIdx.x / tiles;
  const int64_t column = (blockIdx.x % tiles) * kWarp * V + lane * V;
  const int64_t begin = offsets[segment], end = offsets[segment + 1];
  if (column >= cols || begin >= end) return;
  float d[V];
  load_values<V>(dy + segment * cols + column, d);
  const float inverse = 1.0f / static_cast<float>(end - begin);
#pragma unroll
  for (int j = 0; j < V; ++j) d[j] *= inverse;
#pragma unroll 4
  for (int64_t row = begin + warp; row < end; row += kWarps) {
    float value[V];
#pragma unroll
    for (int j = 0; j < V; ++j) value[j] = d[j];
    put_values<V>(dx + row * cols + column, value, accumulate);
  }
}

// fn(T, V): V a whole vector where x and out allow it.
template <typename Fn>
void by_storage_and_alignment(const allmrec_segment_mean_args& a, Fn&& fn) {
  by_storage(a.dtype, [&](auto zero) {
    constexpr int kSize = Vector<decltype(zero)>::size;
    if (a.cols % kSize == 0 && aligned_16(a.x) && aligned_16(a.out))
      fn(zero, std::integral_constant<int, kSize>{});
    else
      fn(zero, std::integral_constant<int, 1>{});
  });
}

}  // namespace

void copy_rows(Context& context, size_t element, int64_t rows, int64_t cols, const int32_t* from,
               const int32_t* to, const void* x, int64_t ldx, void* out, int64_t ldout) {
  const int64_t size = static_cast<int64_t>(element);
  const int64_t bytes = cols * size, x_bytes = ldx * size, out_bytes = ldout * size;
  const uint64_t bits = static_cast<uint64_t>(bytes) | static_cast<uint64_t>(x_bytes) |
                        static_cast<uint64_t>(out_bytes) | reinterpret_cast<uintptr_t>(x) |
                        reinterpret_cast<uintptr_t>(out);
  if (bytes == 0) return;
  const auto copy = [&](auto piece) {
    copy_pieces<decltype(piece)>(context, rows, bytes, from, to, x, x_bytes, out, out_bytes);
  };
  if (bits % 16 == 0)
    copy(uint4{});
  else if (bits % 8 == 0)
    copy(uint2{});
  else if (bits % 4 == 0)
    copy(uint32_t{});
  else
    copy(uint16_t{});
}

void add_rows(Context& context, int32_t dtype, int64_t rows, int64_t cols, const void* x, int64_t ldx,
              void* y, int64_t ldy) {
  if (cols == 0) return;
  by_storage(dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int kSize = Vector<T>::size;
    const auto add = [&](auto v) {
      const RowTiles tiles = row_tiles(rows, cols / v());
      launch(add_rows_kernel<T, decltype(v)::value>, tiles.grid, tiles.block, 0, context.stream, rows,
             cols / v(), static_cast<const T*>(x), ldx, static_cast<T*>(y), ldy);
    };
    if (cols % kSize == 0 && ldx % kSize == 0 && ldy % kSize == 0 && aligned_16(x) && aligned_16(y))
      add(std::integral_constant<int, kSize>{});
    else
      add(std::integral_constant<int, 1>{});
  });
}

void gather_rows(Context& context, const allmrec_rows_args& a) {
  copy_rows(context, a.dtype == ALLMREC_F32 ? 4 : 2, a.count, a.cols, a.rows, nullptr, a.x, a.ldx, a.out,
            a.ldout);
}

void put_rows(Context& context, const allmrec_rows_args& a) {
  copy_rows(context, a.dtype == ALLMREC_F32 ? 4 : 2, a.count, a.cols, nullptr, a.rows, a.x, a.ldx, a.out,
            a.ldout);
}

void scatter_add_rows(Context& context, const allmrec_rows_args& a) {
  ScatterAdd scatter = {};
  scatter.count = a.count;
  scatter.cols = a.cols;
  scatter.x = a.x;
  scatter.x_dtype = scatter.out_dtype = a.dtype;
  scatter.ldx = a.ldx;
  scatter.ldout = a.ldout;
  scatter.dropout.scale = 1.0f;
  scatter.jobs[0] = {a.rows, a.out, nullptr, 1.0f};
  scatter.num_jobs = 1;
  scatter_add(context, scatter);
}

void segment_mean(Context& context, const allmrec_segment_mean_args& a) {
  if (a.cols == 0) return;
  by_storage_and_alignment(a, [&](auto zero, auto v) {
    using T = decltype(zero);
    const int64_t tiles = divide_up(a.cols, kWarp * v());
    launch(segment_mean_kernel<T, decltype(v)::value>, static_cast<unsigned>(a.segments * tiles), kThreads, 0,
           context.stream, tiles, a.cols, a.offsets, static_cast<const T*>(a.x), static_cast<T*>(a.out),
           a.accumulate != 0);
  });
}

void segment_mean_backward(Context& context, const allmrec_segment_mean_args& a) {
  if (a.cols == 0) return;
  by_storage_and_alignment(a, [&](auto zero, auto v) {
    using T = decltype(zero);
    const int64_t tiles = divide_up(a.cols, kWarp * v());
    launch(segment_mean_backward_kernel<T, decltype(v)::value>, static_cast<unsigned>(a.segments * tiles),
           kThreads, 0, context.stream, tiles, a.cols, a.offsets, static_cast<const T*>(a.x),
           static_cast<T*>(a.out), a.accumulate != 0);
  });
}

void row_dot(Context& context, const allmrec_row_dot_args& a) {
  by_alignment(a.cols, aligned_16(a.a) && aligned_16(a.b), [&](auto v) {
    launch(row_dot_kernel<decltype(v)::value>, blocks_of_rows(a.rows), kThreads, 0, context.stream, a.rows,
           a.cols, a.a, a.b, a.scale, a.out);
  });
}

void row_dot_backward(Context& context, const allmrec_row_dot_backward_args& a) {
  const bool aligned = aligned_16(a.a) && aligned_16(a.b) && aligned_16(a.da) && aligned_16(a.db);
  by_alignment(a.cols, aligned, [&](auto v) {
    launch(row_dot_backward_kernel<decltype(v)::value>, blocks_of_rows(a.rows), kThreads, 0, context.stream,
           a);
  });
}

void l2_normalize(Context& context, const allmrec_l2_normalize_args& a) {
  by_alignment(a.cols, aligned_16(a.x) && aligned_16(a.y), [&](auto v) {
    launch(l2_normalize_kernel<decltype(v)::value>, blocks_of_rows(a.rows), kThreads, 0, context.stream,
           a.rows, a.cols, a.x, a.eps, a.y, a.norm);
  });
}

void l2_normalize_backward(Context& context, const allmrec_l2_normalize_backward_args& a) {
  const bool aligned = aligned_16(a.dy) && aligned_16(a.y) && aligned_16(a.dx);
  by_alignment(a.cols, aligned, [&](auto v) {
    launch(l2_normalize_backward_kernel<decltype(v)::value>, blocks_of_rows(a.rows), kThreads, 0,
           context.stream, a.rows, a.cols, a.dy, a.y, a.norm, a.dx, a.accumulate != 0);
  });
}

}  // namespace allmrec::cuda
