// The matrix product of halves (F16 or BF16, float32 sums) on the matrix units: the language model's layers,
// and their gradients, wherever cuBLASLt does not do them.
//
// Bound: above about 200 rows the matrix units (790 TFLOP/s on an H200, with instructions mma.sync
// does not have; mma.sync itself ends near 60 % of that), below it 2 bytes per weight (4.3 TB/s).
//
// - mma m16n8k16 on tiles of 128 × 256, 128 × 128 or 64 × 64 outputs, depth 32; plan_gemm chooses. What
// limits it from
//   below is the L2 cache: one step of a 128 × 128 tile reads 16 KB for 0.5 M multiply-adds, at 5.6 TB/s that
//   is 360 TFLOP/s; 128 × 256 allows 480; 64 × 64 180, enough where weights come from memory anyway.
// - A warp holds 64 × 64 sums (32 × 32 in the small tile): per 16 of k it reads 4 KB of shared memory for 64
// K
//   multiply-adds, half of what the 64 × 32 warp tile would need.
// - Four stages of cp.async; one barrier a step, passed before the step's second half is multiplied, so that
//   the next step's first fragments are on their way while the matrix units work.
// - Shared memory is swizzled (gemm_mma.h), nothing is padded; ldmatrix.trans reads the operands that lie
//   across k, so dX = dY · W and dW = dYᵀ · X need no transposed copies. dW has no large tile: its few
//   addresses more do not fit into the registers, and its outputs, a weight's shape, are few and split along
//   k anyway.
// - Blocks are numbered in groups of eight tile rows, so that those under way share their operands in L2.
// - Bias, residual, ReLU, accumulation and rounding happen in registers.
// - Few tiles and long k (up to 64 rows; gradients of small weights) are split along k; parts are added in
//   order.
// - What cannot be loaded 16 bytes at a time (odd row lengths, Aᵀ · Bᵀ) and float32 weights of up to 128 rows
//   go through registers element by element, rounded on the way, in a simpler 64 × 64 kernel.
//
// Not yet measured on hardware.

#include <type_traits>

#include "gemm_mma.h"

