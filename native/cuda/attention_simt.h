#pragma once

// Tiles of attention on the ordinary multiply-add units, for every storage type and head width up to 256.
//
// 256 threads are 16 × 16: thread (y, x) owns rows y · MR … of the tile, score columns x, x + 16, … and
// output columns 4x … 4x + 3 of each 64. A row's scores, softmax and weights stay within 16 lanes of one
// warp. Operands are float32 in shared memory, rows 64 · NJ + 4 apart, an odd number of 16-byte chunks: eight
// lanes reading eight rows meet no bank twice.

#include "attention_common.h"

namespace allmrec::cuda {

constexpr int kSimtThreads = 256;

template <int NJ_, int MR_, int NR_>
struct SimtTile {
  static constexpr int NJ = NJ_;            // 64 columns of the head each
  static constexpr int MR = MR_, NR = NR_;  // rows and columns of scores a thread
  static constexpr int M = 16 * MR, N = 16 * NR;
  static constexpr int S = 64 * NJ + 4;  // floats from row to row of an operand
  static constexpr int P = N + 4;        // and of scores
};

// 16 lanes hold a row.
__device__ __forceinline__ float row_sum(float x) {
#pragma unroll
  for (int offset = 8; offset > 0; offset /= 2) x += __shfl_xor_sync(kAllLanes, x, offset);
  return x;
}
__device__ __forceinline__ float row_max(float x) {
#pragma unroll
  for (int offset = 8; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, offset));
  return x;
}
__device__ __forceinline__ int row_sum(int x) {
#pragma unroll
  for (int offset = 8; offset > 0; offset /= 2) x += __shfl_xor_sync(kAllLanes, x, offset);
  return x;
}

__device__ __forceinline__ float lane_of(const float4& x, int i) {
  return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w;
}
__device__ __forceinline__ float dot(const float4& a, const float4& b, float sum) {
  return fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, fmaf(a.w, b.w, sum))));
}
__device__ __forceinline__ float4 four(const float* shared) {
  return *reinterpret_cast<const float4*>(shared);
}

// Columns c … c + 3 of a row, zeros from D on. `vectors`: rows start at whole vectors and D is a multiple.
template <typename T>
__device__ __forceinline__ float4 load_four(const T* row, int c, int D, bool vectors) {
  if (vectors) {
    union {
      uint64_t raw[sizeof(T) / 2];
      T x[4];
    } u;
    if (sizeof(T) == 4) {
      const float4 v = *reinterpret_cast<const float4*>(row + c);
      return v;
    }
    u.raw[0] = *reinterpret_cast<const uint64_t*>(row + c);
    return {to_float(u.x[0]), to_float(u.x[1]), to_float(u.x[2]), to_float(u.x[3])};
  }
  float x[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) x[i] = c + i < D ? to_float(row[c + i]) : 0.0f;
  return {x[0], x[1], x[2], x[3]};
}

// `valid` rows of x into shared memory, zeros up to `Rows`.
template <typename T, typename Tile, int Rows>
__device__ __forceinline__ void load_rows(float* shared, const T* x, int64_t ld, int valid, int D,
                                          bool vectors) {
  const int tx = static_cast<int>(threadIdx.x) % 16, ty = static_cast<int>(threadIdx.x) / 16;
#pragma unroll
  for (int i = 0; i < Rows / 16; ++i) {
    const int row = ty + 16 * i;
#pragma unroll
    for (int jj = 0; jj < Tile::NJ; ++jj) {
      const int c = 4 * tx + 64 * jj;
      if (c >= D) continue;
      float4 v = {0, 0, 0, 0};
      if (row < valid) v = load_four(x + row * ld, c, D, vectors);
      *reinterpret_cast<float4*>(shared + row * Tile::S + c) = v;
    }
  }
}

// s = a · bᵀ for the thread's rows of a and columns (rows of b).
template <typename Tile>
__device__ __forceinline__ void multiply_scores(const float* a, const float* b, int D,
                                                float (&s)[Tile::MR][Tile::NR]) {
  const int tx = static_cast<int>(threadIdx.x) % 16, ty = static_cast<int>(threadIdx.x) / 16;
  a += ty * Tile::MR * Tile::S;
  b += tx * Tile::S;
#pragma unroll
  for (int i = 0; i < Tile::MR; ++i) {
#pragma unroll
    for (int j = 0; j < Tile::NR; ++j) s[i][j] = 0;
  }
#pragma unroll 1
  for (int d = 0; d < D; d += 4) {
    float4 x[Tile::MR], y[Tile::NR];
#pragma unroll
    for (int i = 0; i < Tile::MR; ++i) x[i] = four(a + i * Tile::S + d);
#pragma unroll
    for (int j = 0; j < Tile::NR; ++j) y[j] = four(b + 16 * j * Tile::S + d);
#pragma unroll
    for (int i = 0; i < Tile::MR; ++i) {
#pragma unroll
      for (int j = 0; j < Tile::NR; ++j) s[i][j] = dot(x[i], y[j], s[i][j]);
    }
  }
}

