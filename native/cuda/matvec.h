#pragma once

#include "context.h"

namespace allmrec::cuda {

constexpr int64_t kMatvecRows = 8;

// gemm for 1 … kMatvecRows rows of A (trans_a = 0) and trans_b = 1, B of F16, BF16, I8 or I4: the decoding
// step. All else as in backend.h; c may be any of F32, F16, BF16. With I8 and I4 the rows of A are rounded to
// 8 bits in groups of 32.
void matvec(Context& context, const allmrec_gemm_args& args);

}  // namespace allmrec::cuda