namespace allmrec::cuda {

namespace {

// mma.sync's 480 TFLOP/s over 132 multiprocessors; a step waits at least a third of L2's latency.
const GemmTile kTiles[] = {{128, 256, kMmaDepth, 1, 2, 2, 3.6, 0.25},
                           {128, 128, kMmaDepth, 2, 2, 2, 3.6, 0.2},
                           {64, 64, kMmaDepth, 4, 2, 2, 3.6, 0.15}};
const GemmTile kElementTile = {64, 64, kMmaDepth, 2, 2, 4, 0.5, 0.8};

// The tile of M × N outputs; Warps down and across it.
template <int M, int N, int WarpsDown, int WarpsAcross>
struct Shape {
  static constexpr int kM = M, kN = N, kDown = WarpsDown;
  static constexpr int kThreads = WarpsDown * WarpsAcross * kWarp;
  static constexpr int kStages = 4;
  static constexpr int kBlocks = M * N >= 128 * 256 ? 1 : M * N >= 128 * 128 ? 2 : 4;  // on a multiprocessor
  static constexpr int kRows = M / WarpsDown, kCols = N / WarpsAcross;                 // of a warp
  static constexpr size_t kShared = size_t{2} * kStages * (M + N) * kMmaDepth;
};
using Large = Shape<128, 256, 2, 4>;
using Medium = Shape<128, 128, 2, 2>;
using Small = Shape<64, 64, 2, 2>;

template <typename T, typename S, bool TransA, bool TransB>
__global__ void __launch_bounds__(S::kThreads, S::kBlocks)
    gemm_half_kernel(GemmOperands<T, T> p, GemmEpilogue e) {
  using TileA = MmaTile<T, S::kM, !TransA>;
  using TileB = MmaTile<T, S::kN, TransB>;
  constexpr int kStages = S::kStages, kRowFragments = S::kRows / 16, kColFragments = S::kCols / 8;
  T* tiles_a = static_cast<T*>(dynamic_shared());
  T* tiles_b = tiles_a + kStages * TileA::kElements;
  int tile_m, tile_n;
  tile_at(static_cast<int>(blockIdx.x), p.tiles_m, p.tiles_n, tile_m, tile_n);
  const int64_t m0 = int64_t{tile_m} * S::kM, n0 = int64_t{tile_n} * S::kN;
  const int64_t k_begin = int64_t{blockIdx.y} * p.k_part, k_end = min(p.k, k_begin + p.k_part);
  const int steps = static_cast<int>((max(k_end - k_begin, int64_t{0}) + kMmaDepth - 1) / kMmaDepth);
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int row0 = warp % S::kDown * S::kRows, col0 = warp / S::kDown * S::kCols;

  MmaLoader<T, S::kM, !TransA, S::kThreads> loader_a(p.a, p.lda, m0, e.m, k_begin, k_end);
  MmaLoader<T, S::kN, TransB, S::kThreads> loader_b(p.b, p.ldb, n0, e.n, k_begin, k_end);
  const auto load = [&](int step) {
    if (step < steps) {
      loader_a.load(tiles_a + step % kStages * TileA::kElements, p.a);
      loader_b.load(tiles_b + step % kStages * TileB::kElements, p.b);
    }
    cp_async_commit();  // even when empty: the waits count groups
  };
#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) load(s);

  float sum[kRowFragments][kColFragments][4] = {};
  uint32_t a[2][kRowFragments][4], b[2][kColFragments][2];
  const auto fetch = [&](int half, int step) {
    TileA::load_a(a[half], tiles_a + step % kStages * TileA::kElements, row0, half, lane);
    TileB::load_b(b[half], tiles_b + step % kStages * TileB::kElements, col0, half, lane);
  };
  if (steps > 0) {
    cp_async_wait<kStages - 2>();
    __syncthreads();
    fetch(0, 0);
  }
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    fetch(1, step);
    load(step + kStages - 1);  // into the stage that all warps left at the last barrier
    multiply<T>(sum, a[0], b[0]);
    if (step + 1 < steps) {
      cp_async_wait<kStages - 2>();
      __syncthreads();
      fetch(0, step + 1);
    }
    multiply<T>(sum, a[1], b[1]);
  }
  static_assert(kStoreBytes<S::kThreads / kWarp, S::kCols> <= S::kShared, "the sums' way out fits");
  __syncthreads();
  float* staging = static_cast<float*>(dynamic_shared()) + warp * 16 * (S::kCols + 8);
  store_fragments<T>(e, sum, m0 + row0, n0 + col0, lane, staging);
}

constexpr int kElementThreads = 256;
constexpr int kElementShare = 64 * kMmaDepth / kElementThreads;

template <typename T>
using ElementTile = MmaTile<T, 64, true, true>;

// Brings tiles of 64 × 32 through registers, one element at a time, along whichever dimension is contiguous.
template <typename T, typename S>
struct ElementLoader {
  const S* next;
  int64_t ld, advance;
  int step, outer_left, inner_left;
  bool along;  // k

  __device__ __forceinline__ ElementLoader(const S* x, int64_t row_distance, bool along_k, int64_t row0,
                                           int64_t rows, int64_t k_begin, int64_t k_end)
      : ld(row_distance), along(along_k) {
    const int thread = static_cast<int>(threadIdx.x), width = along_k ? kMmaDepth : 64;
    const int outer = thread / width, inner = thread % width;
    const int rows_left = static_cast<int>(min(rows - row0, int64_t{64}));
    const int k_left = static_cast<int>(k_end - k_begin);
    next = x + (along_k ? (row0 + outer) * ld + k_begin + inner : (k_begin + outer) * ld + row0 + inner);
    advance = along_k ? kMmaDepth : kMmaDepth * ld;
    step = kElementThreads / width;
    outer_left = (along_k ? rows_left : k_left) - outer;
    inner_left = (along_k ? k_left : rows_left) - inner;
  }

