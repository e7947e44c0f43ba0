#pragma once

// What the attention kernels share: how query rows are cut into tiles, which keys a tile sees, and the bits
// of dropout.
//
// The host knows no sequence's length. Sequence s therefore owns the tiles ("slots") q_offsets[s] / M + s up
// to q_offsets[s + 1] / M + s, which are at least as many as its rows need and never more than T / M + B in
// all; a block finds its sequence by a search of the offsets, 32 at a time, and one without rows ends at
// once. No hint of the arguments is needed for that, and captured graphs may be replayed with other offsets.

#include <cmath>

#include "context.h"
#include "intrinsics.h"
#include "numeric.h"
#include "philox.h"

namespace allmrec::cuda {

constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;
constexpr int kMaxHeadDim = 256;

__device__ __forceinline__ int lesser(int a, int b) {
  return a < b ? a : b;
}
__device__ __forceinline__ int greater(int a, int b) {
  return a > b ? a : b;
}

// Up to M query rows of one sequence; none when rows <= 0.
struct QueryTile {
  int sequence, rows;
  int64_t first;
};

inline unsigned query_slots(const allmrec_attention_args& a, int M) {
  return static_cast<unsigned>(a.tokens / M + a.num_sequences);
}

// Every warp searches by itself: nothing has to be shared.
__device__ __forceinline__ QueryTile query_tile(const allmrec_attention_args& a, int slot, int M) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  int low = 0, high = static_cast<int>(a.num_sequences);
  while (high - low > 1) {
    const int step = (high - low + kWarp - 1) / kWarp, s = low + lane * step;
    const bool before = s < high && a.q_offsets[s] / M + s <= slot;
    low += (__popc(__ballot_sync(kAllLanes, before)) - 1) *
           step;  // true for lane 0, and then for the first ones
    high = lesser(high, low + step);
  }
  const int begin = a.q_offsets[low], end = a.q_offsets[low + 1];
  const int64_t first = begin + static_cast<int64_t>(slot - begin / M - low) * M;
  const int64_t left = end - first;
  return {low, static_cast<int>(left < M ? left : M), first};
}

// The keys one query row sees.
struct RowKeys {
  int prefix, begin, end;
  __device__ __forceinline__ bool sees(int j) const { return j < prefix || (j >= begin && j < end); }
  // Any, and all, of the keys first … last − 1.
  __device__ __forceinline__ bool sees_any(int first, int last) const {
    return first < prefix || (begin < end && begin < last && end > first);
  }
  __device__ __forceinline__ bool sees_all(int first, int last) const {
    return last <= prefix || (begin <= first && last <= end);
  }
};
__device__ __forceinline__ RowKeys row_keys(const allmrec_attention_args& a, int64_t t, bool valid) {
  if (!valid) return {0, 0, 0};
  return {a.prefix ? a.prefix[t] : 0, a.own_begin[t], a.own_end[t]};
}

// The keys a tile of query rows sees: [0, prefix) and [low, high) hold all that any row sees; every row sees
// [0, all_prefix) and [all_begin, all_end).
struct KeyRange {
  int prefix, low, high;
  int all_prefix, all_begin, all_end;

  // Tiles of N keys, ascending, without those nobody sees: for (j = first_tile(); j < tiles(); j = next(j)).
  template <int N>
  __device__ __forceinline__ int next_tile(int j) const {
    ++j;
    return j >= (prefix + N - 1) / N ? greater(j, low / N) : j;
  }
  template <int N>
  __device__ __forceinline__ int tiles() const {
    return (greater(prefix, high) + N - 1) / N;
  }
  __device__ __forceinline__ bool all_see(int first, int last) const {
    return last <= all_prefix || (all_begin <= first && last <= all_end);
  }
};

template <int M>
__device__ __forceinline__ KeyRange key_range(const allmrec_attention_args& a, const QueryTile& tile) {
  constexpr int kMany = 0x7fffffff;
  KeyRange range = {0, kMany, 0, kMany, 0, kMany};
  for (int r = static_cast<int>(threadIdx.x) % kWarp; r < tile.rows; r += kWarp) {
    const RowKeys keys = row_keys(a, tile.first + r, true);
    range.prefix = greater(range.prefix, keys.prefix);
    range.all_prefix = lesser(range.all_prefix, keys.prefix);
    range.all_begin = greater(range.all_begin, keys.begin);
    range.all_end = lesser(range.all_end, keys.end);
    if (keys.begin >= keys.end) continue;
    range.low = lesser(range.low, keys.begin);
    range.high = greater(range.high, keys.end);
  }
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    range.prefix = greater(range.prefix, __shfl_xor_sync(kAllLanes, range.prefix, offset));
    range.low = lesser(range.low, __shfl_xor_sync(kAllLanes, range.low, offset));
    range.high = greater(range.high, __shfl_xor_sync(kAllLanes, range.high, offset));
    range.all_prefix = lesser(range.all_prefix, __shfl_xor_sync(kAllLanes, range.all_prefix, offset));
    range.all_begin = greater(range.all_begin, __shfl_xor_sync(kAllLanes, range.all_begin, offset));
    range.all_end = lesser(range.all_end, __shfl_xor_sync(kAllLanes, range.all_end, offset));
  }
  return range;
}

