// Products of up to a dozen rows with a B stored (n, k): decoding, a token or a few against a weight matrix.
//
// Bound: reading B once. Packing B would cost more than it saves, so every column of C is a dot product of
// rows, kept in one vector of sums until its row of B ends. A is small and is read for every column: it is
// laid out beforehand so that what one vector of B meets lies side by side, in the format in which it is
// multiplied. Columns are taken a few at a time from as many places far apart, each followed by its
// neighbour: as many long streams, which the prefetchers follow across pages, and which are asked for some
// lines ahead as well.
// I8 and I4 are multiplied in bytes where the processor has the instruction, with rows of A rounded to int8
// as in gemm_int8.cpp, and in float32 otherwise.
#include <algorithm>

#include "gemm.h"
#include "gemm_few_rows.h"

namespace allmrec::cpu::ALLMREC_ISA {

namespace {

constexpr int64_t kMaxRows = 12;
constexpr int64_t kAhead = 1536;           // bytes of a stream that are asked for before they are needed
constexpr int64_t kTaskBytes = 512 << 10;  // of B, at most

#if ALLMREC_LANES == 16
constexpr int kMostRows = 12;  // in one pass over B
#else
constexpr int kMostRows = 4;
#endif

inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// Sums of all lanes: x[i]'s becomes lane i of x[0].
template <int Step, typename V>
ALLMREC_INLINE void fold(V (&x)[kLanes]) {
#pragma GCC unroll 16
  for (int i = 0; i < Step; ++i)
    x[i] = half_of<Step, false>(x[i], x[i + Step]) + half_of<Step, true>(x[i], x[i + Step]);
}
template <typename V>
ALLMREC_INLINE V lane_sums(V (&x)[kLanes]) {
#if ALLMREC_LANES == 16
  fold<8>(x);
#endif
#if ALLMREC_LANES >= 8
  fold<4>(x);
#endif
  fold<2>(x);
  fold<1>(x);
  return x[0];
}

inline float finish_one(float sum, const allmrec_gemm_args& g, int64_t i, int64_t j) {
  float v = g.alpha * sum;
  if (g.bias) v += g.bias[j];
  if (g.residual) v += f32(g.residual)[i * g.ld_residual + j];
  if (g.activation == ALLMREC_ACT_RELU && v < 0) v = 0;
  return g.accumulate ? v + f32(g.c)[i * g.ldc + j] : v;
}

ALLMREC_INLINE float sum_of(Vec x) {
  return horizontal_sum(x);
}
#if ALLMREC_LANES == 16
ALLMREC_INLINE float sum_of(IVec x) {
  return static_cast<float>(_mm512_reduce_add_epi32((__m512i)x));
}
ALLMREC_INLINE Vec to_sums(IVec x) {
  return to_float(x);
}
#endif
ALLMREC_INLINE Vec to_sums(Vec x) {
  return x;
}

// sums[i · C + c] = <row i of A, row c>; a and where its sums begin as they were laid out.
template <typename Format, int M, int C>
__attribute__((noinline)) void dot(const float* a, const typename Format::Sum* begins, const Row (&rows)[C],
                                   int64_t k, float* sums) {
  using Sum = typename Format::Sum;
  constexpr int64_t kStep = int64_t{M} * Format::kVectors * kLanes;  // of A
  constexpr int kSums = (M * C + kLanes - 1) / kLanes * kLanes;
  Sum acc[kSums];
#pragma GCC unroll 32
  for (int i = 0; i < kSums; ++i) acc[i] = Format::kBegins && i < M * C ? begins[i / C] : Sum{};
  const int64_t whole = k / Format::kDepth;
  for (int64_t step = 0; step < whole; ++step, a += kStep) {
    typename Format::Part b[C];
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      __builtin_prefetch(rows[c].values + step * Format::row_bytes(Format::kDepth) + kAhead);
      b[c] = Format::load(rows[c], step, Format::kDepth);
    }
#pragma GCC unroll 12
    for (int i = 0; i < M; ++i) {
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c)
        acc[i * C + c] = Format::add(acc[i * C + c], b[c], a + i * Format::kVectors * kLanes);
    }
  }
  if (k > whole * Format::kDepth) {
    const int64_t n = k - whole * Format::kDepth;
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      const typename Format::Part b = Format::load(rows[c], whole, n);
#pragma GCC unroll 12
      for (int i = 0; i < M; ++i)
        acc[i * C + c] = Format::add(acc[i * C + c], b, a + i * Format::kVectors * kLanes);
    }
  }
  if (M * C < kLanes) {
#pragma GCC unroll 32
    for (int i = 0; i < M * C; ++i) sums[i] = sum_of(acc[i]);
    return;
  }
#pragma GCC unroll 4
  for (int from = 0; from < kSums; from += kLanes) {
    Sum x[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) x[i] = acc[from + i];
    store(sums + from, to_sums(lane_sums(x)));
  }
}

