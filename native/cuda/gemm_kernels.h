#pragma once

// What the files of the matrix product share: a problem as its kernels see it, the end of every sum
// (epilogue), the cutting of a product into tiles and splits of k, and the launchers.

#include <algorithm>

#include "context.h"
#include "numeric.h"

namespace allmrec::cuda {

// ---- The problem
// --------------------------------------------------------------------------------------------

// C (m, n) = op(A) op(B). A kernel's block (x, y) computes the tile number x over the y-th part of k.
template <typename A, typename B>
struct GemmOperands {
  const A* a;
  const B* b;
  int64_t lda, ldb;
  int64_t k, k_part;  // k_part: a multiple of the kernel's depth; part y begins at y · k_part
  int tiles_m, tiles_n;
  bool trans_a, trans_b;
  bool vector_a, vector_b;  // 16 bytes along the contiguous dimension may be loaded at once
};

// act(alpha · sum + bias + residual) + c. A split product has alpha 1 and nothing else, and its parts go to
// scratch memory, part_stride apart.
struct GemmEpilogue {
  int64_t m, n;
  float alpha;
  const float* bias;     // (n) or null
  const void* residual;  // of c's dtype, or null
  int64_t ld_residual;
  void* c;
  int64_t ldc;
  int64_t part_stride;
  bool relu, accumulate, float_c;
  int width;  // as many neighbouring outputs may be loaded and stored at once: 1, 2 or 4
};

// ---- On the device
// ------------------------------------------------------------------------------------------

template <typename T, int N>
struct alignas(sizeof(T) * N) Neighbours {
  T value[N];
};

// N neighbouring sums of row i, from column j on.
template <typename C, int N>
__device__ __forceinline__ void store_sums(const GemmEpilogue& e, int64_t i, int64_t j,
                                           const float (&sum)[N]) {
  if (i >= e.m || j >= e.n) return;
  C* c = static_cast<C*>(e.c) + i * e.ldc + j;
  const C* residual = e.residual ? static_cast<const C*>(e.residual) + i * e.ld_residual + j : nullptr;
  using Group = Neighbours<C, N>;
  const bool whole = e.width >= N && j + N <= e.n;
  Group before{}, added{}, out;
  if (whole) {
    if (residual) added = *reinterpret_cast<const Group*>(residual);
    if (e.accumulate) before = *reinterpret_cast<const Group*>(c);
  } else {
#pragma unroll
    for (int x = 0; x < N; ++x) {
      if (j + x >= e.n) break;
      if (residual) added.value[x] = residual[x];
      if (e.accumulate) before.value[x] = c[x];
    }
  }
#pragma unroll
  for (int x = 0; x < N; ++x) {
    float v = e.alpha * sum[x];
    if (e.bias && j + x < e.n) v += __ldg(e.bias + j + x);
    if (residual) v += to_float(added.value[x]);
    if (e.relu && v < 0.0f) v = 0.0f;
    if (e.accumulate) v += to_float(before.value[x]);
    out.value[x] = from_float<C>(v);
  }
  if (whole) {
    *reinterpret_cast<Group*>(c) = out;
  } else {
#pragma unroll
    for (int x = 0; x < N; ++x) {
      if (j + x < e.n) c[x] = out.value[x];
    }
  }
}

// Tiles are numbered so that those under way together share rows of A and of B in the L2 cache: down a group
// of eight tile rows, then the next column.
__device__ __forceinline__ void tile_at(int number, int tiles_m, int tiles_n, int& tile_m, int& tile_n) {
  constexpr int kGroup = 8;
  const int first = number / (kGroup * tiles_n) * kGroup;
  const int rows = min(kGroup, tiles_m - first), inside = number - first * tiles_n;
  tile_m = first + inside % rows;
  tile_n = inside / rows;
}

// ---- On the host
// --------------------------------------------------------------------------------------------

// A tile shape and what one multiprocessor is expected to do with it.
struct GemmTile {
  int m, n, depth;         // depth: of one step along k
  int resident;            // tiles under way on a multiprocessor at once
  int bytes_a, bytes_b;    // of an element
  double tera_per_second;  // multiply-adds times two, of one multiprocessor filled with such tiles
  double step_latency;     // microseconds a step takes at least, however little there is to do
};

struct GemmPlan {
  int tile;  // number in the list
  int tiles_m, tiles_n, splits;
  int64_t k_part;
};

// The tile shape and the number of parts of k that this model of the time finds fastest:
//   max(arithmetic of a multiprocessor's tiles, its share of the L2 cache's 5.6 TB/s, latency of the steps)
//   + for a split: a launch and the parts written and read once.
// Only products with fewer than two tiles a multiprocessor are split.
GemmPlan plan_gemm(const GemmTile* tiles, int count, int64_t m, int64_t n, int64_t k, int multiprocessors);

GemmEpilogue epilogue_of(const allmrec_gemm_args& g);

// The parts of a split product, (splits, m, n), added in order and finished as `e` says.
void gemm_reduce(Context& context, const float* parts, int splits, const GemmEpilogue& e, int32_t c_dtype);

// What a planned product needs besides its kernel: the operands' grid, and scratch memory for the parts.
// finish() adds them up.
class GemmLaunch {
 public:
  GemmLaunch(Context& context, const allmrec_gemm_args& g, const GemmPlan& plan)
      : context_(context),
        final_(epilogue_of(g)),
        plan_(plan),
        c_dtype_(g.c_dtype),
        parts_(context, plan.splits > 1 ? sizeof(float) * plan.splits * g.m * g.n : 0) {
    kernel = final_;
    if (plan.splits == 1) return;
    kernel.alpha = 1.0f;
    kernel.bias = nullptr;
    kernel.residual = nullptr;
    kernel.c = parts_.as<float>();
    kernel.ldc = g.n;
    kernel.part_stride = g.m * g.n;
    kernel.relu = kernel.accumulate = false;
    kernel.float_c = true;
    kernel.width = g.n % 4 == 0 ? 4 : g.n % 2 == 0 ? 2 : 1;
  }
  dim3 grid() const {
    return dim3(static_cast<unsigned>(plan_.tiles_m * plan_.tiles_n), static_cast<unsigned>(plan_.splits));
  }
  void finish() {
    if (plan_.splits > 1) gemm_reduce(context_, parts_.as<float>(), plan_.splits, final_, c_dtype_);
  }
  GemmEpilogue kernel;  // what the kernel does with its sums

