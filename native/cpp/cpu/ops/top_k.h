#pragma once

// What top_k and rank_catalogue share: a heap of the best so far, the worst at its root, and one sweep over
// scores that offers it what may enter. Columns must come in ascending order and beat the worst strictly,
// which settles ties for the lower column. NaN counts as larger than every number, so that it shows.

#include "../vec_math.h"
#include "ops.h"

namespace allmrec::cpu::ALLMREC_ISA {
namespace {

struct Entry {
  float value;
  int32_t column;
};

// Whether a ranks behind b.
ALLMREC_INLINE bool worse(Entry a, Entry b) {
  const bool a_nan = a.value != a.value, b_nan = b.value != b.value;
  if (a_nan != b_nan) return b_nan;
  if (!a_nan && a.value != b.value) return a.value < b.value;
  return a.column > b.column;
}

// Puts `entry` at the root of the heap of `size` entries, the worst first, and lets it sink.
ALLMREC_INLINE void sink(Entry* heap, int32_t size, Entry entry) {
  int32_t hole = 0;
  for (;;) {
    int32_t child = 2 * hole + 1;
    if (child >= size) break;
    if (child + 1 < size && worse(heap[child + 1], heap[child])) ++child;
    if (!worse(heap[child], entry)) break;
    heap[hole] = heap[child];
    hole = child;
  }
  heap[hole] = entry;
}

ALLMREC_INLINE void rise(Entry* heap, int32_t hole, Entry entry) {
  while (hole > 0 && worse(entry, heap[(hole - 1) / 2])) {
    heap[hole] = heap[(hole - 1) / 2];
    hole = (hole - 1) / 2;
  }
  heap[hole] = entry;
}

ALLMREC_INLINE bool contains(const int32_t* begin, const int32_t* end, int32_t column) {
  while (begin < end) {
    const int32_t* middle = begin + (end - begin) / 2;
    if (*middle == column) return true;
    if (*middle < column)
      begin = middle + 1;
    else
      end = middle;
  }
  return false;
}

// A bit for each lane that is above `bar` or NaN.
ALLMREC_INLINE uint32_t lanes_above(Vec x, float bar) {
#if ALLMREC_LANES == 16
  return _mm512_cmp_ps_mask(x, broadcast(bar), _CMP_NLE_UQ);
#elif ALLMREC_LANES == 8
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(x, broadcast(bar), _CMP_NLE_UQ)));
#else
  const IVec bits = ~(x <= bar) & IVec{1, 2, 4, 8};
  return static_cast<uint32_t>((bits[0] | bits[1]) | (bits[2] | bits[3]));
#endif
}

// Offers x[0 … cols − 1], the scores of columns first_column, first_column + 1, …, to a heap of `size`
// entries that may hold k > 0. Returns its new size.
inline int32_t offer_scores(const float* x, int64_t cols, int32_t first_column, const int32_t* exclude,
                            const int32_t* exclude_end, Entry* heap, int32_t size, int32_t k) {
  const auto offer = [&](int64_t i) {
    const Entry entry = {x[i], first_column + static_cast<int32_t>(i)};
    if (size == k && !worse(heap[0], entry)) return;
    if (contains(exclude, exclude_end, entry.column)) return;
    if (size < k)
      rise(heap, size++, entry);
    else
      sink(heap, k, entry);
  };
  int64_t i = 0;
  for (; i < cols && size < k; ++i) offer(i);
  constexpr int64_t kStride = 4 * kLanes;
  for (; i + kStride <= cols; i += kStride) {
    const float bar = heap[0].value;
    const Vec a = load(x + i), b = load(x + i + kLanes), c = load(x + i + 2 * kLanes),
              d = load(x + i + 3 * kLanes);
    const auto offer_lanes = [&](Vec v, int64_t first) {
      for (uint32_t lanes = lanes_above(v, bar); lanes; lanes &= lanes - 1)
        offer(first + __builtin_ctz(lanes));
    };
    // max gives its second argument when either is NaN: a NaN in the first of a pair could be lost, so all
    // are asked.
    if (!(lanes_above(a, bar) | lanes_above(b, bar) | lanes_above(c, bar) | lanes_above(d, bar))) continue;
    offer_lanes(a, i), offer_lanes(b, i + kLanes), offer_lanes(c, i + 2 * kLanes),
        offer_lanes(d, i + 3 * kLanes);
  }
  for (; i < cols; ++i) offer(i);
  return size;
}

// Empties the heap of `size` entries into k places, best first; −1 and −infinity where there are too few.
inline void take_ranked(Entry* heap, int32_t size, int32_t k, int32_t* indices, float* values) {
  for (int32_t rank = k - 1; rank >= 0; --rank) {  // the root is the worst of those left
    if (rank >= size) {
      indices[rank] = -1;
      values[rank] = -__builtin_inff();
      continue;
    }
    indices[rank] = heap[0].column;
    values[rank] = heap[0].value;
    sink(heap, rank, heap[rank]);
  }
}

}  // namespace
}  // namespace allmrec::cpu::ALLMREC_ISA
