// matvec: gemm for one to eight rows against a weight stored (n, k): the decoding step.
//
// Bound: the bytes of the weight; a row of activations is read once per block, from L2. Three kernels:
//
//   half      A and B of the same half. One block has 16 weight rows; its warps share k. The weights are the
//             16-row operand of mma.m16n8k16 and the activations its 8 columns, so that two products of the
//             matrix unit use up 16 bytes of 16 rows and any number of activation rows costs the same. A
//             product does not care in which order k is summed: lane t of a row takes columns 8t … 8t + 7 of
//             both operands, which makes every load 16 bytes, straight from memory to the fragment's
//             registers, without shared memory. 8 weight loads in flight per lane.
//   quantized I8 or I4. Activations are rounded to 8 bits in groups of 32, once per block into shared memory
//             (from three rows on once for all blocks, by a kernel before), and met by dp4a. A warp has two
//             weight rows, 4 loads of 16 bytes in flight from each; the first ones leave before the
//             activations are rounded. I4: 16 bytes are a group, its low and high nibbles meet the group's
//             two halves, which lie in two planes so that a warp's reads of 16 bytes do not collide; the
//             offset 8 of the nibbles is −8 · Σ activations, where the group's sum begins. Few rows (small n)
//             are shared by 2, 4 or 8 warps.
//   plain     everything else: float32 activations on half weights (4 vector loads in flight), rows that are
//             not aligned, k that is no multiple of 8 (half) or 16 (I8). Activations are not rounded.
//
// All sums over warps go through shared memory in a fixed order. Not yet measured on hardware.
#include "matvec.h"

#include <algorithm>

#include "dequantize.h"
#include "intrinsics.h"
#include "numeric.h"

namespace allmrec::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kGroup = 32;  // elements of k that share a scale
constexpr int kUnroll = 4;  // loads of 16 bytes in flight per lane and weight row
constexpr int kMaxRows = static_cast<int>(kMatvecRows);

__device__ __forceinline__ float load_as(const void* p, int dtype, int64_t i) {
  if (dtype == ALLMREC_F32) return static_cast<const float*>(p)[i];
  if (dtype == ALLMREC_F16) return to_float(static_cast<const __half*>(p)[i]);
  return to_float(static_cast<const __nv_bfloat16*>(p)[i]);
}

// The rows of A.
struct Activations {
  const void* data;
  int64_t ld;
  int32_t dtype;
  bool vectors;  // 8 consecutive elements may be loaded at once

  __device__ __forceinline__ float at(int64_t i, int64_t k) const { return load_as(data, dtype, i * ld + k); }
  __device__ __forceinline__ void load8(int64_t i, int64_t k, float (&out)[8]) const {
    if (!vectors) {
#pragma unroll
      for (int e = 0; e < 8; ++e) out[e] = at(i, k + e);
    } else if (dtype == ALLMREC_F32) {
      const float* p = static_cast<const float*>(data) + i * ld + k;
      const Vector<float> low = load_vector(p), high = load_vector(p + 4);
#pragma unroll
      for (int e = 0; e < 4; ++e) out[e] = low.value[e], out[e + 4] = high.value[e];
    } else if (dtype == ALLMREC_F16) {
      const Vector<__half> x = load_vector(static_cast<const __half*>(data) + i * ld + k);
#pragma unroll
      for (int e = 0; e < 8; ++e) out[e] = to_float(x.value[e]);
    } else {
      const Vector<__nv_bfloat16> x = load_vector(static_cast<const __nv_bfloat16*>(data) + i * ld + k);
#pragma unroll
      for (int e = 0; e < 8; ++e) out[e] = to_float(x.value[e]);
    }
  }
};

// What becomes of a sum.
struct Output {
  void* c;
  int64_t ldc;
  const float* bias;
  const void* residual;
  int64_t ld_residual;
  float alpha;
  int32_t dtype;  // of c and the residual
  bool relu, accumulate;

  __device__ __forceinline__ void store(int64_t i, int64_t j, float sum) const {
    float x = alpha * sum;
    if (bias) x += bias[j];
    if (residual) x += load_as(residual, dtype, i * ld_residual + j);
    if (relu) x = x < 0.0f ? 0.0f : x;  // keeps NaN
    const int64_t at = i * ldc + j;
    if (accumulate) x += load_as(c, dtype, at);
    if (dtype == ALLMREC_F32)
      static_cast<float*>(c)[at] = x;
    else if (dtype == ALLMREC_F16)
      static_cast<__half*>(c)[at] = from_float<__half>(x);
    else
      static_cast<__nv_bfloat16*>(c)[at] = from_float<__nv_bfloat16>(x);
  }
};

