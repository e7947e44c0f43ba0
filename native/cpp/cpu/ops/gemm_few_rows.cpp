// temporary
#include <algorithm>
#include "gemm.h"
#include "gemm_dot.h"
namespace allmrec::cpu::ALLMREC_ISA {
namespace {
constexpr int64_t kDotMaxRows = 12;
inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
void multiply_dots(Device& device, const allmrec_gemm_args& g) {
  const int64_t share = ceil_div(g.n, 6 * device.pool.size());
  const int64_t step = std::max<int64_t>(16, std::min(share, 128 * 1024 / std::max<int64_t>(1, g.k)));
  device.pool.parallel_for(g.n, step, [&](int64_t begin, int64_t end, int thread) {
    if (g.b_dtype == ALLMREC_F32) return dot_columns<ALLMREC_F32>(g, begin, end);
    if (g.b_dtype == ALLMREC_F16) return dot_columns<ALLMREC_F16>(g, begin, end);
    if (g.b_dtype == ALLMREC_BF16) return dot_columns<ALLMREC_BF16>(g, begin, end);
    float* rows = static_cast<float*>(device.scratch(thread, 0, dequantized_bytes(g.k)));
    return dot_quantized_columns(g, begin, end, rows);
  });
}
}  // namespace
bool gemm_few_rows(Device& device, const allmrec_gemm_args& g) {
  if (g.k == 0 || g.m > kDotMaxRows || !g.trans_b || g.trans_a || g.fixed_order || g.a_dtype != ALLMREC_F32) return false;
  multiply_dots(device, g);
  return true;
}
}  // namespace allmrec::cpu::ALLMREC_ISA
