// The float32 matrix product, of all four orientations; B may be stored in halves.
//
// Bound: 4 bytes per operand element once, else float32 arithmetic (60 TFLOP/s on an H200, no matrix units:
// TF32 would round the operands to 11 bits). The recommenders' products are far below either bound: 6400 × 50
// × 50 is 32 MFLOP and 2.6 MB, a microsecond; the launch and the latency of a few steps are what they cost.
//
// - 256 threads; tiles of 128, 64 or 32 outputs a side, so that small products still occupy many
//   multiprocessors; a thread holds 8 × 8, 4 × 4 or 2 × 2 sums in registers.
// - Both operands lie in shared memory with k outermost, twice: while one pair of tiles is multiplied, the next
//   comes into registers and goes to the other buffer; one barrier a step.
// - Loads run along whichever dimension is contiguous, 16 bytes at once where alignment allows.
// - A warp is 4 × 8 threads: its reads of a column of A and a row of B are 16-byte vectors without conflicts.
// - Gradients of small weights (m, n of 50, k of thousands) are split along k; the parts are added in order by
//   a second launch, so results repeat bit by bit.
//
// Not yet measured on hardware.

#include "gemm_kernels.h"

namespace allmrec::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kDepth = 16;

// Rates: fp32 units at 60 % with 64 products a loaded pair of vectors, falling with the sums a thread holds.
const GemmTile kTiles[] = {{128, 128, kDepth, 2, 0.30, 0.8},
                           {64, 64, kDepth, 4, 0.18, 0.5},
                           {32, 32, kDepth, 8, 0.07, 0.4}};

// How the threads of a block share a tile of Tile rows (of m or n) × kDepth.
enum Order { kAlongK, kAlongRows, kAlongKVector, kAlongRowsVector };

// The place of a thread's i-th element.
template <int Tile, int O>
__device__ __forceinline__ void place_of(int i, int& row, int& k) {
  const int thread = static_cast<int>(threadIdx.x);
  if (O == kAlongK) {
    k = thread % kDepth;
    row = thread / kDepth + kThreads / kDepth * i;
  } else if (O == kAlongRows) {
    row = thread % Tile;
    k = thread / Tile + kThreads / Tile * i;
  } else if (O == kAlongKVector) {
    k = thread % (kDepth / 4) * 4 + i % 4;
    row = thread / (kDepth / 4) + kThreads / (kDepth / 4) * (i / 4);
  } else {
    row = thread % (Tile / 4) * 4 + i % 4;
    k = thread / (Tile / 4) + kThreads / (Tile / 4) * (i / 4);
  }
}

// A thread's share of the tile that begins at row0, k0; zeros outside.
template <int Tile, int O, typename S>
__device__ __forceinline__ void load_share(float (&share)[Tile / 16], const S* x, int64_t ld, int64_t row0,
                                           int64_t rows, int64_t k0, int64_t k_end) {
  constexpr bool kVector = O == kAlongKVector || O == kAlongRowsVector;
  constexpr bool kRows = O == kAlongRows || O == kAlongRowsVector;
#pragma unroll
  for (int i = 0; i < Tile / 16; i += kVector ? 4 : 1) {
    int row, k;
    place_of<Tile, O>(i, row, k);
    const bool inside = row0 + row < rows && k0 + k < k_end;
    const S* from = x + (kRows ? (k0 + k) * ld + row0 + row : (row0 + row) * ld + k0 + k);
    if constexpr (kVector) {
      const Neighbours<float, 4> v =
          inside ? *reinterpret_cast<const Neighbours<float, 4>*>(from) : Neighbours<float, 4>{};
#pragma unroll
      for (int j = 0; j < 4; ++j) share[i + j] = v.value[j];
    } else {
      share[i] = inside ? to_float(*from) : 0.0f;
    }
  }
}

