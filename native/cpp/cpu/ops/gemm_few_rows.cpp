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
#include "gemm_int8.h"
#include "gemm_kernel.h"

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

// A row of B.
struct Row {
  const char* values;
  const char* scales;  // of the row's groups
};

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

// ---- what B is stored as, and A laid out to meet it ----
// kDepth: k of one step; kVectors: vectors of A a row and step; Sum: what is added to; row_bytes: of B;
// lay_out: n (0 … kDepth) values of a row of A; load: B's part of a step, zero behind n values where that
// matters; add: sum + that part times a row's.

// F32, F16, BF16 in float32 arithmetic.
template <int32_t Dtype>
struct Floats {
  static constexpr int64_t kDepth = kLanes;
  static constexpr int kVectors = 1;
  using Sum = Vec;
  using Part = Vec;
  static int64_t row_bytes(int64_t k) { return k * size_of(Dtype); }
  static RowScale scale_of(const float*, int64_t) { return {1.0f, 1.0f}; }
  static void lay_out(const float* a, int64_t n, float, float* to) { store(to, load_n(a, n)); }
  ALLMREC_INLINE Part load(const Row& row, int64_t step, int64_t n) {
    return load_as_float(row.values, step * kDepth, Dtype, n);
  }
  ALLMREC_INLINE Sum add(Sum sum, const Part& b, const float* a) {
    return fma(b, cpu::ALLMREC_ISA::load(a), sum);
  }
};

// Bytes as floats; the scale of the row comes last.
struct Int8AsFloats {
  static constexpr int64_t kDepth = kLanes;
  static constexpr int kVectors = 1;
  using Sum = Vec;
  using Part = Vec;
  static int64_t row_bytes(int64_t k) { return k; }
  static RowScale scale_of(const float*, int64_t) { return {1.0f, 1.0f}; }
  static void lay_out(const float* a, int64_t n, float, float* to) { store(to, load_n(a, n)); }
  ALLMREC_INLINE Part load(const Row& row, int64_t step, int64_t n) {
    typedef int8_t Bytes __attribute__((vector_size(ALLMREC_LANES)));
    Bytes q{};
    std::memcpy(&q, row.values + step * kDepth, n >= kLanes ? kLanes : static_cast<size_t>(n));
    return __builtin_convertvector(q, Vec);
  }
  ALLMREC_INLINE Sum add(Sum sum, const Part& b, const float* a) {
    return fma(b, cpu::ALLMREC_ISA::load(a), sum);
  }
};

// A group a step, as floats with their scale.
struct Int4AsFloats {
  static constexpr int64_t kDepth = kGroup;
  static constexpr int kVectors = kGroup / kLanes;
  using Sum = Vec;
  struct Part {
    Vec x[kVectors];
  };
  static int64_t row_bytes(int64_t k) { return k / 2; }
  static RowScale scale_of(const float*, int64_t) { return {1.0f, 1.0f}; }
  static void lay_out(const float* a, int64_t n, float, float* to) {
    for (int v = 0; v < kVectors; ++v) store(to + v * kLanes, load_n(a + v * kLanes, n - v * kLanes));
  }
  ALLMREC_INLINE Part load(const Row& row, int64_t step, int64_t) {
    typedef uint8_t Bytes __attribute__((vector_size(ALLMREC_LANES)));
    uint16_t scale_bits;
    std::memcpy(&scale_bits, row.scales + 2 * step, 2);
    const float scale = f16_to_float(scale_bits);
    Part part;
#pragma GCC unroll 4
    for (int v = 0; v < kVectors / 2; ++v) {
      Bytes q;
      std::memcpy(&q, row.values + step * (kGroup / 2) + v * kLanes, sizeof q);
      const IVec both = __builtin_convertvector(q, IVec);
      part.x[v] = to_float((both & 15) - 8) * scale;
      part.x[v + kVectors / 2] = to_float((both >> 4) - 8) * scale;
    }
    return part;
  }
  ALLMREC_INLINE Sum add(Sum sum, const Part& b, const float* a) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sum = fma(b.x[v], cpu::ALLMREC_ISA::load(a + v * kLanes), sum);
    return sum;
  }
};

#if ALLMREC_LANES == 16

ALLMREC_INLINE __mmask32 words(int64_t n) {
  return static_cast<__mmask32>(n >= 32 ? 0xffffffffu : n <= 0 ? 0u : (1u << n) - 1u);
}
ALLMREC_INLINE Vec load_words(const char* p, int64_t n) {
  return _mm512_castsi512_ps(n >= 32 ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi16(words(n), p));
}

