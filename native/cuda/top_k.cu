// top_k: the k largest of each row.
//
// Bound by one read of the scores. A row is cut into slices, one block each, so that few long rows fill the
// card as well as many short ones; a warp takes every kWarps-th tile of 512 columns, four 16-byte loads a
// lane in flight, and compares each value with the k-th best of its own queue (top_k_queue.h), which after
// the first few thousand columns is all that is done: no barrier, one ballot a tile. At the end the block's
// warps merge their queues as a tree; with more than one slice a second launch merges the slices. More than
// 1,024 places are filled 1,024 at a time, each round leaving out what the last one found. Expected 70 % of
// bandwidth for rows of a million columns; not yet measured on hardware.

#include "ops.h"
#include "top_k_queue.h"

namespace allmrec::cuda {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * kWarp;  // queues of 1,024: 64 KB
constexpr int kPerLane = 16, kTile = kWarp * kPerLane;
constexpr int64_t kShortestSlice = 8 * kWarps * kTile;  // columns

struct Rows {
  const float* scores;
  int64_t cols, ld;
  const int32_t* exclude_offsets;
  const int32_t* exclude_columns;
};

// Where a round's results go.
struct Places {
  int32_t* indices;
  float* values;
  int32_t first, count, ld;
  uint64_t* last;  // (rows), or null

  __device__ __forceinline__ void put(int64_t row, const uint64_t* best) const {
    for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
      indices[row * ld + first + i] = key_column(best[i]);
      values[row * ld + first + i] = key_value(best[i]);
    }
    if (last && threadIdx.x == 0) last[row] = best[count - 1];
  }
};

// Merges the queues' best of all warps, `size` keys at shared[warp · 2 · size], into the first.
__device__ __forceinline__ void merge_warps(uint64_t* shared, int size) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
#pragma unroll 1
  for (int distance = 1; distance < kWarps; distance *= 2) {
    __syncthreads();
    if (warp % (2 * distance) == 0)
      merge_sorted(shared + warp * 2 * size, shared + (warp + distance) * 2 * size, size);
  }
  __syncthreads();
}

// below (rows): keys from there on were found before; null in the first round. slices > 1: the sorted best of
// each slice go to keys[row][slice].
template <bool Vectors>
__global__ void __launch_bounds__(kThreads)
    top_k_kernel(const Rows rows, int slices, int64_t slice_cols, int size, const uint64_t* below,
                 const Places places, uint64_t* keys) {
  uint64_t* shared = static_cast<uint64_t*>(dynamic_shared());
  const int64_t row = blockIdx.x / static_cast<unsigned>(slices);
  const int slice = static_cast<int>(blockIdx.x % static_cast<unsigned>(slices));
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = lane_id();
  uint64_t* best = shared + warp * 2 * size;
  uint64_t* fresh = best + size;
  clear(best, size);

  const float* x = rows.scores + row * rows.ld;
  const int64_t begin = slice * slice_cols;
  const int64_t end = begin + slice_cols < rows.cols ? begin + slice_cols : rows.cols;
  const uint64_t bound = below ? below[row] : ~uint64_t{0};
  const int32_t exclude = rows.exclude_offsets ? rows.exclude_offsets[row] : 0;
  const int32_t exclude_end = rows.exclude_offsets ? rows.exclude_offsets[row + 1] : 0;
  const int worst = places.count - 1;
  int count = 0;
  uint64_t bar = 0;
  float bar_value = key_value(0);
#pragma unroll 1
  for (int64_t tile = begin + warp * kTile; tile < end; tile += kWarps * kTile) {
    float value[kPerLane];
    // Value u of a lane is in this column.
    const auto column_of = [&](int u) {
      return tile + (Vectors ? u / 4 * 4 * kWarp + 4 * lane + u % 4 : u * kWarp + lane);
    };
#pragma unroll
    for (int u = 0; u < kPerLane; u += 4) {
      if (Vectors && column_of(u) + 3 < end) {
        const Vector<float> four = load_vector(x + column_of(u));
        for (int j = 0; j < 4; ++j) value[u + j] = four.value[j];
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j)
          value[u + j] = column_of(u + j) < end ? x[column_of(u + j)] : key_value(0);
      }
    }
    bool any = false;
#pragma unroll
    for (int u = 0; u < kPerLane; ++u) any |= !(value[u] < bar_value);
    if (!__ballot_sync(kAllLanes, any)) continue;
#pragma unroll
    for (int u = 0; u < kPerLane; ++u) {
      const int64_t column = column_of(u);
      const uint64_t key = rank_key(value[u], static_cast<int32_t>(column));
      const bool has =
          column < end && key > bar && key < bound &&
          !holds_column(rows.exclude_columns, exclude, exclude_end, static_cast<int32_t>(column));
      if (offer(best, fresh, size, count, has, key)) bar = best[worst];
    }
    bar_value = key_value(bar);
  }
  settle(best, fresh, size, count);
  merge_warps(shared, size);
  if (slices == 1) {
    places.put(row, shared);
    return;
  }
  uint64_t* to = keys + (row * slices + slice) * size;
  for (int i = static_cast<int>(threadIdx.x); i < size; i += kThreads) to[i] = shared[i];
}