// Weights are used once: they should not push the activations out of the caches.
__device__ __forceinline__ uint4 load_once(const void* p) {
  return __ldcs(static_cast<const uint4*>(p));
}

// ---- half ----

constexpr int kTileRows = 16;     // weight rows of a block
constexpr int kTileColumns = 32;  // columns of k that four lanes of 16 bytes cover
constexpr int kPartStride = 20;   // of the 16 sums of an activation row: lanes of a warp write 32 banks

template <typename T>
__global__ void __launch_bounds__(kThreads, 3)
    matvec_half_kernel(int64_t n, int64_t k, int m, const T* a, int64_t lda, const T* b, int64_t ldb,
                       Output out) {
  __shared__ float part[kWarps][kMaxRows * kPartStride];
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int g = lane / 4, t = lane % 4;
  const int64_t j0 = int64_t{blockIdx.x} * kTileRows;
  // Rows beyond the last one read it again; their sums are not stored.
  const T* low = b + min(j0 + g, n - 1) * ldb + t * 8;
  const T* high = b + min(j0 + g + 8, n - 1) * ldb + t * 8;
  const T* x = a + g * lda + t * 8;  // of the rows below m

  float sum[4] = {};
  constexpr int kStep = kUnroll * kTileColumns;
  for (int64_t k0 = int64_t{warp} * kStep; k0 < k; k0 += int64_t{warps} * kStep) {
    uint4 w_low[kUnroll], w_high[kUnroll], xs[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t at = k0 + u * kTileColumns;
      const bool inside = at + t * 8 < k;
      w_low[u] = w_high[u] = xs[u] = make_uint4(0, 0, 0, 0);
      if (inside) w_low[u] = load_once(low + at);
      if (inside) w_high[u] = load_once(high + at);
      if (inside && g < m) xs[u] = *reinterpret_cast<const uint4*>(x + at);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      mma_m16n8k16<T>(sum, {w_low[u].x, w_high[u].x, w_low[u].y, w_high[u].y}, {xs[u].x, xs[u].y});
      mma_m16n8k16<T>(sum, {w_low[u].z, w_high[u].z, w_low[u].w, w_high[u].w}, {xs[u].z, xs[u].w});
    }
  }

  float* mine = part[warp] + 2 * t * kPartStride + g;
  mine[0] = sum[0], mine[kPartStride] = sum[1];
  mine[8] = sum[2], mine[kPartStride + 8] = sum[3];
  __syncthreads();
  for (int e = static_cast<int>(threadIdx.x); e < m * kTileRows; e += static_cast<int>(blockDim.x)) {
    const int i = e / kTileRows, row = e % kTileRows;
    if (j0 + row >= n) continue;
    float total = 0;
    for (int w = 0; w < warps; ++w) total += part[w][i * kPartStride + row];
    out.store(i, j0 + row, total);
  }
}

// ---- quantized ----

constexpr int kRowsPerWarp = 2;

// The bits of 1.5 · 2²³ plus an integer below 2²² in magnitude are those of the float 1.5 · 2²³ + integer, so
// that a sum which begins there becomes a float by one subtraction: conversions run at an eighth of that
// rate.
constexpr int kFloatBits = 0x4b400000;
constexpr float kFloat = 12582912.0f;
__device__ __forceinline__ float float_of_sum(int sum) {
  return __int_as_float(sum) - kFloat;
}

struct Group {
  float scale;
  int begin;  // where the sum of an I4 group begins: kFloatBits − 8 · the sum of the activations
};

