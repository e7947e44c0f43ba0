#pragma once

// The inner loops of the matrix product: a tile of kMR × kNR outputs held in registers, and the copying of
// both operands into the order in which that tile reads them.
//
// Both operands are seen in units of 32 bits, which hold one float32 or two bfloat16 of neighbouring k: what
// is said of k below counts units. The B side is packed into panels of kNR columns: for each k the kNR units
// lie together, so the tile loads whole vectors. The A side needs single values to broadcast and is read
// either along its rows (ByRow: stride between the rows, k contiguous) or, for a transposed A, down its
// columns (stride between the k, rows contiguous).

#include <utility>

#include "../../backend/backend.h"
#include "dtype.h"

namespace allmrec::cpu::ALLMREC_ISA {
namespace {

#if ALLMREC_LANES == 16 || defined(__aarch64__)
constexpr int kMR = 12;  // 24 of 32 registers accumulate
#else
constexpr int kMR = 6;  // 12 of 16
#endif
constexpr int kNV = 2;
constexpr int kNR = kNV * kLanes;

// What happens to alpha · sum on its way into C, in this order.
struct Epilogue {
  float alpha;
  const float* bias;
  const float* residual;
  int64_t ld_residual;
  bool add_c;  // C holds earlier terms of the sum, or is accumulated into
  bool relu;
  bool add_c_after_relu;
};

struct Tile {
  int64_t k;
  const float* a;
  int64_t a_stride;
  const float* b;  // packed, or rows of the matrix itself
  int64_t b_stride;
  float* c;
  int64_t ldc;
  int rows, cols;  // valid ones
};

ALLMREC_INLINE Vec finish(Vec sum, const Epilogue& e, const float* bias, const float* residual,
                          const float* c, int64_t n) {
  const bool whole = n >= kLanes;
  const auto get = [&](const float* p) { return whole ? load(p) : load_n(p, n); };
  // Written as one operation, or the compiler would choose, differently in different tiles.
  Vec v = fma(sum, broadcast(e.alpha), bias ? get(bias) : zero());
  if (residual) v += get(residual);
  if (e.add_c) v += get(c);
  if (e.relu) v = max(zero(), v);  // in this order NaN stays NaN
  if (e.add_c_after_relu) v += get(c);
  return v;
}

// n sums of row i from column j on, finished and stored.
ALLMREC_INLINE void store_finished(Vec sum, const allmrec_gemm_args& g, int64_t i, int64_t j, int64_t n) {
  const bool relu = g.activation == ALLMREC_ACT_RELU;
  Epilogue e{};
  e.alpha = g.alpha;
  e.add_c = g.accumulate && !relu;
  e.relu = relu;
  e.add_c_after_relu = g.accumulate && relu;
  float* c = f32(g.c) + i * g.ldc + j;
  const float* residual = g.residual ? f32(g.residual) + i * g.ld_residual + j : nullptr;
  const Vec x = finish(sum, e, g.bias ? g.bias + j : nullptr, residual, c, n);
  n >= kLanes ? store(c, x) : store_n(c, x, n);
}

// The rarer ways of a tile's sums into C: rows of `vectors` vectors.
inline __attribute__((noinline)) void finish_tile(const Tile& t, const Epilogue& e, const float* sums,
                                                  int vectors) {
  for (int r = 0; r < t.rows; ++r) {
    float* c = t.c + r * t.ldc;
    const float* residual = e.residual ? e.residual + r * e.ld_residual : nullptr;
    for (int v = 0; v < vectors; ++v) {
      const int64_t at = v * kLanes, n = t.cols - at;
      const Vec x = finish(load(sums + r * vectors * kLanes + at), e, e.bias ? e.bias + at : nullptr,
                           residual ? residual + at : nullptr, c + at, n);
      n >= kLanes ? store(c + at, x) : store_n(c + at, x, n);
    }
  }
}

// On AVX-512 a last group of up to 8 columns is half a vector: 50 columns cost 3½ vectors, not 4.
#if ALLMREC_LANES == 16
ALLMREC_INLINE HalfVec low_half(Vec v) {
  return _mm512_castps512_ps256(v);
}
ALLMREC_INLINE Vec widen(HalfVec v) {
  return _mm512_zextps256_ps512(v);
}
#else
typedef Vec HalfVec;    // never used
ALLMREC_INLINE HalfVec low_half(Vec v) {
  return v;
}
ALLMREC_INLINE Vec widen(HalfVec v) {
  return v;
}
#endif

// With masked loads a panel of B need not be packed: rows of a matrix that lie close together do as well.
constexpr bool kRowsOfB = kLanes == 16;

// The columns of a panel's last vector.
#if ALLMREC_LANES == 16
typedef __mmask16 Edge;
ALLMREC_INLINE Edge edge_of(int64_t n) {
  return first_lanes(n);
}
ALLMREC_INLINE Vec load_edge(const float* p, Edge edge) {
  return _mm512_maskz_loadu_ps(edge, p);
}
#else
struct Edge {};
ALLMREC_INLINE Edge edge_of(int64_t) {
  return {};
}
ALLMREC_INLINE Vec load_edge(const float* p, Edge) {
  return load(p);
}
#endif

// What a unit holds: how many k, and c + the products of a and b.
struct FloatUnits {
  static constexpr int kPerUnit = 1;
  ALLMREC_INLINE Vec multiply_add(Vec a, Vec b, Vec c) { return fma(a, b, c); }
#if ALLMREC_LANES == 16
  ALLMREC_INLINE HalfVec multiply_add(HalfVec a, HalfVec b, HalfVec c) {
    return a * b + c;
  }
#endif
};

// MR rows by NV vectors and, with Half, half a vector of columns.
template <typename Units, int MR, int NV, bool Half, bool ByRow>
__attribute__((noinline)) void multiply_tile(const Tile& t, const Epilogue& e) {
  Vec acc[MR][NV + 1];
  HalfVec half[MR];
#pragma GCC unroll 16
  for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) acc[r][v] = zero();
    half[r] = HalfVec{};
  }
  const float* a = t.a;
  const float* b = t.b;
  const int64_t a_stride = t.a_stride, b_stride = t.b_stride;
  const Edge edge = edge_of(t.cols - (NV + Half - 1) * kLanes);
  // C's rows lie far apart, where no prefetcher looks.
#pragma GCC unroll 16
  for (int r = 0; r < MR; ++r) {
    const float* row = t.c + (r < t.rows ? r : 0) * t.ldc;
#pragma GCC unroll 4
    for (int v = 0; v < NV + Half; ++v) __builtin_prefetch(row + v * kLanes, 1);
  }
  // Three rows per pointer: with fewer registers for addresses than rows the compiler would reload them in
  // the loop.
  const float* base[(MR + 2) / 3];
  for (int r = 0; r < MR; r += 3) {
    base[r / 3] = a + r * a_stride;
    __asm__("" : "+r"(base[r / 3]));
  }
  const int64_t k = t.k;
  for (int64_t p = 0; p < k; ++p) {
    Vec bv[NV + 1];
#pragma GCC unroll 4
    for (int v = 0; v < NV + Half; ++v) {
      bv[v] = v + 1 < NV + Half ? load(b + v * kLanes) : load_edge(b + v * kLanes, edge);
    }
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r) {
      const Vec av = broadcast(ByRow ? base[r / 3][r % 3 * a_stride + p] : a[r]);
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) acc[r][v] = Units::multiply_add(av, bv[v], acc[r][v]);
      if (Half) half[r] = Units::multiply_add(low_half(av), low_half(bv[NV]), half[r]);
    }
    if (!ByRow) a += a_stride;
    b += b_stride;
  }
  if (e.residual || e.add_c_after_relu) {
    alignas(64) float sums[MR * (NV + Half) * kLanes];
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < NV + Half; ++v) {
        store(sums + (r * (NV + Half) + v) * kLanes, v == NV ? widen(half[r]) : acc[r][v]);
      }
    }
    return finish_tile(t, e, sums, NV + Half);
  }
  const Vec alpha = broadcast(e.alpha), floor = broadcast(e.relu ? 0.0f : -__builtin_inff());
