#pragma once

// References of the ops on sequences and graphs: dilated causal convolution, sparse times dense, ranking of a
// catalogue. As in reference.h: float64, plain loops.

#include "reference.h"

namespace allmrec::reference {

struct Conv {
  int64_t batch, steps, c_in, c_out;
  int32_t taps, dilation;
  Values x, w, bias;  // x (B, S, c_in), w (taps, c_out, c_in), bias empty: none
};
Values conv(const Conv& c);  // (B, S, c_out)
struct ConvGradients {
  Values dx, d_w, d_bias;
};
ConvGradients conv_backward(const Conv& c, const Values& dy);

// offsets (rows + 1); x has `cols` columns.
Values spmm(int64_t rows, int64_t cols, const Ints& offsets, const Ints& columns, const Values& values,
            const Values& x);

// queries (rows, cols), items (items, cols), item_bias empty: none.
TopK rank_catalogue(int64_t rows, int64_t items_count, int64_t cols, const Values& queries,
                    const Values& items, const Values& item_bias, const Ints& exclude_offsets,
                    const Ints& exclude_columns, int32_t k);

}  // namespace allmrec::reference
