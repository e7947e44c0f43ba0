// rank_catalogue: the k best items of a whole catalogue for each query, scores never stored.
//
// Bound by flops with many queries, by one read of the items with few. A tile is Rows queries × 128 items;
// eight warps own Rows / 8 queries each, so that all 128 scores of a query meet in one warp's registers: each
// is compared there with the query's k-th best so far, and only the few that pass enter the query's queue in
// shared memory (top_k_queue.h). Neither scores nor barriers are spent on ranking. Operands come in slabs of
// 16 along the width, transposed into shared memory and double-buffered through registers: one barrier a
// slab. Items are cut into slices, one block each, whose sorted queues a second launch merges. Larger k means
// fewer queries a block (the queues have to fit); few queries take the smallest tile, whose spare rows cost
// nothing while the items' bytes are the bound. Above 512 places a tile of scores goes to scratch memory and
// top_k has them. Expected 50–60 % of float32 peak; not yet measured on hardware.

#include "ops.h"
#include "top_k_queue.h"

namespace allmrec::cuda {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * kWarp;
constexpr int kItems = 128, kPerLane = kItems / kWarp;  // a lane has four neighbouring items
constexpr int kSlab = 16;                               // along the width
constexpr int kPad = 4;                                 // keeps vectors aligned, halves bank conflicts

struct Ranking {
  int64_t rows, items_count, cols;
  const float* queries;
  const float* items;
  const float* item_bias;
  const int32_t* exclude_offsets;
  const int32_t* exclude_columns;
  int32_t k;
};

// Up to four values of row `row` of a matrix (rows, cols) from column c on, zeros outside.
template <bool Vectors>
__device__ __forceinline__ Vector<float> load_quad(const float* matrix, int64_t rows, int64_t cols,
                                                   int64_t row, int64_t c) {
  Vector<float> v = {{0.0f, 0.0f, 0.0f, 0.0f}};
  if (row >= rows) return v;
  const float* p = matrix + row * cols + c;
  if (Vectors) {
    if (c < cols) v = load_vector(p);
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (c + j < cols) v.value[j] = p[j];
    }
  }
  return v;
}

template <int Rows>
constexpr int kSlabFloats = kSlab * (Rows + kPad + kItems + kPad);