  __device__ __forceinline__ void load(T (&share)[kElementShare]) {
#pragma unroll
    for (int i = 0; i < kElementShare; ++i) {
      const bool inside = i * step < outer_left && inner_left > 0;
      share[i] = from_float<T>(inside ? to_float(next[i * step * ld]) : 0.0f);
    }
    next += advance;
    (along ? inner_left : outer_left) -= kMmaDepth;
  }
  // The tile lies along k, whatever the matrix does.
  __device__ __forceinline__ void keep(const T (&share)[kElementShare], T* tile) const {
    const int thread = static_cast<int>(threadIdx.x);
    T* to = tile + (along ? thread / kMmaDepth * ElementTile<T>::kRow + thread % kMmaDepth
                          : thread % 64 * ElementTile<T>::kRow + thread / 64);
#pragma unroll
    for (int i = 0; i < kElementShare; ++i) to[i * (along ? step * ElementTile<T>::kRow : step)] = share[i];
  }
};

template <typename T, typename B>
__global__ void __launch_bounds__(kElementThreads, 2)
    gemm_half_elements_kernel(GemmOperands<T, B> p, GemmEpilogue e) {
  using Tile = ElementTile<T>;
  __shared__ __align__(16) T tiles[2][2][Tile::kElements];  // buffer, operand
  int tile_m, tile_n;
  tile_at(static_cast<int>(blockIdx.x), p.tiles_m, p.tiles_n, tile_m, tile_n);
  const int64_t m0 = int64_t{tile_m} * 64, n0 = int64_t{tile_n} * 64;
  const int64_t k_begin = int64_t{blockIdx.y} * p.k_part, k_end = min(p.k, k_begin + p.k_part);
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int row0 = warp % 2 * 32, col0 = warp / 2 * 16;

  ElementLoader<T, T> loader_a(p.a, p.lda, !p.trans_a, m0, e.m, k_begin, k_end);
  ElementLoader<T, B> loader_b(p.b, p.ldb, p.trans_b, n0, e.n, k_begin, k_end);
  T share_a[kElementShare], share_b[kElementShare];
  const auto load = [&] {
    loader_a.load(share_a);
    loader_b.load(share_b);
  };
  const auto keep = [&](int buffer) {
    loader_a.keep(share_a, tiles[buffer][0]);
    loader_b.keep(share_b, tiles[buffer][1]);
  };
  float sum[2][2][4] = {};
  if (k_begin < k_end) {
    load();
    keep(0);
    __syncthreads();
  }
  int buffer = 0;
  for (int64_t k0 = k_begin; k0 < k_end; k0 += kMmaDepth) {
    const bool more = k0 + kMmaDepth < k_end;
    if (more) load();
    multiply_tiles<T, Tile, Tile>(sum, tiles[buffer][0], tiles[buffer][1], row0, col0, lane);
    if (more) {
      buffer ^= 1;
      keep(buffer);
      __syncthreads();
    }
  }
  static_assert(kStoreBytes<kElementThreads / kWarp, 16> <= sizeof tiles, "the sums' way out fits");
  __syncthreads();
  float* staging = reinterpret_cast<float*>(tiles) + warp * 16 * (16 + 8);
  store_fragments<T>(e, sum, m0 + row0, n0 + col0, lane, staging);
}

template <typename T, typename S>
void run(Context& context, const allmrec_gemm_args& g, const GemmPlan& plan) {
  GemmLaunch parts(context, g, plan);
  const GemmOperands<T, T> p = operands_of<T, T>(g, plan);
  auto kernel = g.trans_b ? gemm_half_kernel<T, S, false, true> : gemm_half_kernel<T, S, false, false>;
  if constexpr (!std::is_same_v<S, Large>) {
    if (g.trans_a) kernel = gemm_half_kernel<T, S, true, false>;
  }
  launch(kernel, parts.grid(), dim3(S::kThreads), S::kShared, context.stream, p, parts.kernel);
  parts.finish();
}

template <typename T, typename B>
void run_elements(Context& context, const allmrec_gemm_args& g) {
  const GemmPlan plan = plan_gemm(&kElementTile, 1, g.m, g.n, g.k, context.sm_count);
  GemmLaunch parts(context, g, plan);
  launch(gemm_half_elements_kernel<T, B>, parts.grid(), dim3(kElementThreads), 0, context.stream,
         operands_of<T, B>(g, plan), parts.kernel);
  parts.finish();
}

template <typename T>
void run_half(Context& context, const allmrec_gemm_args& g) {
  if (g.b_dtype == ALLMREC_F32) return run_elements<T, float>(context, g);
  const GemmOperands<T, T> p = operands_of<T, T>(g, {});
  if (!p.vector_a || !p.vector_b || (g.trans_a && g.trans_b)) return run_elements<T, T>(context, g);
  const int first = context.shared_per_block >= Large::kShared && !g.trans_a ? 0
                    : context.shared_per_block >= Medium::kShared            ? 1
                                                                             : 2;
  const int tile = first + plan_gemm(kTiles + first, 3 - first, g.m, g.n, g.k, context.sm_count).tile;
  const GemmPlan plan = plan_gemm(kTiles + tile, 1, g.m, g.n, g.k, context.sm_count);
  if (tile == 0) return run<T, Large>(context, g, plan);
  if (tile == 1) return run<T, Medium>(context, g, plan);
  run<T, Small>(context, g, plan);
}

}  // namespace

void gemm_half(Context& context, const allmrec_gemm_args& g) {
  g.a_dtype == ALLMREC_F16 ? run_half<__half>(context, g) : run_half<__nv_bfloat16>(context, g);
}

}  // namespace allmrec::cuda
