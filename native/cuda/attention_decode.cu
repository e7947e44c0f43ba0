// Attention of few query rows a sequence over long keys (decoding): split over the keys, merged by
// log-sum-exp.
//
// A block takes one head of one sequence and one part of the keys its rows see. A group of G lanes reads a
// key's part of a row in 16-byte pieces, kAhead keys and their values in flight; each group keeps a running
// softmax of its own keys, the block merges its groups through shared memory, and a second kernel, a warp for
// each row and head, merges the parts. The grid depends on the arguments only, the parts on the device's
// kv_len: a captured graph may be replayed while the cache grows, blocks that would get fewer than kLeast
// keys do nothing.
//
// Bound: reading the keys and values once. Expected on an H200: 80 % of its bandwidth for 32 heads and some
// thousand keys. Not yet measured on hardware.
#include "attention_common.h"

namespace allmrec::cuda {

namespace {

constexpr int kThreads = 128;
constexpr int kMaxParts = 32;
constexpr int kLeast = 64;  // keys worth a block

// What the merge needs of a part: the weighted sum of the values, and of the weights, both relative to the
// highest score in base 2.
__device__ __forceinline__ float* part_of(float* parts, int64_t row_and_head, int number, int part, int D) {
  return parts + (row_and_head * number + part) * (D + 2);
}

template <typename T, int NV>
struct Piece {
  Vector<T> x[NV];
};
// The lane's columns of a row: NV pieces, 16 bytes each, G lanes apart; zeros from D on.
template <typename T, int G, int NV>
__device__ __forceinline__ Piece<T, NV> load_piece(const T* row, int lane, int D, bool vectors) {
  constexpr int V = Vector<T>::size;
  Piece<T, NV> piece;
#pragma unroll
  for (int n = 0; n < NV; ++n) {
    const int c = (lane + n * G) * V;
    if (vectors && c < D) {
      piece.x[n] = load_vector(row + c);
    } else {
#pragma unroll
      for (int i = 0; i < V; ++i) piece.x[n].value[i] = c + i < D ? row[c + i] : from_float<T>(0.0f);
    }
  }
  return piece;
}

// Where a row of D outputs goes, with its log-sum-exp.
template <typename T>
__device__ __forceinline__ void finish(const allmrec_attention_args& a, int64_t t, int h, int d, float sum,
                                       float total, float top) {
  T* out = static_cast<T*>(a.out) + t * a.ldout + static_cast<int64_t>(h) * a.head_dim;
  out[d] = from_float<T>(total > 0 ? sum / total : 0.0f);
  if (d == 0 && a.lse) a.lse[t * a.heads + h] = total > 0 ? kLn2 * top + logf(total) : -INFINITY;
}

template <typename T, int G, int NV, int R>
__global__ void __launch_bounds__(kThreads)
    attention_decode_kernel(allmrec_attention_args a, int number, bool vectors, float* parts) {
  constexpr int kGroups = kThreads / G, kAhead = 4, V = Vector<T>::size, W = NV * V;
  float* sums = static_cast<float*>(dynamic_shared());  // (kGroups, R, D)
  __shared__ float tops[kGroups][R], totals[kGroups][R];

  const int lane = static_cast<int>(threadIdx.x) % G, group = static_cast<int>(threadIdx.x) / G;
  const int h = static_cast<int>(blockIdx.y), D = a.head_dim;
  const int sequence = static_cast<int>(blockIdx.x) / number, part = static_cast<int>(blockIdx.x) % number;
  const int64_t column = static_cast<int64_t>(h) * D, kv = a.kv_start[sequence];
  const T* k = static_cast<const T*>(a.k) + kv * a.ldk + column;
  const T* v = static_cast<const T*>(a.v) + kv * a.ldv + column;
  const int64_t t0 = a.q_offsets[sequence], t1 = a.q_offsets[sequence + 1];

  for (int64_t t = t0; t < t1; t += R) {
    // The keys any of the rows sees, without the gap between the prefix and the rows' own.
    RowKeys keys[R];
    int prefix = 0, low = 0x7fffffff, high = 0;
#pragma unroll
    for (int r = 0; r < R; ++r) {
      keys[r] = row_keys(a, t + r, t + r < t1);
      prefix = greater(prefix, keys[r].prefix);
      if (keys[r].begin >= keys[r].end) continue;
      low = lesser(low, keys[r].begin);
      high = greater(high, keys[r].end);
    }
    low = greater(low, prefix);
    const int count = prefix + greater(0, high - low);
    const int size = greater(kLeast, (count + number - 1) / number);
    const int begin = number == 1 ? 0 : part * size, end = number == 1 ? count : lesser(count, begin + size);
    if (part > 0 && begin >= end) {
      if (static_cast<int>(threadIdx.x) < R && t + threadIdx.x < t1)
        part_of(parts, (t + threadIdx.x) * a.heads + h, number, part, D)[D + 1] = 0;
      continue;
    }

    float q[R][W], sum[R][W], top[R], total[R];
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const int64_t row = t + r < t1 ? t + r : t;
      const Piece<T, NV> piece =
          load_piece<T, G, NV>(static_cast<const T*>(a.q) + row * a.ldq + column, lane, D, vectors);
      top[r] = -INFINITY, total[r] = 0;
#pragma unroll
      for (int i = 0; i < W; ++i)
        q[r][i] = a.scale * kLog2E * to_float(piece.x[i / V].value[i % V]), sum[r][i] = 0;
    }
    for (int i = begin + group; i - group < end; i += kAhead * kGroups) {
      int key[kAhead];
      Piece<T, NV> key_piece[kAhead], value_piece[kAhead];
#pragma unroll
      for (int n = 0; n < kAhead; ++n) {
        const int at = lesser(i + n * kGroups, end - 1);
        key[n] = at < prefix ? at : at - prefix + low;
        key_piece[n] = load_piece<T, G, NV>(k + key[n] * a.ldk, lane, D, vectors);
      }
#pragma unroll
      for (int n = 0; n < kAhead; ++n)
        value_piece[n] = load_piece<T, G, NV>(v + key[n] * a.ldv, lane, D, vectors);
#pragma unroll
      for (int r = 0; r < R; ++r) {
        float score[kAhead], highest = top[r];
#pragma unroll
        for (int n = 0; n < kAhead; ++n) {
          float s = 0;
#pragma unroll
          for (int c = 0; c < W; ++c) s = fmaf(q[r][c], to_float(key_piece[n].x[c / V].value[c % V]), s);
#pragma unroll
          for (int offset = G / 2; offset > 0; offset /= 2) s += __shfl_xor_sync(kAllLanes, s, offset);
          score[n] = i + n * kGroups < end && keys[r].sees(key[n]) ? s : -INFINITY;
          highest = fmaxf(highest, score[n]);
        }
        const float base = highest == -INFINITY ? 0.0f : highest;  // keeps −∞ − (−∞) out of the way
        const float fade = exp2_fast(top[r] - base);
        top[r] = highest;
        total[r] *= fade;
#pragma unroll
        for (int c = 0; c < W; ++c) sum[r][c] *= fade;
#pragma unroll
        for (int n = 0; n < kAhead; ++n) {
          const float weight = exp2_fast(score[n] - base);
          total[r] += weight;
#pragma unroll
          for (int c = 0; c < W; ++c)
            sum[r][c] = fmaf(weight, to_float(value_piece[n].x[c / V].value[c % V]), sum[r][c]);
        }
      }
    }

    __syncthreads();  // the rows before have been merged
#pragma unroll
    for (int r = 0; r < R; ++r) {
      if (lane == 0) tops[group][r] = top[r], totals[group][r] = total[r];
#pragma unroll
      for (int c = 0; c < W; ++c) {
        const int d = (lane + c / V * G) * V + c % V;
        if (d < D) sums[(group * R + r) * D + d] = sum[r][c];
      }
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < R * D; i += kThreads) {
      const int r = i / D, d = i % D;
      if (t + r >= t1) break;
      float highest = -INFINITY, x = 0, weights = 0;
#pragma unroll
      for (int g = 0; g < kGroups; ++g) highest = fmaxf(highest, tops[g][r]);
      const float base = highest == -INFINITY ? 0.0f : highest;
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        const float fade = exp2_fast(tops[g][r] - base);
        weights = fmaf(fade, totals[g][r], weights);
        x = fmaf(fade, sums[(g * R + r) * D + d], x);
      }
      if (number == 1) {
        finish<T>(a, t + r, h, d, x, weights, highest);
        continue;
      }
      float* to = part_of(parts, (t + r) * a.heads + h, number, part, D);
      to[d] = x;
      if (d == 0) to[D] = highest, to[D + 1] = weights;
    }
  }
}

