#pragma once

// What top_k and rank_catalogue share: a warp's queue of the best keys seen so far.
//
// A key is one 64-bit number: the value's bits turned so that they order like the values (NaN above all, −0
// as 0), above the complement of the column, so that the larger key is the better entry and ties go to the
// lower column. All keys of a row differ, so the k largest are one set whatever the order in which they are
// met. No key is 0, which means nothing.
//
// A queue has `size` places for the best, sorted, and `size` for fresh keys, unsorted (size a power of two,
// at least 64). Only keys better than the k-th best so far become fresh; when fewer than 32 places are left
// the fresh ones are sorted (bitonic) and merged. A random row of n columns has about k · ln(n / k) of them.

#include "context.h"
#include "numeric.h"

namespace allmrec::cuda {

constexpr int kSmallestQueue = 64, kLargestQueue = 1024;

inline int queue_size(int32_t k) {
  int size = kSmallestQueue;
  while (size < k && size < kLargestQueue) size *= 2;
  return size;
}

__device__ __forceinline__ uint64_t rank_key(float value, int32_t column) {
  const uint32_t bits = __float_as_uint(value + 0.0f);  // −0 + 0 = 0
  uint32_t ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
  if (value != value) ordered = 0xffffffffu;
  return static_cast<uint64_t>(ordered) << 32 | static_cast<uint32_t>(~column);
}
__device__ __forceinline__ int32_t key_column(uint64_t key) {
  return key ? static_cast<int32_t>(~static_cast<uint32_t>(key)) : -1;
}
__device__ __forceinline__ float key_value(uint64_t key) {
  const uint32_t ordered = static_cast<uint32_t>(key >> 32);
  if (key == 0) return __uint_as_float(0xff800000u);                // −∞
  if (ordered == 0xffffffffu) return __uint_as_float(0x7fc00000u);  // NaN
  return __uint_as_float(ordered >> 31 ? ordered & 0x7fffffffu : ~ordered);
}

// Whether the ascending columns [begin, end) hold this one.
__device__ __forceinline__ bool holds_column(const int32_t* columns, int32_t begin, int32_t end,
                                             int32_t column) {
  while (begin < end) {
    const int32_t middle = begin + (end - begin) / 2;
    const int32_t found = columns[middle];
    if (found == column) return true;
    if (found < column)
      begin = middle + 1;
    else
      end = middle;
  }
  return false;
}

__device__ __forceinline__ int lane_id() {
  return static_cast<int>(threadIdx.x) % kWarp;
}

// keys[i] and keys[i + stride] in descending order where descending(i), for the pairs of one bitonic step.
template <typename Descending>
__device__ __forceinline__ void bitonic_step(uint64_t* keys, int size, int stride, Descending descending) {
#pragma unroll 1
  for (int pair = lane_id(); pair < size / 2; pair += kWarp) {
    const int i = 2 * pair - (pair & (stride - 1));
    const uint64_t a = keys[i], b = keys[i + stride];
    if ((a < b) == descending(i)) {
      keys[i] = b;
      keys[i + stride] = a;
    }
  }
  __syncwarp();
}

// best = the largest `size` of best and other, both sorted in descending order. By a warp; what it reads was
// written before its last __syncwarp.
__device__ __forceinline__ void merge_sorted(uint64_t* best, const uint64_t* other, int size) {
  for (int i = lane_id(); i < size; i += kWarp) {
    const uint64_t a = best[i], b = other[size - 1 - i];
    best[i] = a > b ? a : b;  // a bitonic sequence
  }
  // The first step pairs i with i + size / 2, which one lane has written.
#pragma unroll 1
  for (int stride = size / 2; stride > 0; stride /= 2)
    bitonic_step(best, size, stride, [](int) { return true; });
}

// Sorts the `count` fresh keys and merges them into the best. Not inline: it is rare, and called from
// unrolled loops.
__device__ __noinline__ inline void settle(uint64_t* best, uint64_t* fresh, int size, int count) {
  for (int i = count + lane_id(); i < size; i += kWarp) fresh[i] = 0;
  __syncwarp();
#pragma unroll 1
  for (int run = 2; run <= size; run *= 2) {
#pragma unroll 1
    for (int stride = run / 2; stride > 0; stride /= 2)
      bitonic_step(fresh, size, stride, [=](int i) { return (i & run) == 0; });
  }
  merge_sorted(best, fresh, size);
}

// Empties the best. Lanes read what they wrote themselves until the first merge.
__device__ __forceinline__ void clear(uint64_t* best, int size) {
  for (int i = lane_id(); i < size; i += kWarp) best[i] = 0;
}

// Every lane offers one key or none; `count` is the number of fresh keys, the same in all lanes. True when
// the best have changed.
__device__ __forceinline__ bool offer(uint64_t* best, uint64_t* fresh, int size, int& count, bool has,
                                      uint64_t key) {
  const unsigned who = __ballot_sync(kAllLanes, has);
  if (who == 0) return false;
  if (has) fresh[count + __popc(who & ((1u << lane_id()) - 1u))] = key;
  count += __popc(who);
  if (count <= size - kWarp) return false;
  settle(best, fresh, size, count);
  count = 0;
  return true;
}

// indices and values (rows, out_ld) + first … + count − 1 of each row from its `lists` sorted lists of `size`
// keys at keys[row][list]. last (rows) gets the last key put out, if not null. In top_k.cu.
void merge_ranked(Context& context, int64_t rows, int64_t lists, int size, const uint64_t* keys,
                  int32_t first, int32_t count, int32_t out_ld, int32_t* indices, float* values,
                  uint64_t* last);

}  // namespace allmrec::cuda