template <int Tile, int O>
__device__ __forceinline__ void keep_share(const float (&share)[Tile / 16], float (*tile)[Tile + 4]) {
#pragma unroll
  for (int i = 0; i < Tile / 16; ++i) {
    int row, k;
    place_of<Tile, O>(i, row, k);
    tile[k][row] = share[i];
  }
}

template <int Tile, typename S>
__device__ __forceinline__ void load_share(int order, float (&share)[Tile / 16], const S* x, int64_t ld,
                                           int64_t row0, int64_t rows, int64_t k0, int64_t k_end) {
  if constexpr (Tile >= 64 && sizeof(S) == 4) {
    if (order == kAlongKVector) return load_share<Tile, kAlongKVector>(share, x, ld, row0, rows, k0, k_end);
    if (order == kAlongRowsVector)
      return load_share<Tile, kAlongRowsVector>(share, x, ld, row0, rows, k0, k_end);
  }
  if (order == kAlongK) return load_share<Tile, kAlongK>(share, x, ld, row0, rows, k0, k_end);
  load_share<Tile, kAlongRows>(share, x, ld, row0, rows, k0, k_end);
}

template <int Tile, typename S>
__device__ __forceinline__ void keep_share(int order, const float (&share)[Tile / 16], float (*tile)[Tile + 4]) {
  if constexpr (Tile >= 64 && sizeof(S) == 4) {
    if (order == kAlongKVector) return keep_share<Tile, kAlongKVector>(share, tile);
    if (order == kAlongRowsVector) return keep_share<Tile, kAlongRowsVector>(share, tile);
  }
  if (order == kAlongK) return keep_share<Tile, kAlongK>(share, tile);
  keep_share<Tile, kAlongRows>(share, tile);
}

__device__ __forceinline__ int order_of(bool along_rows, bool vector) {
  return vector ? (along_rows ? kAlongRowsVector : kAlongKVector) : (along_rows ? kAlongRows : kAlongK);
}

template <int Tile, typename B>
__global__ void __launch_bounds__(kThreads, Tile == 128 ? 2 : 1)
    gemm_float_kernel(GemmOperands<float, B> p, GemmEpilogue e) {
  constexpr int kSums = Tile / 16;                 // a side, of one thread
  constexpr int kWidth = kSums < 4 ? kSums : 4;    // neighbours among them
  constexpr int kGroups = kSums / kWidth;
  __shared__ __align__(16) float tile_a[2][kDepth][Tile + 4];
  __shared__ __align__(16) float tile_b[2][kDepth][Tile + 4];
  int tile_m, tile_n;
  tile_at(static_cast<int>(blockIdx.x), p.tiles_m, p.tiles_n, tile_m, tile_n);
  const int64_t m0 = int64_t{tile_m} * Tile, n0 = int64_t{tile_n} * Tile;
  const int64_t k_begin = int64_t{blockIdx.y} * p.k_part, k_end = min(p.k, k_begin + p.k_part);
  constexpr bool kVectors = Tile >= 64;
  const int order_a = order_of(p.trans_a, p.vector_a && kVectors);
  const int order_b = order_of(!p.trans_b, p.vector_b && kVectors && sizeof(B) == 4);

  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int row = (warp / 2 * 4 + lane / 8) * kWidth, col = (warp % 2 * 8 + lane % 8) * kWidth;
  float sum[kSums][kSums] = {};
  float share_a[kSums], share_b[kSums];
  const auto load = [&](int64_t k0) {
    load_share<Tile>(order_a, share_a, p.a, p.lda, m0, e.m, k0, k_end);
    load_share<Tile>(order_b, share_b, p.b, p.ldb, n0, e.n, k0, k_end);
  };
  const auto keep = [&](int buffer) {
    keep_share<Tile, float>(order_a, share_a, tile_a[buffer]);
    keep_share<Tile, B>(order_b, share_b, tile_b[buffer]);
  };
  if (k_begin < k_end) {
    load(k_begin);
    keep(0);
    __syncthreads();
  }
  int buffer = 0;
  for (int64_t k0 = k_begin; k0 < k_end; k0 += kDepth) {
    const bool more = k0 + kDepth < k_end;
    if (more) load(k0 + kDepth);
#pragma unroll
    for (int k = 0; k < kDepth; ++k) {
      Neighbours<float, kWidth> a[kGroups], b[kGroups];
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        a[g] = *reinterpret_cast<const Neighbours<float, kWidth>*>(&tile_a[buffer][k][row + g * 16 * kWidth]);
        b[g] = *reinterpret_cast<const Neighbours<float, kWidth>*>(&tile_b[buffer][k][col + g * 16 * kWidth]);
      }
#pragma unroll
      for (int i = 0; i < kSums; ++i) {
#pragma unroll
        for (int j = 0; j < kSums; ++j)
          sum[i][j] += a[i / kWidth].value[i % kWidth] * b[j / kWidth].value[j % kWidth];
      }
    }
    if (more) {
      buffer ^= 1;
      keep(buffer);
      __syncthreads();
    }
  }

  e.c = static_cast<float*>(e.c) + blockIdx.y * e.part_stride;
