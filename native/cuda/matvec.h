#pragma once

#include "context.h"

namespace allmrec::cuda {

constexpr int64_t kMatvecRows = 8;

// gemm for 1 … kMatvecRows rows of A, trans_a = 0, trans_b = 1, k > 0, B of F16, BF16, I8 or I4: the decoding
// step. With I8 and I4 the rows of A may be rounded to 8 bits in groups of 32.
void matvec(Context& context, const allmrec_gemm_args& args);

}  // namespace allmrec::cuda
