// Rows added by index, always in the same order: the gradients of embeddings (table, soft rows, positions and
// constant in the same launches) and scatter_add_rows. Bound by bytes for many tokens, by launches for few.
//
// Idea: no atomics on floats and no pass over the table. The indices are sorted (stably, so tokens of one row
// stay in order), then runs of equal ones are summed.
//  1. rank: a token's place is the number of indices below its own plus the number of equal ones before it,
//     simply counted: 32 tokens a block, its eight warps each comparing an eighth of the tile, which lies in
//     shared memory and is read as broadcasts. Up to 8,192 tokens are one tile: 6,400 tokens are 41 million
//     comparisons, two instructions each. Above, tiles of 4,096 are ranked alone, and a second launch finds
//     each token's place by binary search in the other tiles: T · 4096 comparisons and T · T / 4096 searches.
//  2. sum: a warp takes 32 places and 32 pieces of columns, eight rows in flight. A run that lies inside goes
//     straight to its target, which has no other writer; of one that crosses a border the part is kept.
//  3. merge: for each run that crosses, a block adds the parts in order, its eight warps an eighth each, so
//     that one very popular row costs little more than many rare ones.
// The sums are of fixed groups of 32 tokens in token order, added in token order.
// Expected on an H200 for SASRec (6,400 tokens of 50, table and positions together): 3 launches, 8–10 µs.
// Not yet measured on hardware.

#include "scatter.h"

#include "values.h"

namespace allmrec::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kLargestTile = 8192;  // tokens ranked in one launch
constexpr int kTile = 4096;         // where there are more
constexpr int kChunk = 32;          // places a warp sums
constexpr int kInFlight = 8;        // rows

// Keys sort the rows of `to` by their number, then those of `below`, then what is left out.
constexpr uint32_t kBelow = 0x80000000u;
constexpr uint32_t kLeftOut = 0xfffffffeu;
constexpr uint32_t kNothing = 0xffffffffu;  // beyond the last token

struct Jobs {
  ScatterJob job[kMostScatterJobs];
};

// By selects: a job picked by an index known only at run time would be copied to local memory.
__device__ __forceinline__ ScatterJob pick(const Jobs& jobs, unsigned i) {
  ScatterJob job = jobs.job[0];
  if (i == 1) job = jobs.job[1];
  if (i == 2) job = jobs.job[2];
  return job;
}

__device__ __forceinline__ uint32_t key_of(const ScatterJob& job, int64_t i) {
  const int32_t index = job.index ? job.index[i] : 0;
  if (index >= 0) return job.to ? static_cast<uint32_t>(index) : kLeftOut;
  return job.below ? kBelow | ~static_cast<uint32_t>(index) : kLeftOut;
}

// sorted (jobs, count) and order (jobs, count): key and token of each place, within tiles of tile_size.
__global__ void __launch_bounds__(kThreads)
    rank_kernel(Jobs jobs, int64_t count, int tile_size, uint32_t* sorted, int32_t* order) {
  __shared__ __align__(16) uint32_t keys[kLargestTile];
  __shared__ int counts[kWarps][kWarp];
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const ScatterJob job = pick(jobs, blockIdx.y);
  const int blocks_per_tile = tile_size / kWarp;
  const int64_t tile = int64_t{blockIdx.x / blocks_per_tile} * tile_size;
  const int first = static_cast<int>(blockIdx.x % blocks_per_tile) * kWarp;
  const int size = static_cast<int>(count - tile < tile_size ? count - tile : tile_size);
  if (first >= size) return;
  const int padded = (size + kThreads - 1) / kThreads * kThreads;
  for (int u = static_cast<int>(threadIdx.x); u < padded; u += kThreads)
    keys[u] = u < size ? key_of(job, tile + u) : kNothing;
  __syncthreads();

  const uint32_t key = keys[first + lane];
  const int part = padded / kWarps;  // a multiple of 32
  int rank = 0;
  for (int u = warp * part; u < (warp + 1) * part; u += kWarp) {
    const uint32_t bound = u < first ? key + 1 : key;  // equal keys count where they come before
#pragma unroll
    for (int j = 0; j < kWarp; j += 4) {
      const uint4 four = *reinterpret_cast<const uint4*>(keys + u + j);
      if (u != first) {
        rank += (four.x < bound) + (four.y < bound) + (four.z < bound) + (four.w < bound);
      } else {
        rank += (four.x < key + (j < lane)) + (four.y < key + (j + 1 < lane)) +
                (four.z < key + (j + 2 < lane)) + (four.w < key + (j + 3 < lane));
      }
    }
  }
  counts[warp][lane] = rank;
  __syncthreads();
  if (warp > 0 || first + lane >= size) return;
  for (int other = 1; other < kWarps; ++other) rank += counts[other][lane];
  const int64_t place = blockIdx.y * count + tile + rank;
  sorted[place] = key;
  order[place] = static_cast<int32_t>(tile + first + lane);
}

