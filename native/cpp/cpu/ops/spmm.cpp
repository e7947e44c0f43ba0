// A sparse matrix in rows (CSR) times a dense one. Bound by memory: one row of x per edge, at random places
// when x is larger than the cache, so the rows of the edges to come are asked for early. Four vectors of the
// output stay in registers while the edges of a row go by, in their order.
#include "../vec_math.h"
#include "ops.h"

namespace allmrec::cpu::ALLMREC_ISA {
namespace {

constexpr int64_t kAhead = 8;  // edges

template <int Vectors>
void add_edges(const allmrec_spmm_args& a, int64_t begin, int64_t end, int64_t column, float* out) {
  Vec sum[Vectors];
  for (int v = 0; v < Vectors; ++v) sum[v] = zero();
  for (int64_t e = begin; e < end; ++e) {
    if (e + kAhead < end) {
      const float* soon = a.x + a.columns[e + kAhead] * a.cols + column;
      for (int v = 0; v < Vectors * kLanes; v += 16) __builtin_prefetch(soon + v);
    }
    const Vec value = broadcast(a.values[e]);
    const float* x = a.x + a.columns[e] * a.cols + column;
    for (int v = 0; v < Vectors; ++v) sum[v] = fma(load(x + v * kLanes), value, sum[v]);
  }
  for (int v = 0; v < Vectors; ++v) {
    float* to = out + column + v * kLanes;
    store(to, a.accumulate ? sum[v] + load(to) : sum[v]);
  }
}

}  // namespace

void spmm(Device& device, const allmrec_spmm_args& a) {
  if (a.cols == 0) return;
  device.pool.parallel_for(a.rows, 16, [&](int64_t first, int64_t last, int) {
    for (int64_t row = first; row < last; ++row) {
      const int64_t begin = a.offsets[row], end = a.offsets[row + 1];
      float* out = a.out + row * a.cols;
      int64_t c = 0;
      for (; c + 4 * kLanes <= a.cols; c += 4 * kLanes) add_edges<4>(a, begin, end, c, out);
      for (; c + kLanes <= a.cols; c += kLanes) add_edges<1>(a, begin, end, c, out);
      if (c == a.cols) continue;
      const int64_t rest = a.cols - c;
      Vec sum = zero();
      for (int64_t e = begin; e < end; ++e)
        sum = fma(load_n(a.x + a.columns[e] * a.cols + c, rest), broadcast(a.values[e]), sum);
      store_n(out + c, a.accumulate ? sum + load_n(out + c, rest) : sum, rest);
    }
  });
}

}  // namespace allmrec::cpu::ALLMREC_ISA
