// Attention over packed sequences, backward, on the matrix units.
//
// The same two kernels as attention_backward.cu: dQ (and D = rowsum(dO ∘ O), kept for the other) by tiles of
// 64 query rows, dK and dV by tiles of 64 keys. Scores and P are computed again from lse; in the second
// kernel they are computed transposed, so that Pᵀ and dSᵀ leave one product in the layout in which the next
// takes them, and nothing but the operands passes through shared memory. The next tile arrives while one is
// worked on; in the second kernel it starts at the next row that sees the keys. P and dS are rounded to the
// storage type, the scale of the scores is applied to the sums.
//
// Bound: the matrix units, 14 · D flops a visible pair (seven products; five would need atomics or a second
// pass over partial dQ). Expected on an H200: 150 TFLOP/s counting the five. Not yet measured on hardware.
#include "attention_mma.h"

namespace allmrec::cuda {

namespace {

constexpr int M = 64;  // rows of a block

// The other side of a tile: its scores stand beside one or two sums of the head's width in registers.
template <int DP>
constexpr int kInner = DP <= 32 ? 64 : 32;

template <typename T, int DP, bool Drops>
__global__ void __launch_bounds__(kMmaThreads, DP <= 64 ? 3 : 2)
    attention_dq_mma_kernel(allmrec_attention_backward_args b, Dropout dropout, float* delta_out) {
  constexpr int N = kInner<DP>, kTile = N * (DP + 8);
  T* qs = static_cast<T*>(dynamic_shared());                                // (M, DP)
  T* gs = qs + M * (DP + 8);                                                // (M, DP) dO
  T* ks = gs + M * (DP + 8);                                                // (2, N, DP)
  T* vs = ks + 2 * kTile;                                                   // (2, N, DP)
  unsigned char* masks = reinterpret_cast<unsigned char*>(vs + 2 * kTile);  // (2, M, …)

  const allmrec_attention_args& a = b.forward;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp, lane = thread % kWarp;
  const int h = static_cast<int>(blockIdx.y), D = a.head_dim;
  const QueryTile tile = query_tile(a, static_cast<int>(gridDim.x - 1 - blockIdx.x), M);
  if (tile.rows <= 0) return;
  const int64_t column = static_cast<int64_t>(h) * D, kv = a.kv_start[tile.sequence];
  const T* g = static_cast<const T*>(b.d_out) + tile.first * b.ld_dout + column;
  const T* out = static_cast<const T*>(a.out) + tile.first * a.ldout + column;
  const T* k = static_cast<const T*>(a.k) + kv * a.ldk + column;
  const T* v = static_cast<const T*>(a.v) + kv * a.ldv + column;
  const int kv_len = a.kv_len[tile.sequence];
  const float scale = a.scale * kLog2E;

  copy_rows<T, DP, M, kMmaThreads>(qs, static_cast<const T*>(a.q) + tile.first * a.ldq + column, a.ldq,
                                   tile.rows, D, thread);
  copy_rows<T, DP, M, kMmaThreads>(gs, g, b.ld_dout, tile.rows, D, thread);
  const KeyRange range = key_range<M>(a, tile);
  const int tiles = range.tiles<N>();
  const auto load_tile = [&](int first, int buffer) {
    copy_rows<T, DP, N, kMmaThreads>(ks + buffer * kTile, k + first * a.ldk, a.ldk, kv_len - first, D,
                                     thread);
    copy_rows<T, DP, N, kMmaThreads>(vs + buffer * kTile, v + first * a.ldv, a.ldv, kv_len - first, D,
                                     thread);
    if (Drops)
      drop_masks<N>(a, dropout, tile.first, tile.rows, h, first, thread, kMmaThreads,
                    masks + buffer * M * kMaskBytes<N>);
  };
  int j = range.next_tile<N>(-1), buffer = 0;
  if (j < tiles) load_tile(j * N, 0);
  cp_async_commit();

  // Rows lane / 4 and lane / 4 + 8 of the warp's 16; four lanes share a row.
  const int rows[2] = {16 * warp + lane / 4, 16 * warp + lane / 4 + 8};
  float delta[2], lse[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t row = rows[half];
    const bool valid = row < tile.rows;
    float sum = 0;
    for (int c = lane % 4 * 8; valid && c < D; c += 32) {
      const Vector<T> x = load_vector(out + row * a.ldout + c), y = load_vector(g + row * b.ld_dout + c);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum = fmaf(to_float(x.value[i]), to_float(y.value[i]), sum);
    }
    delta[half] = quad_sum(sum);
    const int64_t at = (tile.first + row) * a.heads + h;
    lse[half] = valid ? kLog2E * a.lse[at] : 0.0f;
    if (valid && lane % 4 == 0) delta_out[at] = delta[half];
  }
  float dq[DP / 8][4];
#pragma unroll
  for (int n = 0; n < DP / 8; ++n) dq[n][0] = dq[n][1] = dq[n][2] = dq[n][3] = 0;

  while (j < tiles) {
    const int first = j * N;
    const T* keys_here = ks + buffer * kTile;
    const T* values_here = vs + buffer * kTile;
    const unsigned char* mask = masks + buffer * M * kMaskBytes<N>;
    cp_async_wait<0>();
    __syncthreads();  // the tile is here; nobody uses the one before any more
    j = range.next_tile<N>(j);
    buffer ^= 1;
    if (j < tiles) load_tile(j * N, buffer);
    cp_async_commit();

    float s[N / 8][4], dp[N / 8][4];
    multiply_scores<T, DP, N>(s, qs + 16 * warp * (DP + 8), keys_here, lane);
    multiply_scores<T, DP, N>(dp, gs + 16 * warp * (DP + 8), values_here, lane);
    const bool all = range.all_see(first, first + N);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const bool valid = rows[half] < tile.rows;
      uint64_t kept = ~uint64_t{0};
      if (Drops && valid) {
        const uint64_t element = first_element(a, tile.first + rows[half], h) + static_cast<uint64_t>(first);
        kept =
            kept_bits<N>(mask + rows[half] * kMaskBytes<N>, static_cast<int>(element % 8)) >> (lane % 4 * 2);
      }
#pragma unroll
      for (int n = 0; n < N / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& x = s[n][2 * half + i];
          float d_weight = dp[n][2 * half + i];
          if (Drops) d_weight = kept >> (8 * n + i) & 1 ? dropout.scale * d_weight : 0.0f;
          const float weight = exp2_fast(fmaf(scale, x, -lse[half]));
          x = weight * (d_weight - delta[half]);
        }
      }
      if (all) continue;
      const RowKeys keys = row_keys(a, tile.first + rows[half], valid);
#pragma unroll
      for (int n = 0; n < N / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if (!keys.sees(first + 8 * n + lane % 4 * 2 + i)) s[n][2 * half + i] = 0;
        }
      }
    }
    multiply_weights<T, DP, N>(dq, s, keys_here, lane);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (rows[half] >= tile.rows) continue;
    T* to = static_cast<T*>(b.dq) + (tile.first + rows[half]) * b.ld_dq + column;
    store_fragment_row<T, DP>(to, dq, half, a.scale, D, lane, b.accumulate != 0);
  }
}