 private:
  Context& context_;
  GemmEpilogue final_;
  GemmPlan plan_;
  int32_t c_dtype_;
  Scratch parts_;
};

template <typename A, typename B>
GemmOperands<A, B> operands_of(const allmrec_gemm_args& g, const GemmPlan& plan) {
  GemmOperands<A, B> p = {};
  p.a = static_cast<const A*>(g.a);
  p.b = static_cast<const B*>(g.b);
  p.lda = g.lda;
  p.ldb = g.ldb;
  p.k = g.k;
  p.k_part = plan.k_part;
  p.tiles_m = plan.tiles_m;
  p.tiles_n = plan.tiles_n;
  p.trans_a = g.trans_a != 0;
  p.trans_b = g.trans_b != 0;
  const auto vectors = [](const void* x, int64_t ld, int64_t length, size_t size) {
    const int64_t per = 16 / static_cast<int64_t>(size);
    return aligned_16(x) && ld % per == 0 && length % per == 0;
  };
  p.vector_a = vectors(g.a, g.lda, g.trans_a ? g.m : g.k, sizeof(A));
  p.vector_b = vectors(g.b, g.ldb, g.trans_b ? g.k : g.n, sizeof(B));
  return p;
}

void gemm_float(Context& context, const allmrec_gemm_args& g);      // A F32; B F32, F16 or BF16
void gemm_half(Context& context, const allmrec_gemm_args& g);       // A F16 or BF16; B the same or F32
void gemm_quantized(Context& context, const allmrec_gemm_args& g);  // B I8 or I4, more than a few rows

// A stored matrix x (rows, cols; row distance ld) of F32, I8 or I4 as `dtype` F32, F16 or BF16, row distance
// ld_out >= cols; `scales` as backend.h says for I8 and I4.
void gemm_convert(Context& context, const void* x, int32_t x_dtype, const void* scales, int64_t rows,
                  int64_t cols, int64_t ld, void* out, int32_t dtype, int64_t ld_out);

// gemm after B of F32, I8 or I4 was written out as `dtype`, which A has.
void gemm_with_converted_b(Context& context, const allmrec_gemm_args& g, int32_t dtype);

}  // namespace allmrec::cuda
