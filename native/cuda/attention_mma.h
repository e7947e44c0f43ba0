#pragma once

// Tiles of attention on the matrix units: half or bfloat16 operands in shared memory, rows DP + 8 apart (DP
// is the head's width in whole fragments of 16, so a row is an odd number of 16-byte chunks and the eight
// rows of an ldmatrix meet no bank twice). 128 threads, a warp has 16 rows of the tile.

#include "attention_common.h"

namespace allmrec::cuda {

constexpr int kMmaThreads = 128;

// Copies rows under way to shared memory: `valid` rows, then zeros up to `Rows`; columns from D on are zeros.
// By thread `index` of `Threads`; the caller commits and waits.
template <typename T, int DP, int Rows, int Threads>
__device__ __forceinline__ void copy_rows(T* shared, const T* x, int64_t ld, int valid, int D, int index) {
  constexpr int kChunks = DP / 8;  // of eight values
#pragma unroll
  for (int i = 0; i < (Rows * kChunks + Threads - 1) / Threads; ++i) {
    const int chunk = index + i * Threads, row = chunk / kChunks, c = chunk % kChunks * 8;
    if (Rows * kChunks % Threads != 0 && row >= Rows) break;
    const bool inside = row < valid && c < D;
    cp_async_16(shared + row * (DP + 8) + c, inside ? x + row * ld + c : x, inside);
  }
}

// The A fragment of 16 rows × 16 columns at `tile`.
template <int DP, typename T>
__device__ __forceinline__ void load_a(uint32_t (&a)[4], const T* tile, int lane) {
  ldmatrix_x4(a, tile + lane % 16 * (DP + 8) + lane / 16 * 8);
}
// B fragments of two products with the transpose of 16 rows × 16 columns at `tile`: b[0], b[1] for the first
// eight rows, b[2], b[3] for the others.
template <int DP, typename T>
__device__ __forceinline__ void load_b_transposed(uint32_t (&b)[4], const T* tile, int lane) {
  ldmatrix_x4(b, tile + (lane % 8 + lane / 16 * 8) * (DP + 8) + lane / 8 % 2 * 8);
}
// B fragments of two products with 16 rows × 16 columns at `tile`: b[0], b[1] for the first eight columns.
template <int DP, typename T>
__device__ __forceinline__ void load_b(uint32_t (&b)[4], const T* tile, int lane) {
  ldmatrix_x4_trans(b, tile + lane % 16 * (DP + 8) + lane / 16 * 8);
}
template <typename T>
__device__ __forceinline__ void multiply_two(float (&first)[4], float (&second)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[4]) {
  mma_m16n8k16<T>(first, a, {b[0], b[1]});
  mma_m16n8k16<T>(second, a, {b[2], b[3]});
}

// s (16, N) = a · bᵀ: 16 rows at `a`, N at `b`, both over the head's width.
template <typename T, int DP, int N>
__device__ __forceinline__ void multiply_scores(float (&s)[N / 8][4], const T* a, const T* b, int lane) {
#pragma unroll
  for (int n = 0; n < N / 8; ++n) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#pragma unroll 2  // all at once, the fragments loaded ahead would fill the registers
  for (int d = 0; d < DP; d += 16) {
    uint32_t x[4];
    load_a<DP>(x, a + d, lane);
#pragma unroll
    for (int n = 0; n < N / 16; ++n) {
      uint32_t y[4];
      load_b_transposed<DP>(y, b + 16 * n * (DP + 8) + d, lane);
      multiply_two<T>(s[2 * n], s[2 * n + 1], x, y);
    }
  }
}
// o (16, DP) += p (16, N), rounded to T, · v (N, DP).
template <typename T, int DP, int N>
__device__ __forceinline__ void multiply_weights(float (&o)[DP / 8][4], const float (&p)[N / 8][4],
                                                 const T* v, int lane) {
#pragma unroll
  for (int k = 0; k < N / 16; ++k) {
    // The layout in which scores are left is that of an A fragment.
    const uint32_t x[4] = {pack2<T>(p[2 * k][0], p[2 * k][1]), pack2<T>(p[2 * k][2], p[2 * k][3]),
                           pack2<T>(p[2 * k + 1][0], p[2 * k + 1][1]),
                           pack2<T>(p[2 * k + 1][2], p[2 * k + 1][3])};
#pragma unroll
    for (int d = 0; d < DP / 16; ++d) {
      uint32_t y[4];
      load_b<DP>(y, v + 16 * k * (DP + 8) + 16 * d, lane);
      multiply_two<T>(o[2 * d], o[2 * d + 1], x, y);
    }
  }
}

// Four lanes hold a row of the fragments.
__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(kAllLanes, x, 1);
  return x + __shfl_xor_sync(kAllLanes, x, 2);
}
__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 1));
  return fmaxf(x, __shfl_xor_sync(kAllLanes, x, 2));
}

// Columns 2t, 2t + 1 of every eight of a row of fragments, times `scale`, to global memory.
template <typename T, int DP>
__device__ __forceinline__ void store_fragment_row(T* row, const float (&x)[DP / 8][4], int half, float scale,
                                                   int D, int lane, bool add) {
#pragma unroll
  for (int n = 0; n < DP / 8; ++n) {
    const int c = 8 * n + lane % 4 * 2;
    if (c >= D) continue;
    float low = scale * x[n][2 * half], high = scale * x[n][2 * half + 1];
    if (add) low += to_float(row[c]), high += to_float(row[c + 1]);
    *reinterpret_cast<uint32_t*>(row + c) = pack2<T>(low, high);
  }
}

// The kept bits of a row's N keys, of a mask whose first element is bit `shift`.
template <int N>
__device__ __forceinline__ uint64_t kept_bits(const unsigned char* mask, int shift) {
  static_assert(N == 32 || N == 64, "a mask of one or two words and a byte");
  const uint32_t* words = reinterpret_cast<const uint32_t*>(mask);
  if (N == 32) return (static_cast<uint64_t>(mask[4]) << 32 | words[0]) >> shift;
  const uint64_t low = static_cast<uint64_t>(words[1]) << 32 | words[0];
  return shift == 0 ? low : low >> shift | static_cast<uint64_t>(mask[8]) << (64 - shift);
}

// Calls fn(Width<DP>) for a head's width.
template <int DP>
struct Width {
  static constexpr int value = DP;
};
template <typename Fn>
inline void by_width(int32_t head_dim, Fn&& fn) {
  if (head_dim <= 32) return fn(Width<32>{});
  if (head_dim <= 64) return fn(Width<64>{});
  if (head_dim <= 80) return fn(Width<80>{});
  if (head_dim <= 96) return fn(Width<96>{});
  fn(Width<128>{});
}

}  // namespace allmrec::cuda