// BF16 in float32 arithmetic, 32 at a time: those of even places and those of odd ones.
struct Bf16AsFloats {
  static constexpr int64_t kDepth = 32;
  static constexpr int kVectors = 2;
  using Sum = Vec;
  struct Part {
    Vec even, odd;
  };
  static int64_t row_bytes(int64_t k) { return 2 * k; }
  static RowScale scale_of(const float*, int64_t) { return {1.0f, 1.0f}; }
  static void lay_out(const float* a, int64_t n, float, float* to) {
    const __m512i places = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const Vec x = load_n(a, n), y = load_n(a + kLanes, n - kLanes);
    store(to, _mm512_permutex2var_ps(x, places, y));
    store(to + kLanes, _mm512_permutex2var_ps(x, _mm512_add_epi32(places, _mm512_set1_epi32(1)), y));
  }
  ALLMREC_INLINE Part load(const Row& row, int64_t step, int64_t n) {
    const IVec pairs = as_int(load_words(row.values + 2 * step * kDepth, n));
    return {as_float(pairs << 16), as_float(pairs & static_cast<int32_t>(0xffff0000u))};
  }
  ALLMREC_INLINE Sum add(Sum sum, const Part& b, const float* a) {
    sum = fma(b.even, cpu::ALLMREC_ISA::load(a), sum);
    return fma(b.odd, cpu::ALLMREC_ISA::load(a + kLanes), sum);
  }
};

// BF16, A rounded to it.
struct Bf16Pairs {
  static constexpr int64_t kDepth = 32;
  static constexpr int kVectors = 1;
  using Sum = Vec;
  using Part = Vec;
  static int64_t row_bytes(int64_t k) { return 2 * k; }
  static RowScale scale_of(const float*, int64_t) { return {1.0f, 1.0f}; }
  static void lay_out(const float* a, int64_t n, float, float* to) {
    store(to, round_to_bf16(load_n(a, n), load_n(a + kLanes, n - kLanes)));
  }
  static void lay_out(const uint16_t* a, int64_t n, float, float* to) {
    store(to, load_words(reinterpret_cast<const char*>(a), n));
  }
  ALLMREC_INLINE Part load(const Row& row, int64_t step, int64_t n) {
    return load_words(row.values + 2 * step * kDepth, n);
  }
  ALLMREC_INLINE Sum add(Sum sum, const Part& b, const float* a) {
    return dot_bf16(cpu::ALLMREC_ISA::load(a), b, sum);
  }
};

// 64 values of A as signed bytes.
ALLMREC_INLINE __m512i to_bytes(const float* a, int64_t n, float inverse) {
  alignas(64) int8_t q[64];
  for (int v = 0; v < 4; ++v) {
    const IVec whole = round_to_int(load_n(a + v * kLanes, n - v * kLanes) * inverse);
    _mm_store_si128(reinterpret_cast<__m128i*>(q + v * kLanes), _mm512_cvtepi32_epi8((__m512i)whole));
  }
  return _mm512_load_si512(q);
}

// I8, A rounded to it. The instruction wants one side unsigned: B's is b + 128, and the sums begin with
// −128 · Σ a, which stands behind A's bytes.
struct Int8Quads {
  static constexpr int64_t kDepth = 64;
  static constexpr int kVectors = 2;
  using Sum = IVec;
  struct Part {
    IVec b;
  };
  static int64_t row_bytes(int64_t k) { return k; }
  static RowScale scale_of(const float* a, int64_t k) { return row_scale(a, k); }
  static void lay_out(const float* a, int64_t n, float inverse, float* to) {
    const IVec q = (IVec)to_bytes(a, n, inverse);
    store_i(reinterpret_cast<int32_t*>(to), q);
    store_i(reinterpret_cast<int32_t*>(to) + kLanes,
            -dot_bytes(broadcast_i(static_cast<int32_t>(0x80808080u)), q, IVec{}));
  }
  ALLMREC_INLINE Part load(const Row& row, int64_t step, int64_t n) {
    const char* p = row.values + step * kDepth;
    const __m512i q = n >= 64 ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi8((uint64_t{1} << n) - 1, p);
    return {(IVec)q ^ static_cast<int32_t>(0x80808080u)};
  }
  ALLMREC_INLINE Sum add(Sum sum, const Part& b, const float* a) {
    const int32_t* q = reinterpret_cast<const int32_t*>(a);
    return dot_bytes(b.b, load_i(q), sum + load_i(q + kLanes));
  }
};