#pragma GCC unroll 4
  for (int v = 0; v < NV + Half; ++v) {
    const int64_t n = t.cols - v * kLanes;
    const bool whole = n >= kLanes;
    const Vec bias = e.bias ? (whole ? load(e.bias + v * kLanes) : load_n(e.bias + v * kLanes, n)) : zero();
    float* c = t.c + v * kLanes;
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r) {
      if (r == MR - 1 && t.rows < MR) break;
      Vec x = fma(v == NV ? widen(half[r]) : acc[r][v], alpha, bias);
      if (e.add_c) x += whole ? load(c) : load_n(c, n);
      x = max(floor, x);  // in this order NaN stays NaN
      whole ? store(c, x) : store_n(c, x, n);
      c += t.ldc;
    }
  }
}

// Rows come in even counts: an odd tile is given one more row of A to read (see pack_a) and stores one less.
template <typename Units, int NV, bool Half, bool ByRow>
void multiply_rows(const Tile& t, const Epilogue& e) {
  switch ((t.rows + 1) / 2) {
    case 1:
      return multiply_tile<Units, 2, NV, Half, ByRow>(t, e);
    case 2:
      return multiply_tile<Units, 4, NV, Half, ByRow>(t, e);
    case 3:
      return multiply_tile<Units, 6, NV, Half, ByRow>(t, e);
#if ALLMREC_LANES == 16 || defined(__aarch64__)
    case 4:
      return multiply_tile<Units, 8, NV, Half, ByRow>(t, e);
    case 5:
      return multiply_tile<Units, 10, NV, Half, ByRow>(t, e);
    case 6:
      return multiply_tile<Units, 12, NV, Half, ByRow>(t, e);
#endif
  }
}

