// The k largest of each row. Bound by one read of the scores: after the first few hundred columns almost no
// vector holds anything above the k-th best so far, so a comparison per vector is all that is done. The best
// are kept in a heap with the worst at its root (top_k.h).
#include "top_k.h"

namespace allmrec::cpu::ALLMREC_ISA {

void top_k(Device& device, const allmrec_top_k_args& a) {
  if (a.k == 0) return;
  device.pool.parallel_for(a.rows, (1 << 14) / (a.cols + 1) + 1, [&](int64_t begin, int64_t end, int thread) {
    Entry* heap = static_cast<Entry*>(device.scratch(thread, 0, static_cast<size_t>(a.k) * sizeof(Entry)));
    for (int64_t row = begin; row < end; ++row) {
      const int32_t* exclude = nullptr;
      const int32_t* exclude_end = nullptr;
      if (a.exclude_offsets) {
        exclude = a.exclude_columns + a.exclude_offsets[row];
        exclude_end = a.exclude_columns + a.exclude_offsets[row + 1];
      }
      const int32_t size = offer_scores(a.scores + row * a.ld, a.cols, 0, exclude, exclude_end, heap, 0, a.k);
      take_ranked(heap, size, a.k, a.indices + row * a.k, a.values + row * a.k);
    }
  });
}

}  // namespace allmrec::cpu::ALLMREC_ISA