// Places within tiles become places among all.
__global__ void __launch_bounds__(kThreads)
    merge_tiles_kernel(int64_t count, const uint32_t* tile_sorted, const int32_t* tile_order,
                       uint32_t* sorted, int32_t* order) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= count) return;
  const int64_t job = blockIdx.y * count;
  const uint32_t key = tile_sorted[job + i];
  const int64_t own = i / kTile;
  int64_t place = i % kTile;
  for (int64_t tile = 0; tile * kTile < count; ++tile) {
    if (tile == own) continue;
    const uint32_t bound = tile < own ? key + 1 : key;
    const uint32_t* keys = tile_sorted + job + tile * kTile;
    int begin = 0, end = static_cast<int>(count - tile * kTile < kTile ? count - tile * kTile : kTile);
    while (begin < end) {
      const int middle = (begin + end) / 2;
      if (keys[middle] < bound)
        begin = middle + 1;
      else
        end = middle;
    }
    place += begin;
  }
  sorted[job + place] = key;
  order[job + place] = tile_order[job + i];
}

template <typename Out>
__device__ __forceinline__ Out* target_of(const ScatterJob& job, uint32_t key, int64_t ldout) {
  Out* base = static_cast<Out*>(key & kBelow ? job.below : job.to);
  return base + int64_t{key & ~kBelow} * ldout;
}

template <typename In>
struct Source {
  const In* x;
  int64_t ld, cols;
  Dropout dropout;
};

// The parts of runs that cross borders: of chunk c the run that came in (which = 0) or that begins in it (1).
__device__ __forceinline__ int64_t part_of(int64_t chunks, int64_t chunk, int which, int64_t cols) {
  return ((int64_t{blockIdx.z} * 2 + which) * chunks + chunk) * cols;
}

