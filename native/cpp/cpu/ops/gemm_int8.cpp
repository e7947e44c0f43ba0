// Products with I8 and I4 weights in 8-bit arithmetic: every row of A is rounded to int8 with one scale, an
// instruction multiplies 64 pairs of bytes and adds them by fours to 16 int32 sums, and the sums are scaled
// on their way into C.
//
// The instruction wants unsigned bytes on one side, so A's are a + 128, and 128 · Σ b of each column, added
// up while B is packed, is what the sums begin below zero with. With one scale for each row of B (I8) a sum
// runs over all of k and is exact, so its order does not matter. With one for each group of 32 (I4) the int32
// sum of a group is scaled and added to a float32 sum, group after group. Bound: the dot instruction's rate,
// 468 GOP/s per Zen 4 core; I4 pays a conversion and a multiply-add more for every eight of them.
#include "gemm_int8.h"

#include <algorithm>

#include "gemm.h"
#include "gemm_kernel.h"

namespace allmrec::cpu::ALLMREC_ISA {

#if ALLMREC_LANES == 16

namespace {

constexpr int64_t kStripBytes = 768 << 10;  // of packed B, in L2
constexpr int64_t kMaxStrip = 512;          // columns
constexpr int64_t kLeastStrip = 128;        // columns that pay for reading A once more
constexpr int64_t kTasksPerThread = 6;
constexpr int64_t kGroupUnits = kGroup / 4;

inline int64_t round_up_to(int64_t a, int64_t b) {
  return (a + b - 1) / b * b;
}
inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// A panel of kNR columns is a list of rows of kNR units (four bytes of neighbouring k). I8: where the sums
// begin, then B. I4: for each group where its sums begin, its scales, its eight rows of B.
template <int32_t Dtype>
int64_t panel_units(int64_t k) {
  return kNR * (Dtype == ALLMREC_I8 ? 1 + ceil_div(k, 4) : ceil_div(k, kGroup) * (2 + kGroupUnits));
}

struct Rows8 {  // A
  const uint8_t* bytes;
  int64_t stride;
  const float* scales;
};

void round_row(const float* a, int64_t k, RowScale scale, uint8_t* to) {
  const Vec inverse = broadcast(scale.inverse);
  for (int64_t p = 0; p < k; p += kLanes) {
    const IVec q = round_to_int(load_n(a + p, k - p) * inverse) + 128;
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + p), _mm512_cvtepi32_epi8((__m512i)q));
  }
}

// Columns j0 … j0 + cols − 1 of op(B).
template <int32_t Dtype>
void pack_panel8(const allmrec_gemm_args& g, int64_t j0, int64_t cols, int32_t* to) {
  const IVec offset = broadcast_i(static_cast<int32_t>(0x80808080u));  // 128 in each byte
  const int64_t groups = g.k / kGroup;
  for (int v = 0; v < kNV; ++v) {
    const int64_t n = cols - v * kLanes;
    IVec begin{};
    for (int64_t p = 0; p < g.k; p += 4 * kLanes) {
      const int64_t depth = std::min<int64_t>(4 * kLanes, g.k - p);
      Vec x[kLanes];
#pragma GCC unroll 16
      for (int64_t j = 0; j < kLanes; ++j) {
        x[j] = j < n ? (Vec)load_quants<Dtype>(g.b, g.ldb, j0 + v * kLanes + j, p, depth) : zero();
      }
      transpose(x);
      if (Dtype == ALLMREC_I8) {
        int32_t* out = to + (1 + p / 4) * kNR + v * kLanes;
#pragma GCC unroll 16
        for (int64_t d = 0; d < kLanes; ++d) {
          begin = dot_bytes(offset, as_int(x[d]), begin);
          if (4 * d < depth) store_i(out + d * kNR, as_int(x[d]));
        }
        continue;
      }
      for (int64_t half = 0; half < depth / kGroup; ++half) {
        const int64_t group = p / kGroup + half;
        int32_t* out = to + group * (2 + kGroupUnits) * kNR + v * kLanes;
        uint16_t scales[kLanes] = {};
        for (int64_t j = 0; j < kLanes && j < n; ++j)
          scales[j] = static_cast<const uint16_t*>(g.b_scales)[(j0 + v * kLanes + j) * groups + group];
        IVec sum{};
#pragma GCC unroll 8
        for (int64_t d = 0; d < kGroupUnits; ++d) {
          const IVec quads = as_int(half ? x[kGroupUnits + d] : x[d]);
          sum = dot_bytes(offset, quads, sum);
          store_i(out + (2 + d) * kNR, quads);
        }
        store_i(out, -sum);
        store_i(out + kNR, as_int(load_f16(scales)));
      }
    }
    if (Dtype == ALLMREC_I8) store_i(to + v * kLanes, -begin);
  }
}

ALLMREC_INLINE IVec broadcast_unit(const uint8_t* p) {
  int32_t unit;
  std::memcpy(&unit, p, 4);
  return broadcast_i(unit);
}