__global__ void __launch_bounds__(kThreads)
    merge_ranked_kernel(const uint64_t* keys, int64_t lists, int size, const Places places) {
  uint64_t* shared = static_cast<uint64_t*>(dynamic_shared());
  const int64_t row = blockIdx.x;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  uint64_t* best = shared + warp * 2 * size;
  clear(best, size);
  for (int64_t list = warp; list < lists; list += kWarps)
    merge_sorted(best, keys + (row * lists + list) * size, size);
  merge_warps(shared, size);
  places.put(row, shared);
}

size_t queues_bytes(int size) {
  return static_cast<size_t>(kWarps) * 2 * size * sizeof(uint64_t);
}

}  // namespace

void merge_ranked(Context& context, int64_t rows, int64_t lists, int size, const uint64_t* keys,
                  int32_t first, int32_t count, int32_t out_ld, int32_t* indices, float* values,
                  uint64_t* last) {
  launch(merge_ranked_kernel, static_cast<unsigned>(rows), kThreads, queues_bytes(size), context.stream, keys,
         lists, size, Places{indices, values, first, count, out_ld, last});
}

void top_k(Context& context, const allmrec_top_k_args& a) {
  if (a.rows == 0 || a.k == 0) return;
  const Rows rows = {a.scores, a.cols, a.ld, a.exclude_offsets, a.exclude_columns};
  const int size = queue_size(a.k);
  // Two blocks a multiprocessor, as long as a slice is worth its merging.
  const int64_t wanted = divide_up(2 * context.sm_count, a.rows);
  const int64_t most = a.cols < 2 * kShortestSlice ? 1 : a.cols / kShortestSlice;
  int64_t slices = wanted < most ? wanted : most;
  const int64_t slice_cols = a.cols > 0 ? divide_up(divide_up(a.cols, slices), kTile) * kTile : 0;
  if (slices > 1) slices = divide_up(a.cols, slice_cols);
  const bool vectors = aligned_16(a.scores) && (a.rows == 1 || a.ld % 4 == 0);
  const bool rounds = a.k > size;
  const Scratch keys(context,
                     slices > 1 ? static_cast<size_t>(a.rows * slices) * size * sizeof(uint64_t) : 0);
  const Scratch last(context, rounds ? static_cast<size_t>(a.rows) * sizeof(uint64_t) : 0);
  for (int32_t first = 0; first < a.k; first += size) {
    const int32_t count = a.k - first < size ? a.k - first : size;
    uint64_t* found = rounds ? last.as<uint64_t>() : nullptr;
    launch(vectors ? top_k_kernel<true> : top_k_kernel<false>, static_cast<unsigned>(a.rows * slices),
           kThreads, queues_bytes(size), context.stream, rows, static_cast<int>(slices), slice_cols, size,
           first > 0 ? found : nullptr, Places{a.indices, a.values, first, count, a.k, found},
           keys.as<uint64_t>());
    if (slices > 1)
      merge_ranked(context, a.rows, slices, size, keys.as<uint64_t>(), first, count, a.k, a.indices, a.values,
                   found);
  }
}

}  // namespace allmrec::cuda