template <typename Units, bool ByRow>
void multiply_columns(const Tile& t, const Epilogue& e) {
#if ALLMREC_LANES == 16
  if (t.cols <= 8) return multiply_rows<Units, 0, true, ByRow>(t, e);
  if (t.cols > 16 && t.cols <= 24) return multiply_rows<Units, 1, true, ByRow>(t, e);
#endif
  if (t.cols <= kLanes) return multiply_rows<Units, 1, false, ByRow>(t, e);
  return multiply_rows<Units, 2, false, ByRow>(t, e);
}

template <typename Units = FloatUnits>
inline void multiply(const Tile& t, const Epilogue& e, bool by_row) {
  by_row ? multiply_columns<Units, true>(t, e) : multiply_columns<Units, false>(t, e);
}

// Of lanes l that differ in the bit Step only, in two vectors: those without it (the lower half) of both, or
// those with it.
template <int Step, bool Upper, typename V, int... Lane>
ALLMREC_INLINE V half_of(V a, V b, std::integer_sequence<int, Lane...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, ((Lane & Step ? kLanes - Step : 0) + (Upper ? Step : 0) + Lane)...);
#else
  return __builtin_shuffle(a, b, IVec{((Lane & Step ? kLanes - Step : 0) + (Upper ? Step : 0) + Lane)...});
#endif
}
template <int Step, bool Upper, typename V>
ALLMREC_INLINE V half_of(V a, V b) {
  return half_of<Step, Upper>(a, b, std::make_integer_sequence<int, kLanes>());
}

