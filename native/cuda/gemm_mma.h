#pragma once

// What the matrix products of halves have in common: tiles in shared memory, their way in, the fragments they
// are read as, and the way of the sums out of registers.
//
// A tile is Rows (of m or n) × 32 (of k) halves, in the orientation it has in memory: rows of 32 along k, or
// 32 rows along m or n. Its 16-byte chunks are exchanged within a row (swizzled) so that the eight rows of an
// 8 × 8 fragment, which ldmatrix reads at once, lie in eight different groups of banks, and so do the chunks
// that cp.async writes at once.

#include "gemm_kernels.h"
#include "intrinsics.h"

namespace allmrec::cuda {

constexpr int kMmaDepth = 32;

//
// Padded tiles, along k with eight halves between rows, are for kernels that write element by element: their
// places are linear in row and k, and an 8 × 8 fragment's rows lie in different banks as well.
template <typename T, int Rows, bool AlongK, bool Padded = false>
struct MmaTile {
  static_assert(AlongK || !Padded, "only along k");
  static constexpr int kRow = kMmaDepth + 8;  // of a padded tile
  static constexpr int kElements = Rows * (Padded ? kRow : kMmaDepth);

  // The place of chunk `chunk` of row `outer`: (row, k / 8) along k, (k, row / 8) otherwise.
  static __device__ __forceinline__ int chunk_at(int outer, int chunk) {
    if (Padded) return outer * kRow + chunk * 8;
    return AlongK ? outer * kMmaDepth + ((chunk ^ (outer >> 1 & 3)) << 3)
                  : outer * Rows + ((chunk ^ (outer & 7)) << 3);
  }

  // A fragments: 16 rows × 16 (half `step` of the tile's depth) each, from row0 on.
  template <int Count>
  static __device__ __forceinline__ void load_a(uint32_t (&fragment)[Count][4], const T* tile, int row0,
                                                int step, int lane) {
#pragma unroll
    for (int i = 0; i < Count; ++i) {
      if constexpr (AlongK) {
        ldmatrix_x4(fragment[i], tile + chunk_at(row0 + i * 16 + lane % 16, step * 2 + lane / 16));
      } else {
        ldmatrix_x4_trans(fragment[i], tile + chunk_at(step * 16 + lane / 16 * 8 + lane % 8,
                                                       (row0 + i * 16) / 8 + lane / 8 % 2));
      }
    }
  }

  // B fragments: 16 × 8 columns each, two at a time, from column col0 on.
  template <int Count>
  static __device__ __forceinline__ void load_b(uint32_t (&fragment)[Count][2], const T* tile, int col0,
                                                int step, int lane) {
    static_assert(Count % 2 == 0, "columns come in sixteens");
#pragma unroll
    for (int i = 0; i < Count; i += 2) {
      uint32_t pair[4];
      if constexpr (AlongK) {
        ldmatrix_x4(pair, tile + chunk_at(col0 + i * 8 + lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2));
      } else {
        ldmatrix_x4_trans(
            pair, tile + chunk_at(step * 16 + lane / 8 % 2 * 8 + lane % 8, (col0 + i * 8) / 8 + lane / 16));
      }
      fragment[i][0] = pair[0];
      fragment[i][1] = pair[1];
      fragment[i + 1][0] = pair[2];
      fragment[i + 1][1] = pair[3];
    }
  }
};

// Brings the tiles of one operand to shared memory by cp.async, one after the other along k: 16-byte chunks
// that lie inside or outside as a whole (GemmOperands::vector_a, vector_b).
template <typename T, int Rows, bool AlongK, int Threads>
struct MmaLoader {
  static constexpr int kChunks = AlongK ? kMmaDepth / 8 : Rows / 8;  // of a row of the tile
  static constexpr int kStep = Threads / kChunks;                    // tile rows between a thread's chunks
  static constexpr int kCount = Rows * kMmaDepth / 8 / Threads;      // chunks of a thread
  static_assert(kStep % 8 == 0 && kCount * Threads * 8 == Rows * kMmaDepth, "the swizzle repeats with kStep");

  const T* next;
  int64_t step;
  int outer_left, inner_left;  // what remains of the matrix from this thread's first chunk on

  __device__ __forceinline__ MmaLoader(const T* x, int64_t ld, int64_t row0, int64_t rows, int64_t k_begin,
                                       int64_t k_end) {
    const int thread = static_cast<int>(threadIdx.x);
    const int outer = thread / kChunks, inner = thread % kChunks * 8;
    const int rows_left = static_cast<int>(min(rows - row0, int64_t{Rows}));
    const int k_left = static_cast<int>(k_end - k_begin);
    if (AlongK) {
      next = x + (row0 + outer) * ld + k_begin + inner;
      outer_left = rows_left - outer;
      inner_left = k_left - inner;
    } else {
      next = x + (k_begin + outer) * ld + row0 + inner;
      outer_left = k_left - outer;
      inner_left = rows_left - inner;
    }
    step = kStep * ld;
  }