template <int Rows, bool Vectors>
__global__ void __launch_bounds__(kThreads, 2)
    rank_kernel(const Ranking g, int slices, int64_t slice_items, int size, int32_t* indices, float* values,
                uint64_t* keys) {
  constexpr int kRows = Rows / kWarps;  // of a warp
  constexpr int kQuadsA = Rows * kSlab / 4, kQuadsB = kItems * kSlab / 4 / kThreads;
  constexpr int kLdA = Rows + kPad, kLdB = kItems + kPad;
  uint64_t* queues = static_cast<uint64_t*>(dynamic_shared());  // (Rows, 2, size)
  float* slabs = reinterpret_cast<float*>(queues + Rows * 2 * size);
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp, lane = thread % kWarp;
  const int64_t row0 = static_cast<int64_t>(blockIdx.x / static_cast<unsigned>(slices)) * Rows;
  const int slice = static_cast<int>(blockIdx.x % static_cast<unsigned>(slices));
  const int64_t begin = slice * slice_items;
  const int64_t end = begin + slice_items < g.items_count ? begin + slice_items : g.items_count;

  int count[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    count[r] = 0;
    clear(queues + (warp * kRows + r) * 2 * size, size);
  }
  uint64_t bar[kRows];  // the k-th best so far
#pragma unroll
  for (int r = 0; r < kRows; ++r) bar[r] = 0;

  // Of the slab that is on its way: quad q is row q / 4, columns 4 · (q % 4).
  Vector<float> next_a = {{0.0f, 0.0f, 0.0f, 0.0f}}, next_b[kQuadsB];
  const auto fetch = [&](int64_t item0, int64_t c0) {
    const int64_t c = c0 + thread % 4 * 4;
    if (thread < kQuadsA) next_a = load_quad<Vectors>(g.queries, g.rows, g.cols, row0 + thread / 4, c);
#pragma unroll
    for (int u = 0; u < kQuadsB; ++u)
      next_b[u] = load_quad<Vectors>(g.items, end, g.cols, item0 + (u * kThreads + thread) / 4, c);
  };
  float score[kRows][kPerLane] = {};
  // Offers the scores of the warp's row r.
  const auto rank_row = [&](int r, int64_t item0) {
    const int64_t row = row0 + warp * kRows + r;
    uint64_t* best = queues + (warp * kRows + r) * 2 * size;
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      const int64_t item = item0 + lane * kPerLane + j;
      const uint64_t key = rank_key(score[r][j], static_cast<int32_t>(item));
      bool has = item < end && row < g.rows && key > bar[r];
      if (has && g.exclude_offsets)
        has = !holds_column(g.exclude_columns, g.exclude_offsets[row], g.exclude_offsets[row + 1],
                            static_cast<int32_t>(item));
      if (offer(best, best + size, size, count[r], has, key)) bar[r] = best[g.k - 1];
    }
  };

  int64_t item0 = begin, c0 = 0;
  if (begin < end) fetch(item0, c0);
  for (int turn = 0; item0 < end; turn ^= 1) {
    float* slab_a = slabs + turn * kSlabFloats<Rows>;
    float* slab_b = slab_a + kSlab * kLdA;
    const int c = thread % 4 * 4;
    if (thread < kQuadsA) {
#pragma unroll
      for (int j = 0; j < 4; ++j) slab_a[(c + j) * kLdA + thread / 4] = next_a.value[j];
    }
#pragma unroll
    for (int u = 0; u < kQuadsB; ++u) {
#pragma unroll
      for (int j = 0; j < 4; ++j) slab_b[(c + j) * kLdB + (u * kThreads + thread) / 4] = next_b[u].value[j];
    }
    __syncthreads();
    const bool last = c0 + kSlab >= g.cols;
    const int64_t next_item = last ? item0 + kItems : item0, next_c = last ? 0 : c0 + kSlab;
    if (next_item < end) fetch(next_item, next_c);
#pragma unroll
    for (int p = 0; p < kSlab; ++p) {
      const Vector<float> b = load_vector(slab_b + p * kLdB + lane * kPerLane);
      float a[kRows];
      if constexpr (kRows % 4 == 0) {
#pragma unroll
        for (int r = 0; r < kRows; r += 4) {
          const Vector<float> four = load_vector(slab_a + p * kLdA + warp * kRows + r);
          for (int j = 0; j < 4; ++j) a[r + j] = four.value[j];
        }
      } else {
#pragma unroll
        for (int r = 0; r < kRows; ++r) a[r] = slab_a[p * kLdA + warp * kRows + r];
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int j = 0; j < kPerLane; ++j) score[r][j] += a[r] * b.value[j];
      }
    }
    if (last) {
      if (g.item_bias) {
#pragma unroll
        for (int j = 0; j < kPerLane; ++j) {
          const int64_t item = item0 + lane * kPerLane + j;
          const float bias = item < end ? g.item_bias[item] : 0.0f;
#pragma unroll
          for (int r = 0; r < kRows; ++r) score[r][j] += bias;
        }
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float bar_value = key_value(bar[r]);
        bool any = false;
#pragma unroll
        for (int j = 0; j < kPerLane; ++j) any |= !(score[r][j] < bar_value);
        if (__ballot_sync(kAllLanes, any)) rank_row(r, item0);
#pragma unroll
        for (int j = 0; j < kPerLane; ++j) score[r][j] = 0.0f;
      }
    }
    item0 = next_item;
    c0 = next_c;
  }

