#pragma once

// The op table's functions on CUDA, one for each row of ALLMREC_OPS; which file has which is listed in
// docs/cuda.md. Arguments were validated before.

#include "context.h"

namespace allmrec::cuda {

#define ALLMREC_DECLARE(op, args) void op(Context& context, const args& a);
ALLMREC_OPS(ALLMREC_DECLARE)
#undef ALLMREC_DECLARE

}  // namespace allmrec::cuda
