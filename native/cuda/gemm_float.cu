// The float32 matrix product, of all four orientations; B may be stored in halves.
//
// Bound: 4 bytes per operand element once, else float32 arithmetic (60 TFLOP/s on an H200, no matrix units:
// TF32 would round the operands to 11 bits). The recommenders' products are far below either bound: 6400 × 50
// × 50 is 32 MFLOP and 2.6 MB, a microsecond; the launch and the latency of a few steps are what they cost.
//
// - 256 threads; tiles of 128, 64 or 32 outputs a side, so that small products still occupy many
//   multiprocessors; a thread holds 8 × 8, 4 × 4 or 2 × 2 sums in registers.
// - Both operands lie in shared memory with k outermost, twice: while one pair of tiles is multiplied, the
// next
//   comes into registers and goes to the other buffer; one barrier a step.
// - Loads run along whichever dimension is contiguous, 16 bytes at once where alignment allows; the large
// tile
//   is for such operands only.
// - A warp is 4 × 8 threads: its reads of a column of A and a row of B are 16-byte vectors without conflicts.
// - Gradients of small weights (m, n of 50, k of thousands) are split along k; the parts are added in order
// by
//   a second launch, so results repeat bit by bit.
//
// Not yet measured on hardware.

#include "gemm_kernels.h"

namespace allmrec::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kDepth = 16, kLargeDepth = 8;

// Rates: fp32 units at 60 % with 64 products a loaded pair of vectors, falling with the sums a thread holds.
const GemmTile kTiles[] = {{128, 128, kLargeDepth, 2, 4, 4, 0.30, 0.5},
                           {64, 64, kDepth, 2, 4, 4, 0.18, 0.5},
                           {32, 32, kDepth, 2, 4, 4, 0.07, 0.4}};

// Brings one operand's tiles of Tile rows (of m or n) × Depth through registers to shared memory, k
// outermost. The threads run along the contiguous dimension, a vector or an element each, then to the next
// row of the matrix.
template <int Tile, int Depth, typename S>
struct FloatLoader {
  static constexpr int kShare = Tile * Depth / kThreads, kRow = Tile + 4;
  static constexpr bool kVectors = kShare % 4 == 0 && sizeof(S) == 4;
  static constexpr bool kElements = Tile < 128;  // may also be taken one by one
  const S* next;
  int64_t step_ld, advance;
  int step, outer_left, inner_left, place;
  bool along_k, vector;

  __device__ __forceinline__ FloatLoader(const S* x, int64_t ld, bool contiguous_k, bool vectors,
                                         int64_t row0, int64_t rows, int64_t k_begin, int64_t k_end)
      : along_k(contiguous_k), vector(kVectors && (vectors || !kElements)) {
    const int thread = static_cast<int>(threadIdx.x), each = vector ? 4 : 1;
    const int width = (along_k ? Depth : Tile) / each;  // threads to a row of the matrix
    const int outer = thread / width, inner = thread % width * each;
    const int rows_left = static_cast<int>(min(rows - row0, int64_t{Tile}));
    const int k_left = static_cast<int>(k_end - k_begin);
    next = x + (along_k ? (row0 + outer) * ld + k_begin + inner : (k_begin + outer) * ld + row0 + inner);
    advance = along_k ? Depth : Depth * ld;
    step = kThreads / width;
    step_ld = step * ld;
    outer_left = (along_k ? rows_left : k_left) - outer;
    inner_left = (along_k ? k_left : rows_left) - inner;
    place = along_k ? inner * kRow + outer : outer * kRow + inner;
  }

  __device__ __forceinline__ void load(float (&share)[kShare]) {
    if (kVectors && (vector || !kElements)) {
#pragma unroll
      for (int i = 0; i < kShare / 4; ++i) {
        Neighbours<float, 4> v = {};
        if (i * step < outer_left && inner_left > 0)
          v = *reinterpret_cast<const Neighbours<float, 4>*>(next + i * step_ld);
#pragma unroll
        for (int j = 0; j < 4; ++j) share[i * 4 + j] = v.value[j];
      }
    } else if (kElements) {
#pragma unroll
      for (int i = 0; i < kShare; ++i)
        share[i] = i * step < outer_left && inner_left > 0 ? to_float(next[i * step_ld]) : 0.0f;
    }
    next += advance;
    (along_k ? inner_left : outer_left) -= Depth;
  }

