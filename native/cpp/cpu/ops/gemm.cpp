// C = act(alpha · op(A) · op(B) + bias + residual) + (accumulate ? C : 0).
//
// Here are the choice of the way and the product in float32 arithmetic, to which B is widened or dequantised
// while it is packed; gemm_driver.h has the idea. Bound: the multiply-add units.
#include "gemm.h"

#include "gemm_driver.h"

namespace allmrec::cpu::ALLMREC_ISA {

namespace {

constexpr int64_t kCloseRows = 128;  // distance of rows up to which an operand is not copied

// n quants of a row of B, of I4 always kLanes, from element k0 on (a multiple of kLanes) with their scale;
// zeros behind them.
template <int32_t Dtype>
ALLMREC_INLINE Vec load_dequantized(const allmrec_gemm_args& g, int64_t row, int64_t k0, int64_t n) {
  if (Dtype == ALLMREC_I8) {
    typedef int8_t Bytes __attribute__((vector_size(ALLMREC_LANES)));
    Bytes q{};
    std::memcpy(&q, static_cast<const int8_t*>(g.b) + row * g.ldb + k0,
                n >= kLanes ? kLanes : static_cast<size_t>(n));
    return __builtin_convertvector(q, Vec) * static_cast<const float*>(g.b_scales)[row];
  }
  typedef uint8_t Bytes __attribute__((vector_size(ALLMREC_LANES)));
  const int64_t group = (row * g.ldb + k0) / kGroup, place = k0 % kGroup;
  Bytes q;
  std::memcpy(&q, static_cast<const uint8_t*>(g.b) + group * (kGroup / 2) + place % (kGroup / 2), sizeof q);
  const IVec both = __builtin_convertvector(q, IVec);
  return to_float((place < kGroup / 2 ? both & 15 : both >> 4) - 8) *
         f16_to_float(static_cast<const uint16_t*>(g.b_scales)[group]);
}

// A panel of B from I8 or I4, dequantised. k0 is a multiple of a group.
template <int32_t Dtype>
void pack_quantized(const allmrec_gemm_args& g, int64_t k0, int64_t k, int64_t j0, int64_t cols, float* to) {
  if (!g.trans_b) {
    float row[kNR + 2 * kGroup];
    for (int64_t p = 0; p < k; ++p) {
      const float* x = dequantize(g.b, g.b_scales, Dtype, g.ldb, k0 + p, j0, cols, row);
      for (int64_t j = 0; j < kNR; ++j) to[p * kNR + j] = j < cols ? x[j] : 0.0f;
    }
    return;
  }
  for (int v = 0; v < kNV; ++v) {
    const int64_t n = cols - v * kLanes;
    for (int64_t p = 0; p < k; p += kLanes) {
      const int64_t depth = std::min<int64_t>(kLanes, k - p);
      Vec x[kLanes];
      for (int j = 0; j < kLanes; ++j)
        x[j] = j < n ? load_dequantized<Dtype>(g, j0 + v * kLanes + j, k0 + p, depth) : zero();
      transpose(x);
      for (int64_t d = 0; d < depth; ++d) store(to + (p + d) * kNR + v * kLanes, x[d]);
    }
  }
}

// Float32 arithmetic, whatever B is stored as.
struct Float32 {
  using Units = FloatUnits;

  static void pack_b(const allmrec_gemm_args& g, int64_t k0, int64_t k, int64_t j0, int64_t cols, float* to) {
    const bool t = g.trans_b != 0;
    if (g.b_dtype == ALLMREC_F32) return pack_panel<ALLMREC_F32>(g.b, g.ldb, t, k0, k, j0, cols, to);
    if (g.b_dtype == ALLMREC_F16) return pack_panel<ALLMREC_F16>(g.b, g.ldb, t, k0, k, j0, cols, to);
    if (g.b_dtype == ALLMREC_BF16) return pack_panel<ALLMREC_BF16>(g.b, g.ldb, t, k0, k, j0, cols, to);
    if (g.b_dtype == ALLMREC_I8) return pack_quantized<ALLMREC_I8>(g, k0, k, j0, cols, to);
    pack_quantized<ALLMREC_I4>(g, k0, k, j0, cols, to);
  }
  // Rows of B that lie close together are read where they are; rows far apart would each cost a page.
  static bool b_in_place(const allmrec_gemm_args& g) {
    return kRowsOfB && !g.trans_b && g.b_dtype == ALLMREC_F32 && g.ldb <= kCloseRows;
  }

  static void pack_a(const allmrec_gemm_args& g, int64_t i, int rows, int64_t k0, int64_t k, int64_t stride,
                     float* to) {
    const float* from = f32(g.a) + (g.trans_a ? k0 * g.lda + i : i * g.lda + k0);
    cpu::ALLMREC_ISA::pack_a(from, g.lda, g.trans_a, k, rows, stride, to);
  }
  static bool a_in_place(const allmrec_gemm_args& g, int64_t columns) {
    return columns <= 2 * kNR || (!g.trans_a && g.lda <= kCloseRows);
  }
};

}  // namespace

void gemm(Device& device, const allmrec_gemm_args& g) {
  if (g.m == 0 || g.n == 0) return;
  if (gemm_few_rows(device, g) || gemm_bf16(device, g) || gemm_int8(device, g)) return;
  Product<Float32>::run(device, g);
}

}  // namespace allmrec::cpu::ALLMREC_ISA