// What a tile of query rows is known by, beside Q and dO. Rows past the end see everything with a score and
// dO of zero, which adds nothing.
template <int Rows>
struct alignas(8) RowValues {
  float lse[Rows], delta[Rows];  // lse in base 2
  int prefix[Rows], begin[Rows], end[Rows];
};

template <typename T, int DP, bool Drops>
__global__ void __launch_bounds__(kMmaThreads, DP <= 64 ? 3 : 2)
    attention_dkv_mma_kernel(allmrec_attention_backward_args b, Dropout dropout, const float* delta,
                             int tiles) {
  constexpr int N = M, R = kInner<DP>, kTile = R * (DP + 8);
  T* ks = static_cast<T*>(dynamic_shared());                               // (N, DP)
  T* vs = ks + N * (DP + 8);                                               // (N, DP)
  T* qs = vs + N * (DP + 8);                                               // (2, R, DP)
  T* gs = qs + 2 * kTile;                                                  // (2, R, DP) dO
  RowValues<R>* values = reinterpret_cast<RowValues<R>*>(gs + 2 * kTile);  // (2)
  unsigned char* masks = reinterpret_cast<unsigned char*>(values + 2);     // (2, R, …)

  const allmrec_attention_args& a = b.forward;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp, lane = thread % kWarp;
  const int h = static_cast<int>(blockIdx.y), D = a.head_dim;
  const int sequence = static_cast<int>(blockIdx.x) / tiles;
  const int t0 = a.q_offsets[sequence], t1 = a.q_offsets[sequence + 1];
  const int64_t column = static_cast<int64_t>(h) * D, kv = a.kv_start[sequence];
  const T* q = static_cast<const T*>(a.q) + column;
  const T* g = static_cast<const T*>(b.d_out) + column;
  const T* k = static_cast<const T*>(a.k) + kv * a.ldk + column;
  const T* v = static_cast<const T*>(a.v) + kv * a.ldv + column;
  const int kv_len = a.kv_len[sequence];
  const float scale = a.scale * kLog2E;

  // More than one turn only when the longest sequence was not known.
  for (int first = static_cast<int>(blockIdx.x) % tiles * N; first < kv_len; first += tiles * N) {
    const int count = lesser(N, kv_len - first);
    const auto load_tile = [&](int t, int buffer) {
      const int rows = lesser(R, t1 - t);
      copy_rows<T, DP, R, kMmaThreads>(qs + buffer * kTile, q + t * a.ldq, a.ldq, rows, D, thread);
      copy_rows<T, DP, R, kMmaThreads>(gs + buffer * kTile, g + t * b.ld_dout, b.ld_dout, rows, D, thread);
      if (thread < R) {
        const bool valid = thread < rows;
        RowValues<R>& to = values[buffer];
        const RowKeys keys = row_keys(a, t + thread, valid);
        to.lse[thread] = valid ? kLog2E * a.lse[static_cast<int64_t>(t + thread) * a.heads + h] : 0.0f;
        to.delta[thread] = valid ? delta[static_cast<int64_t>(t + thread) * a.heads + h] : 0.0f;
        to.prefix[thread] = valid ? keys.prefix : kv_len;
        to.begin[thread] = keys.begin, to.end[thread] = keys.end;
      }
      if (Drops)
        drop_masks<N>(a, dropout, t, R, h, first, thread, kMmaThreads, masks + buffer * R * kMaskBytes<N>);
    };
    float dk[DP / 8][4], dv[DP / 8][4];
#pragma unroll
    for (int n = 0; n < DP / 8; ++n) {
      dk[n][0] = dk[n][1] = dk[n][2] = dk[n][3] = 0;
      dv[n][0] = dv[n][1] = dv[n][2] = dv[n][3] = 0;
    }
    int buffer = 0;
    int t = next_row(a, t0, t1, first, first + count);
    __syncthreads();  // the keys and rows before have been used
    if (t < t1) {     // else nothing would wait for the copies
      copy_rows<T, DP, N, kMmaThreads>(ks, k + first * a.ldk, a.ldk, count, D, thread);
      copy_rows<T, DP, N, kMmaThreads>(vs, v + first * a.ldv, a.ldv, count, D, thread);
      load_tile(t, 0);
    }
    cp_async_commit();
    while (t < t1) {
      cp_async_wait<0>();
      __syncthreads();  // the tile is here; nobody uses the one before any more
      const int here = t;
      const T* queries = qs + buffer * kTile;
      const T* gradients = gs + buffer * kTile;
      const RowValues<R>& row = values[buffer];
      const unsigned char* mask = masks + buffer * R * kMaskBytes<N>;
      t = next_row(a, t + R, t1, first, first + count);
      buffer ^= 1;
      if (t < t1) load_tile(t, buffer);
      cp_async_commit();

      float s[R / 8][4], dp[R / 8][4];  // 16 keys, R query rows
      multiply_scores<T, DP, R>(s, ks + 16 * warp * (DP + 8), queries, lane);
      multiply_scores<T, DP, R>(dp, vs + 16 * warp * (DP + 8), gradients, lane);
      bool mine = true;
#pragma unroll
      for (int r = lane; r < R; r += kWarp)
        mine = mine && RowKeys{row.prefix[r], row.begin[r], row.end[r]}.sees_all(first, first + count);
      const bool all = __ballot_sync(kAllLanes, mine) == kAllLanes;
#pragma unroll
      for (int n = 0; n < R / 8; ++n) {
        const int r = 8 * n + lane % 4 * 2;  // and the next
        const float2 lse = *reinterpret_cast<const float2*>(row.lse + r);
        const float2 mean = *reinterpret_cast<const float2*>(row.delta + r);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int bit =
              Drops ? static_cast<int>((first_element(a, here + r + i, h) + static_cast<uint64_t>(first)) % 8)
                    : 0;
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const int c = 16 * warp + lane / 4 + 8 * half, at = bit + c;
            float& x = s[n][2 * half + i];
            float& y = dp[n][2 * half + i];
            float weight = exp2_fast(fmaf(scale, x, -(i == 0 ? lse.x : lse.y)));
            if (!all && !RowKeys{row.prefix[r + i], row.begin[r + i], row.end[r + i]}.sees(first + c))
              weight = 0;
            float factor = 1;
            if (Drops) factor = mask[(r + i) * kMaskBytes<N> + at / 8] >> at % 8 & 1 ? dropout.scale : 0.0f;
            x = weight * factor;
            y = weight * (factor * y - (i == 0 ? mean.x : mean.y));
          }
        }
      }
      multiply_weights<T, DP, R>(dv, s, gradients, lane);
      multiply_weights<T, DP, R>(dk, dp, queries, lane);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int c = 16 * warp + lane / 4 + 8 * half;
      if (c >= count) continue;
      const int64_t at = kv + first + c;
      const bool add = b.accumulate != 0;
      store_fragment_row<T, DP>(static_cast<T*>(b.dk) + at * b.ld_dk + column, dk, half, a.scale, D, lane,
                                add);
      store_fragment_row<T, DP>(static_cast<T*>(b.dv) + at * b.ld_dv + column, dv, half, 1.0f, D, lane, add);
    }
  }
}