// Four lanes round a group of 32, eight elements each: largest magnitude (as bits, where NaN is above
// infinity and so shows in the scale), quants as two words, and the group's scale and sum in all four lanes.
__device__ __forceinline__ Group round_group(const float (&x)[8], uint2& words) {
  unsigned largest = 0;
#pragma unroll
  for (int e = 0; e < 8; ++e) largest = max(largest, __float_as_uint(x[e]) & 0x7fffffffu);
  largest = max(largest, __shfl_xor_sync(kAllLanes, largest, 1));
  largest = max(largest, __shfl_xor_sync(kAllLanes, largest, 2));
  const float magnitude = __uint_as_float(largest);
  // Below, 127 / magnitude would be infinite. Such a group counts as zeros.
  const float by = magnitude > 1e-36f ? 127.0f / magnitude : 0.0f;
  unsigned q[8];
  // The sum is rounded to an integer; its low bits are that integer in two's complement.
#pragma unroll
  for (int e = 0; e < 8; ++e) q[e] = __float_as_uint(__fmaf_rn(x[e], by, kFloat));
  words.x = __byte_perm(__byte_perm(q[0], q[1], 0x0040), __byte_perm(q[2], q[3], 0x0040), 0x5410);
  words.y = __byte_perm(__byte_perm(q[4], q[5], 0x0040), __byte_perm(q[6], q[7], 0x0040), 0x5410);
  int sum = dot4(static_cast<int>(words.x), 0x01010101, dot4(static_cast<int>(words.y), 0x01010101, 0));
  sum += __shfl_xor_sync(kAllLanes, sum, 1);
  sum += __shfl_xor_sync(kAllLanes, sum, 2);
  return {magnitude / 127.0f, kFloatBits - 8 * sum};
}

// Rounded rows in global memory: quants (m, groups · 32) and groups (m, groups).
struct Rounded {
  const uint4* quants;  // NULL: every block rounds for itself
  const Group* groups;
};

__global__ void __launch_bounds__(kThreads)
    round_activations_kernel(int64_t groups, int64_t k, Activations a, uint2* quants, Group* to) {
  const int64_t e = int64_t{blockIdx.x} * kThreads + threadIdx.x, i = blockIdx.y;
  const int64_t column = e * 8;
  float x[8] = {};
  if (column < k) a.load8(i, column, x);
  uint2 words;
  const Group group = round_group(x, words);
  if (e >= groups * 4) return;
  quants[i * groups * 4 + e] = words;
  if (e % 4 == 0) to[i * groups + e / 4] = group;
}

// The block's copy of columns k0 … k0 + chunk − 1 of every row. Of I4 the first halves of all groups come
// before the second ones.
template <bool Int4>
__device__ __forceinline__ void stage(int m, int64_t k0, int64_t k, int chunk, const Activations& a,
                                      const Rounded& rounded, int8_t* quants, Group* groups) {
  const int thread = static_cast<int>(threadIdx.x);
  const int count = static_cast<int>((min(int64_t{chunk}, k - k0) + kGroup - 1) / kGroup);
  const int64_t all = (k + kGroup - 1) / kGroup;
  for (int i = 0; i < m; ++i, quants += chunk, groups += chunk / kGroup) {
    if (rounded.quants) {
      const int64_t first = i * all + k0 / kGroup;
      for (int e = thread; e < 2 * count; e += kThreads) {
        const int to = Int4 ? e % 2 * (chunk / 2) + e / 2 * 16 : e * 16;
        *reinterpret_cast<uint4*>(quants + to) = rounded.quants[2 * first + e];
      }
      for (int e = thread; e < count; e += kThreads) groups[e] = rounded.groups[first + e];
      continue;
    }
    // Whole warps go round, for the lanes that share a group.
    for (int begin = thread / kWarp * kWarp; begin < 4 * count; begin += kThreads) {
      const int e = begin + thread % kWarp;
      float x[8] = {};
      if (k0 + e * 8 < k && e < 4 * count) a.load8(i, k0 + e * 8, x);
      uint2 words;
      const Group group = round_group(x, words);
      if (e >= 4 * count) continue;
      const int to = Int4 ? e % 4 / 2 * (chunk / 2) + e / 4 * 16 + e % 2 * 8 : e * 8;
      *reinterpret_cast<uint2*>(quants + to) = words;
      if (e % 4 == 0) groups[e / 4] = group;
    }
  }
}

__device__ __forceinline__ int dot16(const uint4& a, const int4& b, int sum) {
  sum = dot4(static_cast<int>(a.x), b.x, sum);
  sum = dot4(static_cast<int>(a.y), b.y, sum);
  sum = dot4(static_cast<int>(a.z), b.z, sum);
  return dot4(static_cast<int>(a.w), b.w, sum);
}