template <typename In, typename Out, int V>
__global__ void __launch_bounds__(kThreads, 2)
    sum_runs_kernel(Jobs jobs, Source<In> source, int64_t count, const uint32_t* sorted, const int32_t* order,
                    Out* /* types the target */, int64_t ldout, float* parts) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const ScatterJob job = pick(jobs, blockIdx.z);
  const int64_t chunks = (count + kChunk - 1) / kChunk, chunk = int64_t{blockIdx.x} * kWarps + warp;
  if (chunk >= chunks) return;
  sorted += blockIdx.z * count;
  order += blockIdx.z * count;
  const int64_t place = chunk * kChunk + lane;
  const uint32_t key = place < count ? sorted[place] : kNothing;
  const int64_t token = place < count ? order[place] : 0;
  const uint32_t before = chunk > 0 ? sorted[chunk * kChunk - 1] : kNothing;
  const uint32_t after = (chunk + 1) * kChunk < count ? sorted[(chunk + 1) * kChunk] : kNothing;

  for (int64_t column = (int64_t{blockIdx.y} * kWarp + lane) * V; column - lane * V < source.cols;
       column += int64_t{gridDim.y} * kWarp * V) {
    const bool active = column < source.cols;
    bool came_in = before == __shfl_sync(kAllLanes, key, 0);
    float sum[V] = {};
    for (int first = 0; first < kChunk; first += kInFlight) {
      if (__shfl_sync(kAllLanes, key, first) >= kLeftOut) break;  // and so is everything behind it
      float x[kInFlight][V];
#pragma unroll
      for (int k = 0; k < kInFlight; ++k) {
        const int64_t row = __shfl_sync(kAllLanes, token, first + k);
        if (!active) continue;
        load_values<V>(source.x + row * source.ld + column, x[k]);
        float factor[V];
        dropout_factors<V>(source.dropout, static_cast<uint64_t>(row * source.cols + column), factor);
#pragma unroll
        for (int j = 0; j < V; ++j) x[k][j] *= factor[j] * job.scale;
      }
#pragma unroll
      for (int k = 0; k < kInFlight; ++k) {
        const uint32_t current = __shfl_sync(kAllLanes, key, first + k);
        const uint32_t inside = __shfl_sync(kAllLanes, key, (first + k + 1) % kChunk);
        const uint32_t next = first + k + 1 < kChunk ? inside : after;
        if (current >= kLeftOut || !active) continue;
#pragma unroll
        for (int j = 0; j < V; ++j) sum[j] += x[k][j];
        const bool goes_on = next == current, border = first + k + 1 == kChunk;
        if (goes_on && !border) continue;
        if (came_in || goes_on)
          store_values<V>(parts + part_of(chunks, chunk, came_in ? 0 : 1, source.cols) + column, sum);
        else
          put_values<V>(target_of<Out>(job, current, ldout) + column, sum, true);
        came_in = false;
#pragma unroll
        for (int j = 0; j < V; ++j) sum[j] = 0.0f;
      }
    }
  }
}

// One block per chunk in which a run begins that crosses its end; the others leave at once.
template <typename Out, int V>
__global__ void __launch_bounds__(kThreads)
    merge_runs_kernel(Jobs jobs, int64_t count, int64_t cols, const uint32_t* sorted,
                      Out* /* types the target */, int64_t ldout, const float* parts) {
  __shared__ float sums[kWarps][kWarp * V];
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t chunks = (count + kChunk - 1) / kChunk, chunk = blockIdx.x;
  sorted += blockIdx.z * count;
  if (chunk + 1 >= chunks) return;
  const uint32_t key = sorted[(chunk + 1) * kChunk - 1];
  if (key >= kLeftOut || sorted[(chunk + 1) * kChunk] != key) return;
  if (chunk > 0 && sorted[chunk * kChunk - 1] == key) return;  // it began before

  // The chunks it came into: those that begin with its key.
  int64_t entered = 0;
  for (unsigned same = kAllLanes; same == kAllLanes; entered += __popc(same)) {
    const int64_t other = chunk + 1 + entered + lane;
    same = __ballot_sync(kAllLanes, other < chunks && sorted[other * kChunk] == key);
  }
  const int64_t each = (entered + kWarps - 1) / kWarps;
  const int64_t begin = chunk + 1 + warp * each, end = chunk + 1 + entered;
  const int64_t column = (int64_t{blockIdx.y} * kWarp + lane) * V;
  float sum[V] = {};
  if (column < cols) {
#pragma unroll 8
    for (int64_t other = begin; other < begin + each; ++other) {
      if (other >= end) break;
      float part[V];
      load_values<V>(parts + part_of(chunks, other, 0, cols) + column, part);
#pragma unroll
      for (int j = 0; j < V; ++j) sum[j] += part[j];
    }
  }
#pragma unroll
  for (int j = 0; j < V; ++j) sums[warp][lane * V + j] = sum[j];
  __syncthreads();
  if (warp > 0 || column >= cols) return;
  float total[V];
  load_values<V>(parts + part_of(chunks, chunk, 1, cols) + column, total);
#pragma unroll
  for (int j = 0; j < V; ++j) {
    for (int other = 0; other < kWarps; ++other) total[j] += sums[other][lane * V + j];
  }
  put_values<V>(target_of<Out>(pick(jobs, blockIdx.z), key, ldout) + column, total, true);
}