// A tile's share of A, B and C, all of k.
struct Tile8 {
  int64_t k;
  const uint8_t* a;
  int64_t a_stride;
  const float* a_scales;
  const int32_t* b;
  const float* b_scales;  // of the columns; I8
};

template <int MR, int NV>
ALLMREC_INLINE void multiply_units(const uint8_t* a, int64_t a_stride, const int32_t* b, int64_t units,
                                   IVec (&acc)[MR][NV]) {
  for (int64_t u = 0; u < units; ++u, a += 4, b += kNR) {
    IVec bv[NV];
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) bv[v] = load_i(b + v * kLanes);
#pragma GCC unroll 12
    for (int r = 0; r < MR; ++r) {
      const IVec av = broadcast_unit(a + r * a_stride);
#pragma GCC unroll 2
      for (int v = 0; v < NV; ++v) acc[r][v] = dot_bytes(av, bv[v], acc[r][v]);
    }
  }
}

template <int32_t Dtype, int MR, int NV>
__attribute__((noinline)) void multiply_tile8(const Tile8& t, int rows, int cols, float* sums) {
  if (Dtype == ALLMREC_I8) {
    IVec acc[MR][NV];
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) {
      const IVec begin = load_i(t.b + v * kLanes);
#pragma GCC unroll 12
      for (int r = 0; r < MR; ++r) acc[r][v] = begin;
    }
    multiply_units<MR, NV>(t.a, t.a_stride, t.b + kNR, ceil_div(t.k, 4), acc);
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) {
      const Vec scale = load_n(t.b_scales + v * kLanes, cols - v * kLanes);
#pragma GCC unroll 12
      for (int r = 0; r < MR; ++r) {
        const float a_scale = r < rows ? t.a_scales[r] : 0.0f;
        store(sums + (r * NV + v) * kLanes, to_float(acc[r][v]) * (scale * a_scale));
      }
    }
    return;
  }
  Vec total[MR][NV];
#pragma GCC unroll 12
  for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) total[r][v] = zero();
  }
  const int32_t* b = t.b;
  for (int64_t p = 0; p < t.k; p += kGroup, b += (2 + kGroupUnits) * kNR) {
    IVec acc[MR][NV];
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) {
      const IVec begin = load_i(b + v * kLanes);
#pragma GCC unroll 12
      for (int r = 0; r < MR; ++r) acc[r][v] = begin;
    }
    multiply_units<MR, NV>(t.a + p, t.a_stride, b + 2 * kNR, kGroupUnits, acc);
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) {
      const Vec scale = as_float(load_i(b + kNR + v * kLanes));
#pragma GCC unroll 12
      for (int r = 0; r < MR; ++r) total[r][v] = fma(to_float(acc[r][v]), scale, total[r][v]);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < MR; ++r) {
    const float a_scale = r < rows ? t.a_scales[r] : 0.0f;
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) store(sums + (r * NV + v) * kLanes, total[r][v] * a_scale);
  }
}

// Rows come in even counts: an odd tile reads one more row of A.
template <int32_t Dtype, int NV>
void multiply_rows8(const Tile8& t, int rows, int cols, float* sums) {
  switch ((rows + 1) / 2) {
    case 1:
      return multiply_tile8<Dtype, 2, NV>(t, rows, cols, sums);
    case 2:
      return multiply_tile8<Dtype, 4, NV>(t, rows, cols, sums);
    case 3:
      return multiply_tile8<Dtype, 6, NV>(t, rows, cols, sums);
  }
  if (Dtype != ALLMREC_I8) return;  // whose second sums leave registers for six rows
  switch ((rows + 1) / 2) {
    case 4:
      return multiply_tile8<ALLMREC_I8, 8, NV>(t, rows, cols, sums);
    case 5:
      return multiply_tile8<ALLMREC_I8, 10, NV>(t, rows, cols, sums);
    case 6:
      return multiply_tile8<ALLMREC_I8, 12, NV>(t, rows, cols, sums);
  }
}

// Rows i0 … i1 − 1, columns j0 … j1 − 1 of C, those columns' panels at `packed`.
template <int32_t Dtype>
void multiply_block8(const allmrec_gemm_args& g, const Rows8& a, int64_t i0, int64_t i1, int64_t j0,
                     int64_t j1, const int32_t* packed) {
  constexpr int64_t kRows = Dtype == ALLMREC_I8 ? 12 : 6;
  const bool relu = g.activation == ALLMREC_ACT_RELU;
  for (int64_t i = i0; i < i1; i += kRows) {
    Tile c{};
    c.ldc = g.ldc;
    c.rows = static_cast<int>(std::min(kRows, i1 - i));
    for (int64_t j = j0; j < j1; j += kNR) {
      c.c = f32(g.c) + i * g.ldc + j;
      c.cols = static_cast<int>(std::min<int64_t>(kNR, j1 - j));
      for (int r = 0; r < c.rows; ++r) __builtin_prefetch(c.c + r * g.ldc, 1);
      Epilogue e{};
      e.alpha = g.alpha;
      e.bias = g.bias ? g.bias + j : nullptr;
      e.residual = g.residual ? f32(g.residual) + i * g.ld_residual + j : nullptr;
      e.ld_residual = g.ld_residual;
      e.relu = relu;
      e.add_c = g.accumulate && !relu;
      e.add_c_after_relu = g.accumulate && relu;
      const Tile8 t = {g.k,
                       a.bytes + i * a.stride,
                       a.stride,
                       a.scales + i,
                       packed + (j - j0) / kNR * panel_units<Dtype>(g.k),
                       Dtype == ALLMREC_I8 ? static_cast<const float*>(g.b_scales) + j : nullptr};
      alignas(64) float sums[kRows * kNR];
      const int vectors = c.cols > kLanes ? 2 : 1;
      vectors == 2 ? multiply_rows8<Dtype, 2>(t, c.rows, c.cols, sums)
                   : multiply_rows8<Dtype, 1>(t, c.rows, c.cols, sums);
      finish_tile(c, e, sums, vectors);
    }
  }
}