// I4, A rounded to int8: four groups a step, the low halves of all four and then the high ones, each group in
// the four lanes of a quarter. B's nibbles are b + 8; the sums begin with −8 · Σ a.
struct Int4Quads {
  static constexpr int64_t kDepth = 4 * kGroup;
  static constexpr int kVectors = 3;
  using Sum = Vec;
  struct Part {
    IVec low, high;
    Vec scale;
  };
  static int64_t row_bytes(int64_t k) { return k / 2; }
  static RowScale scale_of(const float* a, int64_t k) { return row_scale(a, k); }
  static void lay_out(const float* a, int64_t n, float inverse, float* to) {
    const __m512i x = to_bytes(a, n, inverse), y = to_bytes(a + 64, n - 64, inverse);
    const __m512i lows = _mm512_setr_epi64(0, 1, 4, 5, 8, 9, 12, 13);
    const IVec low = (IVec)_mm512_permutex2var_epi64(x, lows, y);
    const IVec high = (IVec)_mm512_permutex2var_epi64(x, _mm512_add_epi64(lows, _mm512_set1_epi64(2)), y);
    int32_t* q = reinterpret_cast<int32_t*>(to);
    store_i(q, low);
    store_i(q + kLanes, high);
    const IVec eights = broadcast_i(0x08080808);
    store_i(q + 2 * kLanes, -dot_bytes(eights, low, dot_bytes(eights, high, IVec{})));
  }
  ALLMREC_INLINE Part load(const Row& row, int64_t step, int64_t n) {
    const char* p = row.values + step * (kDepth / 2);
    const char* s = row.scales + step * 8;
    const bool whole = n >= kDepth;
    const __m512i q = whole ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi8((uint64_t{1} << n / 2) - 1, p);
    const __m128i halves = whole ? _mm_loadl_epi64(reinterpret_cast<const __m128i*>(s))
                                 : _mm_maskz_loadu_epi16(static_cast<__mmask8>((1u << n / kGroup) - 1), s);
    const __m512i group = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    const __m512i four_bits = _mm512_set1_epi8(15);
    return {(IVec)_mm512_and_si512(q, four_bits), (IVec)_mm512_and_si512(_mm512_srli_epi16(q, 4), four_bits),
            _mm512_permutexvar_ps(group, _mm512_castps128_ps512(_mm_cvtph_ps(halves)))};
  }
  ALLMREC_INLINE Sum add(Sum sum, const Part& b, const float* a) {
    const int32_t* q = reinterpret_cast<const int32_t*>(a);
    const IVec whole =
        dot_bytes(b.high, load_i(q + kLanes), dot_bytes(b.low, load_i(q), load_i(q + 2 * kLanes)));
    return fma(to_float(whole), b.scale, sum);
  }
};

#endif

// ---- the loops ----

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

// sums[i · C + c] = <row i of A, row c>; a as it was laid out.
template <typename Format, int M, int C>
__attribute__((noinline)) void dot(const float* a, const Row (&rows)[C], int64_t k, float* sums) {
  using Sum = typename Format::Sum;
  constexpr int64_t kStep = int64_t{M} * Format::kVectors * kLanes;  // of A
  constexpr int kSums = (M * C + kLanes - 1) / kLanes * kLanes;
  Sum acc[kSums];
#pragma GCC unroll 32
  for (int i = 0; i < kSums; ++i) acc[i] = Sum{};
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
struct LaidOut {
  const float* a;
  const float* scales;
  int64_t pass;  // floats of a pass
};
template <typename Format, int M, typename Value>
LaidOut lay_out(Device& device, const allmrec_gemm_args& g, const Value* a) {
  const int64_t steps = ceil_div(g.k, Format::kDepth), passes = ceil_div(g.m, M);
  const int64_t vectors = Format::kVectors * kLanes, pass = steps * M * vectors;
  float* to = static_cast<float*>(
      device.shared_scratch(1, static_cast<size_t>(passes * (pass + M) + kLanes) * sizeof(float)));
  float* scales = to + passes * pass;
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
  }
  return {to, scales, pass};
}

template <typename Format, int M, typename Value>
void run_rows(Device& device, const allmrec_gemm_args& g, const Value* from) {
  constexpr int C = kLanes == 16 ? (M <= 4 ? 4 : 2) : (M <= 2 ? 4 : 2);
  const LaidOut a = lay_out<Format, M>(device, g, from);
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
        dot<Format, M, C>(a.a + i0 / M * a.pass, rows, g.k, sums);
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
