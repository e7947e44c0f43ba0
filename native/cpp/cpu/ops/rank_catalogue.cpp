// The best items of a whole catalogue for each query. Bound by the matrix product: tiles of kQueries × kItems
// scores are made by gemm, small enough to stay in the L2 cache, and each row of a tile is offered to its
// query's heap (top_k.h) before the next tile overwrites it. Items come in ascending order, as the heap wants
// them.
#include "top_k.h"

namespace allmrec::cpu::ALLMREC_ISA {
namespace {

constexpr int64_t kQueries = 96, kItems = 2048;  // 768 KB of scores

}  // namespace

void rank_catalogue(Device& device, const allmrec_rank_catalogue_args& a) {
  if (a.k == 0 || a.rows == 0) return;
  const int64_t height = a.rows < kQueries ? a.rows : kQueries;
  const int64_t width = a.items_count < kItems ? a.items_count : kItems;
  // gemm has slots 0 and 1.
  float* scores =
      static_cast<float*>(device.shared_scratch(3, static_cast<size_t>(height * width + 1) * sizeof(float)));
  Entry* heaps = static_cast<Entry*>(device.shared_scratch(
      2, static_cast<size_t>(height * a.k) * sizeof(Entry) + static_cast<size_t>(height) * sizeof(int32_t)));
  int32_t* sizes = reinterpret_cast<int32_t*>(heaps + height * a.k);
  for (int64_t row0 = 0; row0 < a.rows; row0 += kQueries) {
    const int64_t rows = a.rows - row0 < kQueries ? a.rows - row0 : kQueries;
    for (int64_t r = 0; r < rows; ++r) sizes[r] = 0;
    for (int64_t item0 = 0; item0 < a.items_count; item0 += kItems) {
      const int64_t items = a.items_count - item0 < kItems ? a.items_count - item0 : kItems;
      allmrec_gemm_args g = {};
      g.m = rows, g.n = items, g.k = a.cols;
      g.a = a.queries + row0 * a.cols, g.lda = a.cols;
      g.b = a.items + item0 * a.cols, g.ldb = a.cols, g.trans_b = 1;
      g.c = scores, g.ldc = width, g.alpha = 1.0f;
      g.bias = a.item_bias ? a.item_bias + item0 : nullptr;
      gemm(device, g);
      device.pool.parallel_for(rows, 4, [&](int64_t begin, int64_t end, int) {
        for (int64_t r = begin; r < end; ++r) {
          const int32_t* exclude = nullptr;
          const int32_t* exclude_end = nullptr;
          if (a.exclude_offsets) {
            exclude = a.exclude_columns + a.exclude_offsets[row0 + r];
            exclude_end = a.exclude_columns + a.exclude_offsets[row0 + r + 1];
          }
          sizes[r] = offer_scores(scores + r * width, items, static_cast<int32_t>(item0), exclude,
                                  exclude_end, heaps + r * a.k, sizes[r], a.k);
        }
      });
    }
    device.pool.parallel_for(rows, 16, [&](int64_t begin, int64_t end, int) {
      for (int64_t r = begin; r < end; ++r) {
        const int64_t out = (row0 + r) * a.k;
        take_ranked(heaps + r * a.k, sizes[r], a.k, a.indices + out, a.values + out);
      }
    });
  }
}

}  // namespace allmrec::cpu::ALLMREC_ISA