  // `base`: any address that may be named where nothing is read.
  __device__ __forceinline__ void load(T* tile, const T* base) {
    const int thread = static_cast<int>(threadIdx.x);
    T* to = tile + MmaTile<T, Rows, AlongK>::chunk_at(thread / kChunks, thread % kChunks);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const bool inside = i * kStep < outer_left && inner_left > 0;
      cp_async_16(to + i * kStep * (AlongK ? kMmaDepth : Rows), inside ? next + i * step : base, inside);
    }
    next += AlongK ? kMmaDepth : step * (kMmaDepth / kStep);
    (AlongK ? inner_left : outer_left) -= kMmaDepth;
  }
};

template <typename T, int RowFragments, int ColFragments>
__device__ __forceinline__ void multiply(float (&sum)[RowFragments][ColFragments][4],
                                         const uint32_t (&a)[RowFragments][4],
                                         const uint32_t (&b)[ColFragments][2]) {
#pragma unroll
  for (int i = 0; i < RowFragments; ++i) {
#pragma unroll
    for (int j = 0; j < ColFragments; ++j) mma_m16n8k16<T>(sum[i][j], a[i], b[j]);
  }
}

// A whole tile's depth at once, for the kernels that prefetch no fragments.
template <typename T, typename TileA, typename TileB, int RowFragments, int ColFragments>
__device__ __forceinline__ void multiply_tiles(float (&sum)[RowFragments][ColFragments][4], const T* tile_a,
                                               const T* tile_b, int row0, int col0, int lane) {
#pragma unroll
  for (int step = 0; step < kMmaDepth / 16; ++step) {
    uint32_t a[RowFragments][4], b[ColFragments][2];
    TileA::load_a(a, tile_a, row0, step, lane);
    TileB::load_b(b, tile_b, col0, step, lane);
    multiply<T>(sum, a, b);
  }
}

// What store_fragments needs of shared memory, for all warps.
template <int Warps, int Cols>
constexpr size_t kStoreBytes = sizeof(float) * Warps * 16 * (Cols + 8);

// A warp's sums, whose first row and column are row0 and col0 of the matrix. They pass through shared memory
// (`staging`, the warp's own), 16 rows at a time, so that lanes hold neighbouring outputs and memory sees
// whole sectors. All tiles must have been read by all warps. `scales`: of the columns, or null.
template <typename T, int RowFragments, int ColFragments>
__device__ __forceinline__ void store_fragments(GemmEpilogue e,
                                                const float (&sum)[RowFragments][ColFragments][4],
                                                int64_t row0, int64_t col0, int lane, float* staging,
                                                const float* scales = nullptr) {
  constexpr int kCols = ColFragments * 8, kStride = kCols + 8;  // eight more: no two rows in the same banks
  constexpr int kLanes = kCols / 4, kRows = kWarp / kLanes;     // lanes a row, rows at once
  if (e.float_c) e.c = static_cast<float*>(e.c) + blockIdx.y * e.part_stride;
  const int64_t col = col0 + lane % kLanes * 4;
#pragma unroll
  for (int i = 0; i < RowFragments; ++i) {
    if (i > 0) __syncwarp();
    float* to = staging + lane / 4 * kStride + lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < ColFragments; ++j) {
      *reinterpret_cast<Neighbours<float, 2>*>(to + j * 8) = {sum[i][j][0], sum[i][j][1]};
      *reinterpret_cast<Neighbours<float, 2>*>(to + 8 * kStride + j * 8) = {sum[i][j][2], sum[i][j][3]};
    }
    __syncwarp();
#pragma unroll 1
    for (int row = lane / kLanes; row < 16; row += kRows) {
      Neighbours<float, 4> out =
          *reinterpret_cast<const Neighbours<float, 4>*>(staging + row * kStride + lane % kLanes * 4);
#pragma unroll
      for (int x = 0; x < 4; ++x) {
        if (scales && col + x < e.n) out.value[x] *= __ldg(scales + col + x);
      }
      if (e.float_c) {
        store_sums<float>(e, row0 + i * 16 + row, col, out.value);
      } else {
        store_sums<T>(e, row0 + i * 16 + row, col, out.value);
      }
    }
  }
}

}  // namespace allmrec::cuda