// o += p · v: p (M, N) in shared memory, v's first `count` rows. Columns from D on are not needed and repeat
// the last ones.
template <typename Tile>
__device__ __forceinline__ void multiply_weights(const float* p, const float* v, int count, int D,
                                                 float (&o)[Tile::MR][4 * Tile::NJ]) {
  const int tx = static_cast<int>(threadIdx.x) % 16, ty = static_cast<int>(threadIdx.x) / 16;
  p += ty * Tile::MR * Tile::P;
  int column[Tile::NJ];
#pragma unroll
  for (int jj = 0; jj < Tile::NJ; ++jj) column[jj] = lesser(4 * tx + 64 * jj, (D - 1) / 4 * 4);
#pragma unroll 1
  for (int k = 0; k < count; k += 4) {
    float4 w[Tile::MR];
#pragma unroll
    for (int i = 0; i < Tile::MR; ++i) w[i] = four(p + i * Tile::P + k);
#pragma unroll
    for (int kk = 0; kk < 4; ++kk) {
#pragma unroll
      for (int jj = 0; jj < Tile::NJ; ++jj) {
        const float4 x = four(v + (k + kk) * Tile::S + column[jj]);
#pragma unroll
        for (int i = 0; i < Tile::MR; ++i) {
          const float weight = lane_of(w[i], kk);
          o[i][4 * jj] = fmaf(weight, x.x, o[i][4 * jj]);
          o[i][4 * jj + 1] = fmaf(weight, x.y, o[i][4 * jj + 1]);
          o[i][4 * jj + 2] = fmaf(weight, x.z, o[i][4 * jj + 2]);
          o[i][4 * jj + 3] = fmaf(weight, x.w, o[i][4 * jj + 3]);
        }
      }
    }
  }
}

// The thread's part of a row, times `scale`, to global memory.
template <typename T, int NJ>
__device__ __forceinline__ void store_row(T* row, const float (&x)[4 * NJ], float scale, int D, bool add) {
  const int tx = static_cast<int>(threadIdx.x) % 16;
#pragma unroll
  for (int jj = 0; jj < NJ; ++jj) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int c = 4 * tx + 64 * jj + i;
      if (c >= D) continue;
      const float value = scale * x[4 * jj + i];
      row[c] = from_float<T>(add ? to_float(row[c]) + value : value);
    }
  }
}

// The virtual padding as one query row sees it; the 16 lanes of a row work together.
struct PaddingKeys {
  int count;
  const float *k, *v;
};
__device__ __forceinline__ PaddingKeys padding_keys(const allmrec_attention_args& a, int sequence, int h) {
  if (!a.pad_k) return {0, nullptr, nullptr};
  const int64_t at = static_cast<int64_t>(h) * a.head_dim;
  return {a.pad_count[sequence], a.pad_k + at, a.pad_v + at};
}
template <typename T>
__device__ __forceinline__ float dot_row(const T* row, const float* x, int D) {
  float sum = 0;
  for (int c = static_cast<int>(threadIdx.x) % 16; c < D; c += 16) sum = fmaf(to_float(row[c]), x[c], sum);
  return row_sum(sum);
}
// What dropout leaves of the padding's weight: (number kept) / count / (1 − p).
__device__ __forceinline__ float padding_factor(const allmrec_attention_args& a, const Dropout& dropout,
                                                int64_t t, int h, int count) {
  const uint64_t first = first_element(a, t, h), last = first + static_cast<uint64_t>(count);
  int kept = 0;
  for (uint64_t c = first / 8 + threadIdx.x % 16; c * 8 < last; c += 16) {
    unsigned bits = kept_of_eight(dropout, c);
    if (c * 8 < first) bits &= 0xffu << (first - c * 8);
    if (last - c * 8 < 8) bits &= (1u << (last - c * 8)) - 1;
    kept += __popc(bits);
  }
  return static_cast<float>(row_sum(kept)) * dropout.scale / static_cast<float>(count);
}

}  // namespace allmrec::cuda