template <typename T>
void run(Context& context, const allmrec_attention_backward_args& b, float* delta) {
  const allmrec_attention_args& a = b.forward;
  by_width(a.head_dim, [&](auto width) {
    constexpr int DP = decltype(width)::value, R = kInner<DP>;
    const bool drops = a.dropout.p > 0;
    const unsigned heads = static_cast<unsigned>(a.heads);
    launch(drops ? attention_dq_mma_kernel<T, DP, true> : attention_dq_mma_kernel<T, DP, false>,
           dim3(query_slots(a, M), heads), dim3(kMmaThreads),
           (2 * M + 4 * R) * (DP + 8) * sizeof(T) + (drops ? 2 * M * kMaskBytes<R> : 0), context.stream, b,
           dropout_of(a.dropout), delta);
    const int tiles = key_tiles(a, M);
    launch(drops ? attention_dkv_mma_kernel<T, DP, true> : attention_dkv_mma_kernel<T, DP, false>,
           dim3(static_cast<unsigned>(a.num_sequences * tiles), heads), dim3(kMmaThreads),
           (2 * M + 4 * R) * (DP + 8) * sizeof(T) + 2 * sizeof(RowValues<R>) +
               (drops ? 2 * R * kMaskBytes<M> : 0),
           context.stream, b, dropout_of(a.dropout), static_cast<const float*>(delta), tiles);
  });
}

}  // namespace

void attention_backward_mma(Context& context, const allmrec_attention_backward_args& b, float* delta) {
  if (b.forward.dtype == ALLMREC_F16) run<__half>(context, b, delta);
  if (b.forward.dtype == ALLMREC_BF16) run<__nv_bfloat16>(context, b, delta);
}

}  // namespace allmrec::cuda