// A run is what 16 bytes of a weight row hold: 16 elements of I8, a group of I4.
template <bool Int4, int M>
__global__ void __launch_bounds__(kThreads, 2)
    matvec_quantized_kernel(int64_t n, int64_t k, int m, int chunk, int split, Activations a, Rounded rounded,
                            const uint4* b, int64_t ldb, const void* scales, Output out) {
  constexpr int kRun = Int4 ? kGroup : kGroup / 2;
  __shared__ float part[kWarps][kRowsPerWarp * M];
  int8_t* quants = static_cast<int8_t*>(dynamic_shared());
  Group* groups = reinterpret_cast<Group*>(quants + M * chunk);
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int rows_per_block = kWarps / split * kRowsPerWarp;
  const int64_t j0 = int64_t{blockIdx.x} * rows_per_block;
  const int64_t row_runs = k / kRun;
  const int span = split * kWarp;
  const uint4* row[kRowsPerWarp];
  const __half* row_scales[kRowsPerWarp];
#pragma unroll
  for (int r = 0; r < kRowsPerWarp; ++r) {
    const int64_t j = min(j0 + warp / split * kRowsPerWarp + r, n - 1);
    row[r] = b + j * (ldb / kRun);
    row_scales[r] = static_cast<const __half*>(scales) + j * (ldb / kRun);
  }

  float sum[kRowsPerWarp][M] = {};
  for (int64_t k0 = 0; k0 < k; k0 += chunk) {
    const int64_t first = k0 / kRun;
    const int runs = static_cast<int>(min(int64_t{chunk} / kRun, row_runs - first));
    uint4 w[kUnroll][kRowsPerWarp];
    __half scale[kUnroll][kRowsPerWarp];
    const auto load = [&](int base) {
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const int run = base + u * span;
#pragma unroll
        for (int r = 0; r < kRowsPerWarp; ++r) {
          if (run < runs) w[u][r] = load_once(row[r] + first + run);
          if (Int4 && run < runs) scale[u][r] = row_scales[r][first + run];
        }
      }
    };
    const int begin = warp % split * kWarp + lane;
    load(begin);
    if (k0 > 0) __syncthreads();  // the copy of the chunk before is no longer needed
    stage<Int4>(m, k0, k, chunk, a, rounded, quants, groups);
    __syncthreads();
    for (int base = begin; base < runs; base += kUnroll * span) {
      if (base > begin) load(base);
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const int run = base + u * span;
        if (run >= runs) continue;
#pragma unroll
        for (int i = 0; i < M; ++i) {
          if (M > 2 && i >= m) continue;
          const int8_t* x = quants + i * chunk + run * 16;
          const Group group = groups[i * (chunk / kGroup) + (Int4 ? run : run / 2)];
          const int4 x0 = *reinterpret_cast<const int4*>(x);
          int4 x1 = x0;
          if (Int4) x1 = *reinterpret_cast<const int4*>(x + chunk / 2);
#pragma unroll
          for (int r = 0; r < kRowsPerWarp; ++r) {
            const uint4& q = w[u][r];
            if (Int4) {
              const uint4 low = {low_nibbles(q.x), low_nibbles(q.y), low_nibbles(q.z), low_nibbles(q.w)};
              const uint4 high = {high_nibbles(q.x), high_nibbles(q.y), high_nibbles(q.z), high_nibbles(q.w)};
              const int dot = dot16(high, x1, dot16(low, x0, group.begin));
              sum[r][i] += float_of_sum(dot) * (group.scale * to_float(scale[u][r]));
            } else {
              sum[r][i] += float_of_sum(dot16(q, x0, kFloatBits)) * group.scale;
            }
          }
        }
      }
    }
  }

#pragma unroll
  for (int r = 0; r < kRowsPerWarp; ++r) {
#pragma unroll
    for (int i = 0; i < M; ++i) {
      const float total = warp_sum(sum[r][i]);
      if (lane == 0) part[warp][i * kRowsPerWarp + r] = total;
    }
  }
  __syncthreads();
  for (int e = static_cast<int>(threadIdx.x); e < m * rows_per_block; e += kThreads) {
    const int i = e / rows_per_block, in_block = e % rows_per_block;
    const int64_t j = j0 + in_block;
    if (j >= n) continue;
    const int w = in_block / kRowsPerWarp * split;
    float total = 0;
    for (int s = 0; s < split; ++s) total += part[w + s][i * kRowsPerWarp + in_block % kRowsPerWarp];
    if (!Int4) total *= static_cast<const float*>(scales)[j];
    out.store(i, j, total);
  }
}

