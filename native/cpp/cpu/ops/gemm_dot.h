#pragma once

// Products with few rows of A against a stored-transposed B (decoding: one token against a weight matrix).
// Packing B would cost more than it saves; here every row of B is read once, as dot products of kDotColumns
// rows of B with up to kDotRows rows of A. The kDotColumns rows lie far apart and each is followed by its
// neighbour: as many long streams, which the prefetchers follow across pages (measured 23 GB/s, against 13
// for rows side by side).

#include "gemm_kernel.h"

namespace allmrec::cpu::ALLMREC_ISA {
namespace {

#if ALLMREC_LANES == 16 || defined(__aarch64__)
constexpr int kDotRows = 6;
#else
constexpr int kDotRows = 2;
#endif
constexpr int kDotColumns = 4;

// sums[i][j] = <row i of a, k values of b from row[j] on>; the rows at row[j] + ldb come next.
template <int32_t Dtype, int M>
__attribute__((noinline)) void dot_rows(const float* a, int64_t lda, const void* b,
                                        const int64_t (&row)[kDotColumns], int64_t ldb, int64_t k,
                                        float (&sums)[kDotRows][kDotColumns]) {
  constexpr int R = kDotColumns;
  constexpr int U = M == 1 ? 2 : 1;  // two chains per dot product when there are registers for them
  Vec acc[M][R][U];
#pragma GCC unroll 16
  for (int i = 0; i < M * R * U; ++i) acc[i / (R * U)][i / U % R][i % U] = zero();
  int64_t p = 0;
  for (; p + U * kLanes <= k; p += U * kLanes) {
#pragma GCC unroll 2
    for (int u = 0; u < U; ++u) {
      if (M > 2) {  // the window of instructions in flight no longer reaches far enough: ask for the next row
                    // early
        constexpr int64_t kBytes = Dtype == ALLMREC_F32 ? 4 : 2;
#pragma GCC unroll 4
        for (int j = 0; j < R; ++j) {
          __builtin_prefetch(static_cast<const char*>(b) + (row[j] + ldb + p) * kBytes);
        }
      }
      Vec x[R];
#pragma GCC unroll 4
      for (int j = 0; j < R; ++j) x[j] = load_as_float(b, row[j] + p + u * kLanes, Dtype, kLanes);
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) {
        const Vec y = load(a + i * lda + p + u * kLanes);
#pragma GCC unroll 4
        for (int j = 0; j < R; ++j) acc[i][j][u] = fma(x[j], y, acc[i][j][u]);
      }
    }
  }
  for (; p < k; p += kLanes) {
    const int64_t n = k - p;
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      const Vec y = load_n(a + i * lda + p, n);
#pragma GCC unroll 4
      for (int j = 0; j < R; ++j) acc[i][j][0] = fma(load_as_float(b, row[j] + p, Dtype, n), y, acc[i][j][0]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < R; ++j) {
      Vec s = acc[i][j][0];
      if (U == 2) s += acc[i][j][U - 1];
      sums[i][j] = horizontal_sum(s);
    }
  }
}

template <int32_t Dtype>
void dot_rows_any(int64_t rows, const float* a, int64_t lda, const void* b, const int64_t (&row)[kDotColumns],
                  int64_t ldb, int64_t k, float (&sums)[kDotRows][kDotColumns]) {
  switch (rows) {
    case 1:
      return dot_rows<Dtype, 1>(a, lda, b, row, ldb, k, sums);
    case 2:
      return dot_rows<Dtype, 2>(a, lda, b, row, ldb, k, sums);
#if ALLMREC_LANES == 16 || defined(__aarch64__)
    case 3:
      return dot_rows<Dtype, 3>(a, lda, b, row, ldb, k, sums);
    case 4:
      return dot_rows<Dtype, 4>(a, lda, b, row, ldb, k, sums);
    case 5:
      return dot_rows<Dtype, 5>(a, lda, b, row, ldb, k, sums);
    case 6:
      return dot_rows<Dtype, 6>(a, lda, b, row, ldb, k, sums);
#endif
  }
}

inline float finish_one(float sum, const allmrec_gemm_args& g, int64_t i, int64_t j) {
  float v = g.alpha * sum;
  if (g.bias) v += g.bias[j];
  if (g.residual) v += f32(g.residual)[i * g.ld_residual + j];
  if (g.activation == ALLMREC_ACT_RELU && v < 0) v = 0;
  return g.accumulate ? v + f32(g.c)[i * g.ldc + j] : v;
}

// Columns j0 … j1 − 1 of C, all rows. rows_at(row of each of kDotColumns columns) says where those rows of B
// are, and how far behind each its next one.
struct RowsOfB {
  const void* base;
  int64_t row[kDotColumns];  // in elements
  int64_t next;
};
template <int32_t Dtype, typename RowsAt>
void dot_columns(const allmrec_gemm_args& g, int64_t j0, int64_t j1, RowsAt rows_at) {
  const float* a = static_cast<const float*>(g.a);
  const int64_t distance = (j1 - j0 + kDotColumns - 1) / kDotColumns;
  const int64_t passes = (g.m + kDotRows - 1) / kDotRows, step = (g.m + passes - 1) / passes;
  for (int64_t j = j0; j < j0 + distance; ++j) {
    int64_t column[kDotColumns];
    for (int c = 0; c < kDotColumns; ++c) column[c] = j + c * distance < j1 ? j + c * distance : j;
    const RowsOfB b = rows_at(column);
    for (int64_t i = 0; i < g.m; i += step) {
      const int64_t rows = g.m - i < step ? g.m - i : step;
      float sums[kDotRows][kDotColumns];
      dot_rows_any<Dtype>(rows, a + i * g.lda, g.lda, b.base, b.row, b.next, g.k, sums);
      for (int64_t r = 0; r < rows; ++r) {
        for (int c = 0; c < kDotColumns; ++c) {
          if (j + c * distance >= j1) break;
          f32(g.c)[(i + r) * g.ldc + column[c]] = finish_one(sums[r][c], g, i + r, column[c]);
        }
      }
    }
  }
}

template <int32_t Dtype>
void dot_columns(const allmrec_gemm_args& g, int64_t j0, int64_t j1) {
  dot_columns<Dtype>(g, j0, j1, [&](const int64_t(&column)[kDotColumns]) {
    RowsOfB b{g.b, {}, g.ldb};
    for (int c = 0; c < kDotColumns; ++c) b.row[c] = column[c] * g.ldb;
    return b;
  });
}

// I8 and I4: the rows are dequantised into the cache, and from there on are like any other.
inline int64_t dequantized_row(int64_t k) {
  return k + 2 * kGroup;
}
inline size_t dequantized_bytes(int64_t k) {
  return static_cast<size_t>(kDotColumns * dequantized_row(k)) * sizeof(float);
}
inline void dot_quantized_columns(const allmrec_gemm_args& g, int64_t j0, int64_t j1, float* rows) {
  dot_columns<ALLMREC_F32>(g, j0, j1, [&](const int64_t(&column)[kDotColumns]) {
    RowsOfB b{rows, {}, 0};
    for (int c = 0; c < kDotColumns; ++c) {
      b.row[c] = c * dequantized_row(g.k);
      dequantize(g.b, g.b_scales, g.b_dtype, g.ldb, column[c], 0, g.k, rows + b.row[c]);
    }
    return b;
  });
}

}  // namespace
}  // namespace allmrec::cpu::ALLMREC_ISA
