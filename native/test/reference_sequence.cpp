#include "reference_sequence.h"

namespace allmrec::reference {

namespace {

// fn(output row, input row, tap, o, i) for every product of the convolution.
template <typename Fn>
void each_product(const Conv& c, Fn fn) {
  for (int64_t b = 0; b < c.batch; ++b) {
    for (int64_t t = 0; t < c.steps; ++t) {
      for (int64_t j = 0; j < c.taps; ++j) {
        const int64_t from = t - (c.taps - 1 - j) * c.dilation;
        if (from < 0) continue;
        for (int64_t o = 0; o < c.c_out; ++o) {
          for (int64_t i = 0; i < c.c_in; ++i) fn(b * c.steps + t, b * c.steps + from, j, o, i);
        }
      }
    }
  }
}

}  // namespace

Values conv(const Conv& c) {
  Values y(c.batch * c.steps * c.c_out);
  for (size_t i = 0; i < y.size() && !c.bias.empty(); ++i) y[i] = c.bias[i % c.c_out];
  each_product(c, [&](int64_t to, int64_t from, int64_t j, int64_t o, int64_t i) {
    y[to * c.c_out + o] += c.w[(j * c.c_out + o) * c.c_in + i] * c.x[from * c.c_in + i];
  });
  return y;
}

ConvGradients conv_backward(const Conv& c, const Values& dy) {
  ConvGradients g = {Values(c.x.size()), Values(c.w.size()), Values(c.c_out)};
  for (size_t i = 0; i < dy.size(); ++i) g.d_bias[i % c.c_out] += dy[i];
  each_product(c, [&](int64_t to, int64_t from, int64_t j, int64_t o, int64_t i) {
    const int64_t weight = (j * c.c_out + o) * c.c_in + i;
    g.dx[from * c.c_in + i] += c.w[weight] * dy[to * c.c_out + o];
    g.d_w[weight] += c.x[from * c.c_in + i] * dy[to * c.c_out + o];
  });
  return g;
}

Values spmm(int64_t rows, int64_t cols, const Ints& offsets, const Ints& columns, const Values& values,
            const Values& x) {
  Values out(rows * cols);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t e = offsets[row]; e < offsets[row + 1]; ++e) {
      for (int64_t c = 0; c < cols; ++c) out[row * cols + c] += values[e] * x[columns[e] * cols + c];
    }
  }
  return out;
}

TopK rank_catalogue(int64_t rows, int64_t items_count, int64_t cols, const Values& queries,
                    const Values& items, const Values& item_bias, const Ints& exclude_offsets,
                    const Ints& exclude_columns, int32_t k) {
  Values scores(rows * items_count);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t item = 0; item < items_count; ++item) {
      double& score = scores[row * items_count + item];
      score = item_bias.empty() ? 0 : item_bias[item];
      for (int64_t c = 0; c < cols; ++c) score += queries[row * cols + c] * items[item * cols + c];
    }
  }
  return top_k(rows, items_count, scores, items_count, exclude_offsets, exclude_columns, k);
}

}  // namespace allmrec::reference