#pragma unroll
  for (int i = 0; i < kSums; ++i) {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      float out[kWidth];
#pragma unroll
      for (int j = 0; j < kWidth; ++j) out[j] = sum[i][g * kWidth + j];
      store_sums<float, kWidth>(e, m0 + row + i / kWidth * 16 * kWidth + i % kWidth, n0 + col + g * 16 * kWidth, out);
    }
  }
}

constexpr int kReduceRows = 8;

// 32 outputs a block; eight warps each add every eighth part, then their sums are added in order.
template <typename C>
__global__ void __launch_bounds__(kWarp* kReduceRows)
    gemm_reduce_kernel(const float* parts, int splits, GemmEpilogue e) {
  __shared__ float sums[kReduceRows][kWarp];
  const int64_t outputs = e.m * e.n;
  const int64_t output = int64_t{blockIdx.x} * kWarp + threadIdx.x;
  float sum = 0.0f;
  if (output < outputs) {
#pragma unroll 4
    for (int s = static_cast<int>(threadIdx.y); s < splits; s += kReduceRows) sum += parts[s * outputs + output];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || output >= outputs) return;
  float total[1] = {0.0f};
#pragma unroll
  for (int s = 0; s < kReduceRows; ++s) total[0] += sums[s][threadIdx.x];
  store_sums<C, 1>(e, output / e.n, output % e.n, total);
}

template <int Tile, typename B>
void run(Context& context, const allmrec_gemm_args& g, const GemmPlan& plan) {
  GemmLaunch parts(context, g, plan);
  launch(gemm_float_kernel<Tile, B>, parts.grid(), dim3(kThreads), 0, context.stream,
         operands_of<float, B>(g, plan), parts.kernel);
  parts.finish();
}

}  // namespace

void gemm_reduce(Context& context, const float* parts, int splits, const GemmEpilogue& e, int32_t c_dtype) {
  by_storage(c_dtype, [&](auto zero) {
    using C = decltype(zero);
    launch(gemm_reduce_kernel<C>, dim3(static_cast<unsigned>(divide_up(e.m * e.n, kWarp))),
           dim3(kWarp, kReduceRows), 0, context.stream, parts, splits, e);
  });
}

void gemm_float(Context& context, const allmrec_gemm_args& g) {
  if (g.b_dtype != ALLMREC_F32) {
    const GemmPlan plan = plan_gemm(kTiles + 1, 1, g.m, g.n, g.k, context.sm_count);
    return g.b_dtype == ALLMREC_F16 ? run<64, __half>(context, g, plan)
                                    : run<64, __nv_bfloat16>(context, g, plan);
  }
  const GemmPlan plan = plan_gemm(kTiles, 3, g.m, g.n, g.k, context.sm_count);
  if (plan.tile == 0) return run<128, float>(context, g, plan);
  if (plan.tile == 1) return run<64, float>(context, g, plan);
  run<32, float>(context, g, plan);
}

}  // namespace allmrec::cuda
