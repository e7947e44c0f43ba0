#pragma once

// The second half of sums over rows: blocks of rows leave their sums in scratch, these are added in order.

#include "context.h"

namespace allmrec::cuda {

// For c < cols: first[c] (+)= Σ_b partials[b, c] and, where there is a second half, second[c] (+)=
// Σ_b partials[b, cols + c]; partials (blocks, width), width = cols or 2 · cols. Null outputs are left out.
void add_partials(Context& context, int64_t blocks, int64_t cols, int64_t width, const float* partials,
                  float* first, float* second, bool accumulate);

}  // namespace allmrec::cuda
