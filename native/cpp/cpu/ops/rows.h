#pragma once

// Deterministic scatter-add, shared by the embedding's gradient and scatter_add_rows.
//
// Idea: no copy of the table per thread and no sort. One backward walk over the indices threads a list
// through all rows that go to the same place (`next`), in ascending order, with its beginning in `head`. Each
// list is then summed by one task, in order, straight into the table: every target row has one writer and one
// order of additions, which is the order of a plain loop. Cost beside the additions: one word per table row
// and one per index.

#include "../vec_math.h"
#include "ops.h"

namespace allmrec::cpu::ALLMREC_ISA {
namespace {

constexpr int64_t kScatterParallel = 1 << 15;  // elements below which a plain loop is faster

ALLMREC_INLINE void add_row(const float* x, float scale, float* to, int64_t cols) {
  sweep(cols, [&](int64_t i, auto lanes) {
    put(to + i, fma(get(x + i, lanes), broadcast(scale), get(to + i, lanes)), lanes);
  });
}

// Rows at random places are asked for some rows ahead: no hardware prefetcher can guess them.
constexpr int64_t kAhead = 6;

ALLMREC_INLINE void prefetch_row(const float* row, int64_t cols) {
  const int64_t n = cols < 64 ? cols : 64;  // what follows a long row's beginning is sequential
  for (int64_t i = 0; i < n; i += 16) __builtin_prefetch(row + i, 1);
  if (n > 0) __builtin_prefetch(row + n - 1, 1);
}

// For i in order, when target_of(i) is not NULL:  target_of(i)[…] += scale · x[i].  slot_of(i) numbers the
// targets, 0 <= slot < slots. Uses the shared scratch slot 0.
template <typename SlotOf, typename TargetOf>
inline void scatter_rows(Device& device, int64_t count, int64_t cols, const float* x, int64_t ldx,
                         float scale, int64_t slots, SlotOf slot_of, TargetOf target_of) {
  if (device.pool.size() == 1 || count * cols < kScatterParallel) {
    for (int64_t i = 0; i < count; ++i) {
      if (i + kAhead < count) {
        if (const float* soon = target_of(i + kAhead)) prefetch_row(soon, cols);
      }
      if (float* to = target_of(i)) add_row(x + i * ldx, scale, to, cols);
    }
    return;
  }
  int32_t* head =
      static_cast<int32_t*>(device.shared_scratch(0, static_cast<size_t>(slots + count) * sizeof(int32_t)));
  int32_t* next = head + slots;
  std::memset(head, 0xff, static_cast<size_t>(slots) * sizeof(int32_t));  // −1: an empty list
  for (int64_t i = count - 1; i >= 0; --i) {
    if (!target_of(i)) {
      next[i] = -1;
      continue;
    }
    int32_t& first = head[slot_of(i)];
    next[i] = first;
    first = static_cast<int32_t>(i);
  }
  device.pool.parallel_for(count, 4096 / cols + 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      float* to = target_of(i);
      if (!to || head[slot_of(i)] != i) continue;  // not the first of its list
      for (int64_t j = i; j >= 0; j = next[j]) add_row(x + j * ldx, scale, to, cols);
    }
  });
}

}  // namespace
}  // namespace allmrec::cpu::ALLMREC_ISA
