#pragma once

// Dot products of kDotColumns rows of b with up to kDotRows rows of a, both as they lie in memory: the scores
// of few queries against keys.

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

}  // namespace
}  // namespace allmrec::cpu::ALLMREC_ISA
