// spmm: a sparse matrix in rows (CSR) times a dense one (LightGCN's propagation).
//
// Bound by bytes: one row of x per edge, at random places. A group of 8, 16 or 32 lanes, as many as a row of
// x has 16-byte pieces, has one row of the output and keeps four edges in flight; edges are added in their
// order. A row of more than kLong edges (a popular item) would leave one group working long after all others:
// it is given to all groups of its block afterwards, a run of neighbouring edges each, whose sums are added
// in order: the result depends on the matrix alone. Expected 70 % of bandwidth; not yet measured on hardware.

#include "numeric.h"
#include "ops.h"

namespace allmrec::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kLong = 512;    // edges
constexpr int kInFlight = 4;  // edges

template <int Size>
struct Piece {
  float value[Size];
};

template <int Size>
__device__ __forceinline__ Piece<Size> load_piece(const float* p) {
  Piece<Size> piece;
  if constexpr (Size == 4) {
    const Vector<float> v = load_vector(p);
    for (int j = 0; j < 4; ++j) piece.value[j] = v.value[j];
  } else {
    piece.value[0] = *p;
  }
  return piece;
}

// Σ values[e] · x[columns[e]][column …] over the edges [begin, end).
template <int Size>
__device__ __forceinline__ Piece<Size> sum_edges(const allmrec_spmm_args& a, int begin, int end,
                                                 int64_t column) {
  Piece<Size> sum = {};
  for (int e = begin; e < end; e += kInFlight) {
    float value[kInFlight];
    Piece<Size> x[kInFlight];
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      if (e + u >= end) continue;
      value[u] = __ldg(a.values + e + u);
      x[u] = load_piece<Size>(a.x + __ldg(a.columns + e + u) * a.cols + column);
    }
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      if (e + u >= end) continue;
#pragma unroll
      for (int j = 0; j < Size; ++j) sum.value[j] = fmaf(value[u], x[u].value[j], sum.value[j]);
    }
  }
  return sum;
}

template <int Size>
__device__ __forceinline__ void put_piece(const allmrec_spmm_args& a, int64_t row, int64_t column,
                                          Piece<Size> sum) {
  float* out = a.out + row * a.cols + column;
  if (a.accumulate) {
    const Piece<Size> before = load_piece<Size>(out);
#pragma unroll
    for (int j = 0; j < Size; ++j) sum.value[j] += before.value[j];
  }
  if constexpr (Size == 4)
    store_vector(out, Vector<float>{{sum.value[0], sum.value[1], sum.value[2], sum.value[3]}});
  else
    *out = sum.value[0];
}

// Size: floats of a lane's piece.
template <int Lanes, int Size>
__global__ void __launch_bounds__(kThreads) spmm_kernel(const allmrec_spmm_args a) {
  constexpr int kGroups = kThreads / Lanes;
  __shared__ Piece<Size> partial[kThreads];
  const int group = static_cast<int>(threadIdx.x) / Lanes, lane = static_cast<int>(threadIdx.x) % Lanes;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kGroups;
  if (first + group < a.rows) {
    const int64_t row = first + group;
    const int begin = a.offsets[row], end = a.offsets[row + 1];
    if (end - begin <= kLong) {
      for (int64_t column = lane * Size; column < a.cols; column += Lanes * Size)
        put_piece(a, row, column, sum_edges<Size>(a, begin, end, column));
    }
  }
  for (int64_t row = first; row < first + kGroups && row < a.rows; ++row) {
    const int begin = a.offsets[row], end = a.offsets[row + 1];
    if (end - begin <= kLong) continue;
    const int run = (end - begin + kGroups - 1) / kGroups;
    const int from = begin + group * run, to = from + run < end ? from + run : end;
    for (int64_t base = 0; base < a.cols; base += Lanes * Size) {
      const int64_t column = base + lane * Size;
      if (column < a.cols) partial[threadIdx.x] = sum_edges<Size>(a, from, to, column);
      __syncthreads();
      if (group == 0 && column < a.cols) {
        Piece<Size> sum = partial[lane];
        for (int other = 1; other < kGroups; ++other) {
#pragma unroll
          for (int j = 0; j < Size; ++j) sum.value[j] += partial[other * Lanes + lane].value[j];
        }
        put_piece(a, row, column, sum);
      }
      __syncthreads();
    }
  }
}

template <int Lanes, int Size>
void run(Context& context, const allmrec_spmm_args& a) {
  launch(spmm_kernel<Lanes, Size>, static_cast<unsigned>(divide_up(a.rows, kThreads / Lanes)), kThreads, 0,
         context.stream, a);
}

}  // namespace

void spmm(Context& context, const allmrec_spmm_args& a) {
  if (a.rows == 0 || a.cols == 0) return;
  if (a.cols % 4 != 0 || !aligned_16(a.x) || !aligned_16(a.out))
    run<32, 1>(context, a);
  else if (a.cols <= 32)
    run<8, 4>(context, a);
  else if (a.cols <= 64)
    run<16, 4>(context, a);
  else
    run<32, 4>(context, a);
}

}  // namespace allmrec::cuda