  __device__ __forceinline__ void keep(const float (&share)[kShare], float* tile) const {
    float* to = tile + place;
    const int stride = along_k ? step : step * kRow;
    if (kVectors && (vector || !kElements)) {
#pragma unroll
      for (int i = 0; i < kShare / 4; ++i) {
        if (along_k) {
#pragma unroll
          for (int j = 0; j < 4; ++j) to[i * stride + j * kRow] = share[i * 4 + j];
        } else {
          *reinterpret_cast<Neighbours<float, 4>*>(to + i * stride) = {share[i * 4], share[i * 4 + 1],
                                                                       share[i * 4 + 2], share[i * 4 + 3]};
        }
      }
    } else if (kElements) {
#pragma unroll
      for (int i = 0; i < kShare; ++i) to[i * stride] = share[i];
    }
  }
};

template <int Tile, typename B>
__global__ void __launch_bounds__(kThreads, Tile == 128 ? 2 : 1)
    gemm_float_kernel(GemmOperands<float, B> p, GemmEpilogue e) {
  constexpr int kDepthHere = Tile == 128 ? kLargeDepth : kDepth;
  [[maybe_unused]] constexpr int kUnrolled =
      Tile == 128 ? 2 : kDepthHere;              // more would need more than 128 registers
  constexpr int kSums = Tile / 16;               // a side, of one thread
  constexpr int kWidth = kSums < 4 ? kSums : 4;  // neighbours among them
  constexpr int kGroups = kSums / kWidth;
  using LoaderA = FloatLoader<Tile, kDepthHere, float>;
  using LoaderB = FloatLoader<Tile, kDepthHere, B>;
  constexpr int kRow = LoaderA::kRow;
  __shared__ __align__(16) float tile_a[2][kDepthHere * kRow];
  __shared__ __align__(16) float tile_b[2][kDepthHere * kRow];
  int tile_m, tile_n;
  tile_at(static_cast<int>(blockIdx.x), p.tiles_m, p.tiles_n, tile_m, tile_n);
  const int64_t m0 = int64_t{tile_m} * Tile, n0 = int64_t{tile_n} * Tile;
  const int64_t k_begin = int64_t{blockIdx.y} * p.k_part, k_end = min(p.k, k_begin + p.k_part);

  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int row = (warp / 2 * 4 + lane / 8) * kWidth, col = (warp % 2 * 8 + lane % 8) * kWidth;
  float sum[kSums][kSums] = {};
  LoaderA loader_a(p.a, p.lda, !p.trans_a, p.vector_a, m0, e.m, k_begin, k_end);
  LoaderB loader_b(p.b, p.ldb, p.trans_b, p.vector_b, n0, e.n, k_begin, k_end);
  float share_a[LoaderA::kShare], share_b[LoaderB::kShare];
  const auto load = [&] {
    loader_a.load(share_a);
    loader_b.load(share_b);
  };
  const auto keep = [&](int buffer) {
    loader_a.keep(share_a, tile_a[buffer]);
    loader_b.keep(share_b, tile_b[buffer]);
  };
  if (k_begin < k_end) {
    load();
    keep(0);
    __syncthreads();
  }
  int buffer = 0;
  for (int64_t k0 = k_begin; k0 < k_end; k0 += kDepthHere) {
    const bool more = k0 + kDepthHere < k_end;
    if (more) load();
#pragma unroll kUnrolled
    for (int k = 0; k < kDepthHere; ++k) {
      Neighbours<float, kWidth> a[kGroups], b[kGroups];
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        a[g] = *reinterpret_cast<const Neighbours<float, kWidth>*>(
            &tile_a[buffer][k * kRow + row + g * 16 * kWidth]);
        b[g] = *reinterpret_cast<const Neighbours<float, kWidth>*>(
            &tile_b[buffer][k * kRow + col + g * 16 * kWidth]);
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
      store_sums<float, kWidth>(e, m0 + row + i / kWidth * 16 * kWidth + i % kWidth,
                                n0 + col + g * 16 * kWidth, out);
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
    for (int s = static_cast<int>(threadIdx.y); s < splits; s += kReduceRows)
      sum += parts[s * outputs + output];
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
  const GemmOperands<float, float> p = operands_of<float, float>(g, {});
  const int first = p.vector_a && p.vector_b ? 0 : 1;  // the large tile takes only whole vectors
  const GemmPlan plan = plan_gemm(kTiles + first, 3 - first, g.m, g.n, g.k, context.sm_count);
  if (first + plan.tile == 0) return run<128, float>(context, g, plan);
  if (first + plan.tile == 1) return run<64, float>(context, g, plan);
  run<32, float>(context, g, plan);
}

}  // namespace allmrec::cuda