#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int64_t row = row0 + warp * kRows + r;
    if (row >= g.rows) continue;  // the same for the whole warp
    uint64_t* best = queues + (warp * kRows + r) * 2 * size;
    settle(best, best + size, size, count[r]);
    if (slices > 1) {
      uint64_t* to = keys + (row * slices + slice) * size;
      for (int i = lane; i < size; i += kWarp) to[i] = best[i];
      continue;
    }
    for (int i = lane; i < g.k; i += kWarp) {
      indices[row * g.k + i] = key_column(best[i]);
      values[row * g.k + i] = key_value(best[i]);
    }
  }
}

template <int Rows>
void rank(Context& context, const allmrec_rank_catalogue_args& a, int size) {
  const Ranking g = {
      a.rows, a.items_count, a.cols, a.queries, a.items, a.item_bias, a.exclude_offsets, a.exclude_columns,
      a.k};
  const int64_t row_blocks = divide_up(a.rows, Rows), tiles = divide_up(a.items_count, kItems);
  // Two blocks a multiprocessor, as long as a slice has some tiles to rank before it is merged.
  const int64_t wanted = divide_up(2 * context.sm_count, row_blocks), most = tiles < 8 ? 1 : tiles / 4;
  int64_t slices = wanted < most ? wanted : most;
  const int64_t slice_items = tiles > 0 ? divide_up(tiles, slices) * kItems : 0;
  if (slices > 1) slices = divide_up(a.items_count, slice_items);
  const Scratch keys(context,
                     slices > 1 ? static_cast<size_t>(a.rows * slices) * size * sizeof(uint64_t) : 0);
  const bool vectors = aligned_16(a.queries) && aligned_16(a.items) && a.cols % 4 == 0;
  const size_t shared =
      static_cast<size_t>(Rows) * 2 * size * sizeof(uint64_t) + 2 * kSlabFloats<Rows> * sizeof(float);
  launch(vectors ? rank_kernel<Rows, true> : rank_kernel<Rows, false>,
         static_cast<unsigned>(row_blocks * slices), kThreads, shared, context.stream, g,
         static_cast<int>(slices), slice_items, size, a.indices, a.values, keys.as<uint64_t>());
  if (slices > 1)
    merge_ranked(context, a.rows, slices, size, keys.as<uint64_t>(), 0, a.k, a.k, a.indices, a.values,
                 nullptr);
}

// Any k: scores of some rows at a time, through scratch memory of at most kScoreBytes.
void rank_stored(Context& context, const allmrec_rank_catalogue_args& a) {
  constexpr int64_t kScoreBytes = int64_t{64} << 20;
  int64_t step = kScoreBytes / (4 * a.items_count + 1);
  step = step < 1 ? 1 : step < a.rows ? step : a.rows;
  const Scratch scores(context, static_cast<size_t>(step * a.items_count) * sizeof(float));
  for (int64_t row = 0; row < a.rows; row += step) {
    const int64_t rows = a.rows - row < step ? a.rows - row : step;
    allmrec_gemm_args g = {};
    g.m = rows, g.n = a.items_count, g.k = a.cols;
    g.a = a.queries + row * a.cols, g.lda = a.cols;
    g.b = a.items, g.ldb = a.cols, g.trans_b = 1;
    g.c = scores.as<float>(), g.ldc = a.items_count, g.alpha = 1.0f, g.bias = a.item_bias;
    gemm(context, g);
    top_k(context, {rows, a.items_count, scores.as<float>(), a.items_count,
                    a.exclude_offsets ? a.exclude_offsets + row : nullptr, a.exclude_columns, a.k,
                    a.indices + row * a.k, a.values + row * a.k});
  }
}

}  // namespace

void rank_catalogue(Context& context, const allmrec_rank_catalogue_args& a) {
  if (a.rows == 0 || a.k == 0) return;
  const int size = queue_size(a.k);
  if (a.k > 512 || a.items_count == 0)
    rank_stored(context, a);
  else if (size > 256 || a.rows <= 8)
    rank<8>(context, a, size);
  else if (size > 128 || a.rows <= 16)
    rank<16>(context, a, size);
  else if (size > 64 || a.rows <= 32)
    rank<32>(context, a, size);
  else
    rank<64>(context, a, size);
}

}  // namespace allmrec::cuda