// kLanes × kLanes: rows become columns, in log2 stages of exchanging halves of pairs.
template <int Step>
ALLMREC_INLINE void transpose_stage(Vec (&x)[kLanes]) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if (i & Step) continue;
    const Vec a = x[i], b = x[i + Step];
    x[i] = half_of<Step, false>(a, b);
    x[i + Step] = half_of<Step, true>(a, b);
  }
}
ALLMREC_INLINE void transpose(Vec (&x)[kLanes]) {
#if ALLMREC_LANES == 16
  transpose_stage<8>(x);
#endif
#if ALLMREC_LANES >= 8
  transpose_stage<4>(x);
#endif
  transpose_stage<2>(x);
  transpose_stage<1>(x);
}

// n values of a matrix of any dtype as float32.
ALLMREC_INLINE Vec load_as_float(const void* base, int64_t index, int32_t dtype, int64_t n) {
  if (dtype == ALLMREC_F32) {
    const float* p = static_cast<const float*>(base) + index;
    return n >= kLanes ? load(p) : load_n(p, n);
  }
  const uint16_t* p = static_cast<const uint16_t*>(base) + index;
  if (dtype == ALLMREC_F16) return n >= kLanes ? load_f16(p) : load_f16_n(p, n);
  return n >= kLanes ? load_bf16(p) : load_bf16_n(p, n);
}

// The panel of rows k0 … k0 + k − 1 and columns j0 … j0 + cols − 1 of op(B): k × kNR, missing columns are
// zero.
template <int32_t Dtype>
void pack_panel(const void* b, int64_t ldb, bool transposed, int64_t k0, int64_t k, int64_t j0, int64_t cols,
                float* to) {
  if (!transposed) {
    for (int64_t p = 0; p < k; ++p) {
#pragma GCC unroll 4
      for (int v = 0; v < kNV; ++v) {
        const int64_t n = cols - v * kLanes;
        store(to + p * kNR + v * kLanes,
              n > 0 ? load_as_float(b, (k0 + p) * ldb + j0 + v * kLanes, Dtype, n) : zero());
      }
    }
    return;
  }
  for (int v = 0; v < kNV; ++v) {
    const int64_t n = cols - v * kLanes;
    for (int64_t p = 0; p < k; p += kLanes) {
      const int64_t depth = k - p < kLanes ? k - p : kLanes;
      Vec x[kLanes];
#pragma GCC unroll 16
      for (int j = 0; j < kLanes; ++j) {
        x[j] = j < n ? load_as_float(b, (j0 + v * kLanes + j) * ldb + k0 + p, Dtype, depth) : zero();
      }
      transpose(x);
      float* out = to + p * kNR + v * kLanes;
#pragma GCC unroll 16
      for (int d = 0; d < kLanes; ++d) {
        if (d < depth) store(out + d * kNR, x[d]);
      }
    }
  }
}

// A's side of one row of tiles, copied so that it lies in a few pages and cache sets whatever lda is: kMR
// rows of `stride`, or for a transposed A k rows of kMR. Rows that do not exist are zero. `to` has a vector
// to spare.
inline void pack_a(const float* a, int64_t lda, bool transposed, int64_t k, int rows, int64_t stride,
                   float* to) {
  if (transposed) {
    for (int64_t p = 0; p < k; ++p) {
      for (int r = 0; r < kMR; r += kLanes) {
        const int n = rows - r < kLanes ? rows - r : kLanes;
        store(to + p * kMR + r, load_n(a + p * lda + r, n));
      }
    }
    return;
  }
  const int padded = (rows + 1) / 2 * 2;
  for (int r = 0; r < padded; ++r) {
    for (int64_t p = 0; p < k; p += kLanes) {
      const int64_t n = k - p;
      const Vec x = r >= rows ? zero() : n >= kLanes ? load(a + r * lda + p) : load_n(a + r * lda + p, n);
      store(to + r * stride + p, x);
    }
  }
}

}  // namespace
}  // namespace allmrec::cpu::ALLMREC_ISA