template <bool Int4, int M>
void launch_quantized(Context& context, const allmrec_gemm_args& g, const Activations& a,
                      const Rounded& rounded, const Output& out) {
  constexpr int64_t kShared = 40 * 1024;  // several blocks on an SM
  constexpr int64_t kBytes = sizeof(Group) + kGroup;
  const int64_t most = kShared / (M * kBytes) * kGroup;
  const int chunk = static_cast<int>(std::min(most, divide_up(g.k, kGroup) * kGroup));
  // Warps for 16 a multiprocessor, as long as each has something to load.
  const int64_t wanted = 16 * int64_t{context.sm_count}, runs = g.k / (Int4 ? kGroup : kGroup / 2);
  int split = 1;
  while (split < kWarps && divide_up(g.n, kRowsPerWarp) * split < wanted && 2 * split * kWarp <= runs)
    split *= 2;
  const int64_t blocks = divide_up(g.n, kWarps / split * kRowsPerWarp);
  launch(matvec_quantized_kernel<Int4, M>, dim3(static_cast<unsigned>(blocks)), dim3(kThreads),
         static_cast<size_t>(M * chunk / kGroup * kBytes), context.stream, g.n, g.k, static_cast<int>(g.m),
         chunk, split, a, rounded, static_cast<const uint4*>(g.b), g.ldb, g.b_scales, out);
}

template <bool Int4>
void matvec_quantized(Context& context, const allmrec_gemm_args& g, const Activations& a, const Output& out) {
  if (g.m == 1) return launch_quantized<Int4, 1>(context, g, a, {}, out);
  if (g.m == 2) return launch_quantized<Int4, 2>(context, g, a, {}, out);
  const int64_t groups = divide_up(g.k, kGroup);
  const Scratch quants(context, static_cast<size_t>(g.m * groups * kGroup));
  const Scratch scales(context, static_cast<size_t>(g.m * groups) * sizeof(Group));
  launch(round_activations_kernel,
         dim3(static_cast<unsigned>(divide_up(groups * 4, kThreads)), static_cast<unsigned>(g.m)),
         dim3(kThreads), 0, context.stream, groups, g.k, a, quants.as<uint2>(), scales.as<Group>());
  const Rounded rounded = {quants.as<uint4>(), scales.as<Group>()};
  if (g.m <= 4) return launch_quantized<Int4, 4>(context, g, a, rounded, out);
  launch_quantized<Int4, 8>(context, g, a, rounded, out);
}

// ---- plain ----

template <typename T>
struct HalfRows {
  const T* data;
  int64_t ld;

  __device__ __forceinline__ float at(int64_t row, int64_t col) const {
    return to_float(data[row * ld + col]);
  }
};

__device__ __forceinline__ void store_rows(int m, int64_t j, float (&sum)[kMaxRows], int lane,
                                           const Output& out) {
#pragma unroll
  for (int i = 0; i < kMaxRows; ++i) {
    if (i >= m) continue;
    const float total = warp_sum(sum[i]);
    if (lane == 0) out.store(i, j, total);
  }
}

// A warp per weight row.
template <typename Rows>
__global__ void __launch_bounds__(kThreads, 3)
    matvec_plain_kernel(int64_t n, int64_t k, int m, Activations a, Rows b, Output out) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t j = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (j >= n) return;
  float sum[kMaxRows] = {};
#pragma unroll 1
  for (int64_t p = lane; p < k; p += kWarp) {
    const float w = b.at(j, p);
#pragma unroll
    for (int i = 0; i < kMaxRows; ++i) {
      if (i < m) sum[i] += w * a.at(i, p);
    }
  }
  store_rows(m, j, sum, lane, out);
}

// The same for aligned rows of halves and float32 activations.
template <typename T>
__global__ void __launch_bounds__(kThreads, 2)
    matvec_widened_kernel(int64_t n, int64_t k, int m, const float* a, int64_t lda, const T* b, int64_t ldb,
                          Output out) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t j = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (j >= n) return;
  union Words {
    uint4 raw;
    Vector<T> vector;
  };
  float sum[kMaxRows] = {};
  constexpr int kStep = 8 * kWarp;
