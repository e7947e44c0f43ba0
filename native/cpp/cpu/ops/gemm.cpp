// C = act(alpha · op(A) · op(B) + bias + residual) + (accumulate ? C : 0).
//
// Here are the choice of the way and the product in float32 arithmetic, to which B is widened or dequantised
// while it is packed; gemm_driver.h has the idea. Bound: the multiply-add units.
#include "gemm.h"

#include "gemm_driver.h"

namespace allmrec::cpu::ALLMREC_ISA {

namespace {

constexpr int64_t kCloseRows = 128;  // distance of rows up to which an operand is not copied

// A panel of B from I8 or I4, dequantised.
void pack_quantized(const allmrec_gemm_args& g, int64_t k0, int64_t k, int64_t j0, int64_t cols, float* to) {
  constexpr int64_t kStep = 64;
  float row[kStep + 2 * kGroup];
  if (!g.trans_b) {
    static_assert(kNR <= kStep, "a panel's columns are dequantised at once");
    for (int64_t p = 0; p < k; ++p) {
      const float* x = dequantize(g.b, g.b_scales, g.b_dtype, g.ldb, k0 + p, j0, cols, row);
      for (int64_t j = 0; j < kNR; ++j) to[p * kNR + j] = j < cols ? x[j] : 0.0f;
    }
    return;
  }
  for (int64_t j = 0; j < kNR; ++j) {
    for (int64_t p = 0; p < k; p += kStep) {
      const int64_t n = k - p < kStep ? k - p : kStep;
      const float* x =
          j < cols ? dequantize(g.b, g.b_scales, g.b_dtype, g.ldb, j0 + j, k0 + p, n, row) : nullptr;
      for (int64_t i = 0; i < n; ++i) to[(p + i) * kNR + j] = x ? x[i] : 0.0f;
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
    pack_quantized(g, k0, k, j0, cols, to);
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