// A warp merges the parts of one row and head.
template <typename T>
__global__ void __launch_bounds__(kThreads, 8)
    attention_merge_kernel(allmrec_attention_args a, int number, float* parts) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, D = a.head_dim;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;
  if (row >= a.tokens * a.heads) return;
  const float* mine = part_of(parts, row, number, lane < number ? lane : 0, D);
  const float total = lane < number ? mine[D + 1] : 0.0f, top = total > 0 ? mine[D] : -INFINITY;
  const float highest = warp_max(top), base = highest == -INFINITY ? 0.0f : highest;
  const float fade = exp2_fast(top - base), all = warp_sum(fade * total);
  for (int d = lane; d - lane < D; d += kWarp) {
    float sum = 0;
    for (int part = 0; part < number; ++part) {
      const float weight = __shfl_sync(kAllLanes, fade, part);
      if (weight > 0 && d < D) sum = fmaf(weight, part_of(parts, row, number, part, D)[d], sum);
    }
    if (d < D) finish<T>(a, row / a.heads, static_cast<int>(row % a.heads), d, sum, all, highest);
  }
}

template <typename T, int G, int NV, int R>
void run_rows(Context& context, const allmrec_attention_args& a, int number, bool vectors, float* parts) {
  launch(attention_decode_kernel<T, G, NV, R>,
         dim3(static_cast<unsigned>(a.num_sequences * number), static_cast<unsigned>(a.heads)),
         dim3(kThreads), static_cast<size_t>(kThreads / G) * R * a.head_dim * sizeof(float), context.stream,
         a, number, vectors, parts);
}
template <typename T, int G, int NV>
void run(Context& context, const allmrec_attention_args& a, int number, bool vectors, float* parts) {
  const bool single = a.max_q_length == 1 || (a.max_q_length == 0 && a.tokens <= a.num_sequences);
  single ? run_rows<T, G, NV, 1>(context, a, number, vectors, parts)
         : run_rows<T, G, NV, 4>(context, a, number, vectors, parts);
}

}  // namespace