#pragma unroll 1
  for (int64_t p = lane * 8; p < k; p += kUnroll * kStep) {
    Words w[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (p + u * kStep < k) w[u].raw = load_once(b + j * ldb + p + u * kStep);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (p + u * kStep >= k) continue;
#pragma unroll
      for (int i = 0; i < kMaxRows; ++i) {
        if (i >= m) continue;
        const float* x = a + i * lda + p + u * kStep;
        const Vector<float> low = load_vector(x), high = load_vector(x + 4);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          sum[i] += to_float(w[u].vector.value[e]) * low.value[e];
          sum[i] += to_float(w[u].vector.value[e + 4]) * high.value[e];
        }
      }
    }
  }
  store_rows(m, j, sum, lane, out);
}

// Sixteen-byte loads from rows of a half.
bool vectors(const void* p, int64_t ld) {
  return aligned_16(p) && ld % 8 == 0;
}

template <typename T>
void matvec_half(Context& context, const allmrec_gemm_args& g, const Activations& a, const Output& out) {
  const T* b = static_cast<const T*>(g.b);
  const int m = static_cast<int>(g.m);
  const dim3 plain_grid(static_cast<unsigned>(divide_up(g.n, kWarps)));
  if (!a.vectors || !vectors(b, g.ldb) || g.k % 8 != 0) {
    launch(matvec_plain_kernel<HalfRows<T>>, plain_grid, dim3(kThreads), 0, context.stream, g.n, g.k, m, a,
           HalfRows<T>{b, g.ldb}, out);
  } else if (g.a_dtype == ALLMREC_F32) {
    launch(matvec_widened_kernel<T>, plain_grid, dim3(kThreads), 0, context.stream, g.n, g.k, m,
           static_cast<const float*>(g.a), g.lda, b, g.ldb, out);
  } else {
    const int64_t warps = std::min<int64_t>(kWarps, divide_up(g.k, kUnroll * kTileColumns));
    launch(matvec_half_kernel<T>, dim3(static_cast<unsigned>(divide_up(g.n, kTileRows))),
           dim3(static_cast<unsigned>(warps * kWarp)), 0, context.stream, g.n, g.k, m,
           static_cast<const T*>(g.a), g.lda, b, g.ldb, out);
  }
}

}  // namespace

void matvec(Context& context, const allmrec_gemm_args& args) {
  allmrec_gemm_args g = args;
  if (g.m == 0 || g.n == 0) return;
  // The distance to a second row that is not there says nothing about alignment.
  if (g.m == 1) g.lda = 0;
  if (g.n == 1) g.ldb = 0;
  const int64_t row_bytes = g.lda * (g.a_dtype == ALLMREC_F32 ? 4 : 2);
  const Activations a = {g.a, g.lda, g.a_dtype, aligned_16(g.a) && row_bytes % 16 == 0};
  const Output out = {g.c,
                      g.ldc,
                      g.bias,
                      g.residual,
                      g.ld_residual,
                      g.alpha,
                      g.c_dtype,
                      g.activation == ALLMREC_ACT_RELU,
                      g.accumulate != 0};
  if (g.b_dtype == ALLMREC_F16) return matvec_half<__half>(context, g, a, out);
  if (g.b_dtype == ALLMREC_BF16) return matvec_half<__nv_bfloat16>(context, g, a, out);
  if (g.b_dtype == ALLMREC_I8 && g.k % 16 == 0 && g.ldb % 16 == 0 && aligned_16(g.b))
    return matvec_quantized<false>(context, g, a, out);
  if (g.b_dtype == ALLMREC_I4 && g.k % kGroup == 0 && aligned_16(g.b))
    return matvec_quantized<true>(context, g, a, out);
  by_quantized(g.b_dtype, g.b, g.b_scales, g.ldb, [&](auto rows) {
    launch(matvec_plain_kernel<decltype(rows)>, dim3(static_cast<unsigned>(divide_up(g.n, kWarps))),
           dim3(kThreads), 0, context.stream, g.n, g.k, static_cast<int>(g.m), a, rows, out);
  });
}

}  // namespace allmrec::cuda