template <typename In, typename Out, int V>
void sum_runs(Context& context, const ScatterAdd& a, const Jobs& jobs, const uint32_t* sorted,
              const int32_t* order) {
  const int64_t chunks = divide_up(a.count, kChunk), tiles = divide_up(a.cols, kWarp * V);
  const unsigned num_jobs = static_cast<unsigned>(a.num_jobs);
  if (tiles > 65535) unsupported("rows of more than two million columns are not added by index");
  Scratch parts(context, static_cast<size_t>(num_jobs * 2 * chunks * a.cols) * sizeof(float));
  const Source<In> source = {static_cast<const In*>(a.x), a.ldx, a.cols, a.dropout};
  launch(sum_runs_kernel<In, Out, V>,
         dim3(static_cast<unsigned>(divide_up(chunks, kWarps)), static_cast<unsigned>(tiles), num_jobs),
         kThreads, 0, context.stream, jobs, source, a.count, sorted, order, static_cast<Out*>(nullptr),
         a.ldout, parts.as<float>());
  if (chunks == 1) return;
  launch(merge_runs_kernel<Out, V>,
         dim3(static_cast<unsigned>(chunks - 1), static_cast<unsigned>(tiles), num_jobs), kThreads, 0,
         context.stream, jobs, a.count, a.cols, sorted, static_cast<Out*>(nullptr), a.ldout,
         parts.as<float>());
}

}  // namespace

void scatter_add(Context& context, const ScatterAdd& a) {
  if (a.count == 0 || a.cols == 0 || a.num_jobs == 0) return;
  const unsigned num_jobs = static_cast<unsigned>(a.num_jobs);
  Jobs jobs = {};
  bool aligned = aligned_16(a.x);
  for (int i = 0; i < a.num_jobs; ++i) {
    jobs.job[i] = a.jobs[i];
    aligned = aligned && aligned_16(a.jobs[i].to) && aligned_16(a.jobs[i].below);
  }

  const size_t places = static_cast<size_t>(num_jobs * a.count);
  Scratch sorted_memory(context, places * 8);
  uint32_t* sorted = sorted_memory.as<uint32_t>();
  int32_t* order = sorted_memory.as<int32_t>() + places;
  const auto rank = [&](int tile, uint32_t* to_sorted, int32_t* to_order) {
    const int64_t blocks = divide_up(a.count, tile) * (tile / kWarp);
    launch(rank_kernel, dim3(static_cast<unsigned>(blocks), num_jobs), kThreads, 0, context.stream, jobs,
           a.count, tile, to_sorted, to_order);
  };
  if (a.count <= kLargestTile) {
    rank(static_cast<int>(divide_up(a.count, kWarp) * kWarp), sorted, order);
  } else {
    Scratch tiles(context, places * 8);
    uint32_t* tile_sorted = tiles.as<uint32_t>();
    int32_t* tile_order = tiles.as<int32_t>() + places;
    rank(kTile, tile_sorted, tile_order);
    launch(merge_tiles_kernel, dim3(static_cast<unsigned>(divide_up(a.count, kThreads)), num_jobs), kThreads,
           0, context.stream, a.count, tile_sorted, tile_order, sorted, order);
  }

  by_storage(a.x_dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int kSize = Vector<T>::size;
    const bool vectors = aligned && a.cols % kSize == 0 && a.ldx % kSize == 0 && a.ldout % kSize == 0;
    if (a.out_dtype == a.x_dtype && vectors) return sum_runs<T, T, kSize>(context, a, jobs, sorted, order);
    if (a.out_dtype == a.x_dtype) return sum_runs<T, T, 1>(context, a, jobs, sorted, order);
    if (sizeof(T) == 4) return;  // float32 is never added to halves
    if (vectors) return sum_runs<T, float, kSize>(context, a, jobs, sorted, order);
    return sum_runs<T, float, 1>(context, a, jobs, sorted, order);
  });
}

}  // namespace allmrec::cuda