// The first of the query rows [from, to) that sees any of the keys first … last − 1, or `to`. By every warp.
__device__ __forceinline__ int next_row(const allmrec_attention_args& a, int from, int to, int first,
                                        int last) {
  constexpr int kAhead = 4;  // rows a lane looks at before the warp compares
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (; from < to; from += kAhead * kWarp) {
    bool seen[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int t = from + i * kWarp + lane;
      seen[i] = row_keys(a, t, t < to).sees_any(first, last);
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const unsigned found = __ballot_sync(kAllLanes, seen[i]);
      if (found != 0) return from + i * kWarp + (__ffs(static_cast<int>(found)) - 1);
    }
  }
  return to;
}

// Dropout bits of a tile: for each query row the eight elements of every counter that its N keys touch, a
// byte a counter, kept = 1. Key i of the tile is bit (first element) % 8 + i of its row. A counter of Philox
// is worth eight elements, which lie in other threads' registers: hence the way through shared memory.
template <int N>
constexpr int kMaskBytes = N / 8 + 4;  // a row's, N / 8 + 1 in use

__device__ __forceinline__ uint64_t first_element(const allmrec_attention_args& a, int64_t t, int h) {
  return static_cast<uint64_t>((t * a.heads + h) * a.drop_columns);
}
__device__ __forceinline__ unsigned kept_of_eight(const Dropout& dropout, uint64_t counter) {
  const PhiloxWords words = philox(dropout.seed, dropout.stream, counter);
  unsigned kept = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) kept |= (dropout_bits(words, i) >= dropout.threshold ? 1u : 0u) << i;
  return kept;
}
// Rows t … t + rows − 1, keys from j on (padding included); thread `index` of `threads`.
template <int N>
__device__ __forceinline__ void drop_masks(const allmrec_attention_args& a, const Dropout& dropout, int64_t t,
                                           int rows, int h, int j, int index, int threads,
                                           unsigned char* masks) {
  for (int i = index; i < rows * (N / 8 + 1); i += threads) {
    const int row = i / (N / 8 + 1), byte = i % (N / 8 + 1);
    const uint64_t element = first_element(a, t + row, h) + static_cast<uint64_t>(j);
    masks[row * kMaskBytes<N> + byte] =
        static_cast<unsigned char>(kept_of_eight(dropout, element / 8 + static_cast<uint64_t>(byte)));
  }
}

// Strides and pointers that allow 16-byte accesses of every head's part of a row.
template <typename T>
inline bool vectors_of(const void* p, int64_t ld, int head_dim) {
  constexpr int size = 16 / static_cast<int>(sizeof(T));
  return aligned_16(p) && ld % size == 0 && head_dim % size == 0;
}

// The launchers of the other files.
void attention_mma(Context& context, const allmrec_attention_args& a);
void attention_decode(Context& context, const allmrec_attention_args& a);
bool attention_is_decode(const allmrec_attention_args& a);
void attention_backward_mma(Context& context, const allmrec_attention_backward_args& b, float* delta);

// What the matrix kernels can do: half storage, head widths up to 128 in whole 16-byte vectors, no padding
// keys.
inline bool attention_takes_mma(const allmrec_attention_args& a) {
  if (a.dtype == ALLMREC_F32 || a.head_dim > 128 || a.pad_k) return false;
  const auto fits = [&](const void* p, int64_t ld) { return vectors_of<__half>(p, ld, a.head_dim); };
  return fits(a.q, a.ldq) && fits(a.k, a.ldk) && fits(a.v, a.ldv) && fits(a.out, a.ldout);
}
inline bool attention_takes_mma(const allmrec_attention_backward_args& b) {
  const int32_t D = b.forward.head_dim;
  const auto fits = [&](const void* p, int64_t ld) { return vectors_of<__half>(p, ld, D); };
  return attention_takes_mma(b.forward) && fits(b.d_out, b.ld_dout) && fits(b.dq, b.ld_dq) &&
         fits(b.dk, b.ld_dk) && fits(b.dv, b.ld_dv);
}

// Tiles of M keys a sequence is given blocks for. Longer sequences take turns in them, so a guess will do:
// where the longest is not known, as many keys as the average sequence has query rows, twice over.
inline int key_tiles(const allmrec_attention_args& a, int M) {
  const int64_t longest = a.max_kv_length > 0 ? a.max_kv_length : 2 * divide_up(a.tokens, a.num_sequences);
  const int64_t limit = int64_t{0x7fffffff} / a.num_sequences, tiles = divide_up(longest, M);
  return static_cast<int>(tiles < limit ? tiles : limit);
}

}  // namespace allmrec::cuda