template <int32_t Dtype>
void pack_strip8(const allmrec_gemm_args& g, int64_t j0, int64_t j1, int32_t* to) {
  for (int64_t j = j0; j < j1; j += kNR, to += panel_units<Dtype>(g.k))
    pack_panel8<Dtype>(g, j, std::min<int64_t>(kNR, j1 - j), to);
}

// All of A, rounded once for all tasks.
Rows8 round_rows(Device& device, const allmrec_gemm_args& g) {
  const int64_t stride = round_up_to(g.k, 64) + 64, rows = g.m + 1;  // an odd multiple of a cache line apart
  auto* bytes = static_cast<uint8_t*>(
      device.shared_scratch(1, static_cast<size_t>(rows * stride) + static_cast<size_t>(g.m) * 4));
  auto* scales = reinterpret_cast<float*>(bytes + rows * stride);
  device.pool.parallel_for(g.m, std::max<int64_t>(1, 32 * 1024 / g.k), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const float* a = f32(g.a) + i * g.lda;
      const RowScale scale = row_scale(a, g.k);
      scales[i] = scale.scale;
      round_row(a, g.k, scale, bytes + i * stride);
    }
  });
  return {bytes, stride, scales};
}

template <int32_t Dtype>
void run8(Device& device, const allmrec_gemm_args& g) {
  const Rows8 a = round_rows(device, g);
  const int64_t panel = panel_units<Dtype>(g.k), most = std::max<int64_t>(1, kStripBytes / 4 / panel) * kNR;
  const int64_t cap = std::min(most, kMaxStrip), wanted_tasks = kTasksPerThread * device.pool.size();
  if (g.n >= wanted_tasks * kLeastStrip) {  // each task packs its own strip
    const int64_t width = std::min(cap, round_up_to(ceil_div(g.n, wanted_tasks), kNR));
    device.pool.run(ceil_div(g.n, width), [&](int64_t task, int thread) {
      const int64_t j0 = task * width, j1 = std::min(g.n, j0 + width);
      auto* packed =
          static_cast<int32_t*>(device.scratch(thread, 0, static_cast<size_t>(width / kNR * panel) * 4));
      pack_strip8<Dtype>(g, j0, j1, packed);
      multiply_block8<Dtype>(g, a, 0, g.m, j0, j1, packed);
    });
    return;
  }
  const int64_t panels = ceil_div(g.n, kNR);
  auto* packed = static_cast<int32_t*>(device.shared_scratch(0, static_cast<size_t>(panels * panel) * 4));
  device.pool.parallel_for(
      panels, std::max<int64_t>(1, 64 * 1024 / panel), [&](int64_t begin, int64_t end, int) {
        pack_strip8<Dtype>(g, begin * kNR, std::min(g.n, end * kNR), packed + begin * panel);
      });
  const int64_t strips = ceil_div(g.n, cap), width = round_up_to(ceil_div(g.n, strips), kNR);
  const int64_t step = round_up_to(std::max<int64_t>(48, ceil_div(g.m, ceil_div(wanted_tasks, strips))), 12);
  device.pool.run(strips * ceil_div(g.m, step), [&](int64_t task, int) {
    const int64_t j = task % strips * width, i = task / strips * step;
    if (j >= g.n) return;
    multiply_block8<Dtype>(g, a, i, std::min(g.m, i + step), j, std::min(g.n, j + width),
                           packed + j / kNR * panel);
  });
}

}  // namespace

bool gemm_int8(Device& device, const allmrec_gemm_args& g) {
  if (!(device.kernels->extras & kDotInt8) || !is_quantized(g.b_dtype)) return false;
  if (g.trans_a || !g.trans_b || g.k == 0 || g.k > kMaxByteK) return false;
  g.b_dtype == ALLMREC_I8 ? run8<ALLMREC_I8>(device, g) : run8<ALLMREC_I4>(device, g);
  return true;
}

#else

bool gemm_int8(Device&, const allmrec_gemm_args&) {
  return false;
}

#endif

}  // namespace allmrec::cpu::ALLMREC_ISA