// Where the longest is not known: few rows on average. Any number of rows is right, only slow.
bool attention_is_decode(const allmrec_attention_args& a) {
  if (a.pad_k || a.dropout.p > 0) return false;
  return a.max_q_length > 0 ? a.max_q_length <= 4 : a.tokens <= 4 * a.num_sequences;
}

void attention_decode(Context& context, const allmrec_attention_args& a) {
  // Four blocks for each multiprocessor, but not more parts than the longest sequence can use.
  int64_t number = divide_up(4 * int64_t{context.sm_count}, a.num_sequences * a.heads);
  if (a.max_kv_length > 0 && number > divide_up(a.max_kv_length, kLeast))
    number = divide_up(a.max_kv_length, kLeast);
  if (number > kMaxParts) number = kMaxParts;
  Scratch scratch(context,
                  number == 1 ? 0 : static_cast<size_t>(a.tokens * a.heads * number * (a.head_dim + 2)) * 4);
  float* parts = number == 1 ? nullptr : scratch.as<float>();
  by_storage(a.dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int V = Vector<T>::size;
    const int D = a.head_dim, n = static_cast<int>(number);
    const bool vectors =
        vectors_of<T>(a.q, a.ldq, D) && vectors_of<T>(a.k, a.ldk, D) && vectors_of<T>(a.v, a.ldv, D);
    if (D <= 8 * V) {
      run<T, 8, 1>(context, a, n, vectors, parts);
    } else if (D <= 16 * V) {
      run<T, 16, 1>(context, a, n, vectors, parts);
    } else {
      if (D <= 32 * V) run<T, 32, 1>(context, a, n, vectors, parts);
      if constexpr (32 * V < kMaxHeadDim) {
        if (D > 32 * V) run<T, 32, 2>(context, a, n, vectors, parts);
      }
    }
    if (number == 1) return;
    launch(attention_merge_kernel<T>,
           dim3(static_cast<unsigned>(divide_up(a.tokens * a.heads, kThreads / kWarp))), dim3(kThreads), 0,
           context.stream, a, n, parts);
  });
}

}  // namespace allmrec::cuda