// m rows of A laid out for passes of M rows, and what their sums are to be multiplied by.
template <typename Format>
struct LaidOut {
  const float* a;
  const typename Format::Sum* begins;
  const float* scales;
  int64_t pass;  // floats of a pass
};
template <typename Format, int M, typename Value>
LaidOut<Format> lay_out(Device& device, const allmrec_gemm_args& g, const Value* a) {
  const int64_t steps = ceil_div(g.k, Format::kDepth), passes = ceil_div(g.m, M);
  const int64_t vectors = Format::kVectors * kLanes, pass = steps * M * vectors;
  const int64_t begin_floats = Format::kBegins ? M * kLanes : 0;
  float* to = static_cast<float*>(device.shared_scratch(
      1, static_cast<size_t>(passes * (pass + begin_floats + M) + kLanes) * sizeof(float)));
  auto* begins = reinterpret_cast<typename Format::Sum*>(to + passes * pass);
  float* scales = to + passes * (pass + begin_floats);
  for (int64_t i = 0; i < passes * M; ++i) {
    float* row = to + i / M * pass + i % M * vectors;
    RowScale scale{0.0f, 0.0f};
    if constexpr (sizeof(Value) == 4) {
      if (i < g.m) scale = Format::scale_of(a + i * g.lda, g.k);
    } else {
      scale = {1.0f, 1.0f};
    }
    scales[i] = scale.scale;
    for (int64_t step = 0; step < steps; ++step) {
      const int64_t k0 = step * Format::kDepth, n = i < g.m ? std::min(Format::kDepth, g.k - k0) : 0;
      Format::lay_out(i < g.m ? a + i * g.lda + k0 : a, n, scale.inverse, row + step * M * vectors);
    }
    if constexpr (Format::kBegins) {
      begins[i] = typename Format::Sum{};
      for (int64_t step = 0; step < steps; ++step)
        begins[i] = Format::begin_of(begins[i], row + step * M * vectors);
    }
  }
  return {to, begins, scales, pass};
}

template <typename Format, int M, typename Value>
void run_rows(Device& device, const allmrec_gemm_args& g, const Value* from) {
  constexpr int C = kLanes == 16 ? (M <= 4 ? 4 : 2) : (M <= 2 ? 4 : 2);
  const LaidOut<Format> a = lay_out<Format, M>(device, g, from);
  const int64_t row_bytes = Format::row_bytes(g.ldb), groups = g.k / kGroup;
  const bool row_scaled = g.b_dtype == ALLMREC_I8;
  const int64_t share = ceil_div(g.n, 6 * device.pool.size());
  const int64_t step = std::max<int64_t>(16, std::min(share, kTaskBytes / std::max<int64_t>(1, row_bytes)));
  device.pool.parallel_for(g.n, step, [&](int64_t begin, int64_t end, int) {
    const int64_t distance = ceil_div(end - begin, C);
    for (int64_t j = begin; j < begin + distance; ++j) {
      int64_t column[C];
      Row rows[C];
      for (int c = 0; c < C; ++c) {
        column[c] = j + c * distance < end ? j + c * distance : j;
        rows[c].values = static_cast<const char*>(g.b) + column[c] * row_bytes;
        rows[c].scales =
            g.b_dtype == ALLMREC_I4 ? static_cast<const char*>(g.b_scales) + column[c] * groups * 2 : nullptr;
      }
      for (int64_t i0 = 0; i0 < g.m; i0 += M) {
        float sums[(M * C + kLanes - 1) / kLanes * kLanes];
        dot<Format, M, C>(a.a + i0 / M * a.pass, a.begins + i0, rows, g.k, sums);
        for (int c = 0; c < C && j + c * distance < end; ++c) {
          const float scale = row_scaled ? static_cast<const float*>(g.b_scales)[column[c]] : 1.0f;
          for (int64_t i = i0; i < std::min(g.m, i0 + M); ++i) {
            f32(g.c)[i * g.ldc + column[c]] =
                finish_one(sums[(i - i0) * C + c] * (scale * a.scales[i]), g, i, column[c]);
          }
        }
      }
    }
  });
}

template <typename Format, typename Value>
void run_format(Device& device, const allmrec_gemm_args& g, const Value* a) {
  if (g.m == 1) return run_rows<Format, 1>(device, g, a);
  if (g.m == 2) return run_rows<Format, 2>(device, g, a);
  if (g.m <= 4 || kMostRows == 4) return run_rows<Format, 4>(device, g, a);
#if ALLMREC_LANES == 16
  if (g.m <= 8) return run_rows<Format, 8>(device, g, a);
  run_rows<Format, 12>(device, g, a);
#endif
}

}  // namespace

bool gemm_few_rows(Device& device, const allmrec_gemm_args& g) {
  if (g.m > kMaxRows || g.k == 0 || g.trans_a || !g.trans_b || g.fixed_order) return false;
  const float* a = f32(g.a);
#if ALLMREC_LANES == 16
  const int32_t extras = device.kernels->extras;
  if ((extras & kDotBf16) && g.compute_dtype == ALLMREC_BF16 && g.b_dtype == ALLMREC_BF16) {
    g.a_dtype == ALLMREC_BF16 ? run_format<Bf16Pairs>(device, g, static_cast<const uint16_t*>(g.a))
                              : run_format<Bf16Pairs>(device, g, a);
    return true;
  }
  if (g.a_dtype != ALLMREC_F32) return false;
  if ((extras & kDotInt8) && is_quantized(g.b_dtype) && g.k <= kMaxByteK) {
    g.b_dtype == ALLMREC_I8 ? run_format<Int8Quads>(device, g, a) : run_format<Int4Quads>(device, g, a);
    return true;
  }
  if (g.b_dtype == ALLMREC_BF16) return run_format<Bf16AsFloats>(device, g, a), true;
#else
  if (g.b_dtype == ALLMREC_BF16) return run_format<Floats<ALLMREC_BF16>>(device, g, a), true;
#endif
  if (g.b_dtype == ALLMREC_F32) return run_format<Floats<ALLMREC_F32>>(device, g, a), true;
  if (g.b_dtype == ALLMREC_F16) return run_format<Floats<ALLMREC_F16>>(device, g, a), true;
  g.b_dtype == ALLMREC_I8 ? run_format<Int8AsFloats>(device, g, a) : run_format<Int4AsFloats>(device, g, a);
  return true;
}

}  // namespace allmrec::cpu::ALLMREC_ISA
