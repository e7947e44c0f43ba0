// Attention over packed sequences, backward: the choice of kernels, and those for the ordinary units.
//
// With P = exp(score − lse) computed again, dP = dO · Vᵀ and D = rowsum(dO ∘ O), dS = P ∘ (dP − D). One
// kernel goes by tiles of query rows over the keys they see: D (kept for the other), dQ = dS · K, and each
// tile's part of the padding's gradient, which a small third kernel adds up. The other goes by tiles of keys
// over the query rows that see them: dK = dSᵀ · Q, dV = Pᵀ · dO, scores computed transposed so that a
// thread's row is a key. Every sum has one writer and one order: no atomics. The price is seven products
// instead of five.
//
// Bound: float32 multiply-adds, 14 · D flops a visible pair. Not yet measured on hardware.
#include "attention_simt.h"
#include "ops.h"

namespace allmrec::cuda {

namespace {

// D (T, H) goes to `delta`; the sums of ds · q and p · dO over the tile's rows for the padding to pad_sums
// (slots, H, 2, D) unless that is NULL.
template <typename T, typename Tile>
__global__ void __launch_bounds__(kSimtThreads, Tile::NJ < 4 ? 2 : 1)
    attention_dq_kernel(allmrec_attention_backward_args b, Dropout dropout, bool vectors, float* delta_out,
                        float* pad_sums) {
  constexpr int MR = Tile::MR, NR = Tile::NR, N = Tile::N;
  float* qs = static_cast<float*>(dynamic_shared());  // (M, D)
  float* gs = qs + Tile::M * Tile::S;                 // (M, D) dO
  float* ks = gs + Tile::M * Tile::S;                 // (N, D)
  float* vs = ks + N * Tile::S;                       // (N, D)
  float* ps = vs + N * Tile::S;                       // (M, N) dS
  float* pad_rows = ps + Tile::M * Tile::P;           // (2, M) the padding's ds and p
  float* row_values = pad_rows + 2 * Tile::M;         // (2, M) lse in base 2, D
  unsigned char* masks = reinterpret_cast<unsigned char*>(row_values + 2 * Tile::M);

  const allmrec_attention_args& a = b.forward;
  const int tx = static_cast<int>(threadIdx.x) % 16, ty = static_cast<int>(threadIdx.x) / 16;
  const int h = static_cast<int>(blockIdx.y), D = a.head_dim;
  const int slot = static_cast<int>(gridDim.x - 1 - blockIdx.x);
  if (pad_sums) pad_sums += (static_cast<int64_t>(slot) * a.heads + h) * 2 * D;
  const QueryTile tile = query_tile(a, slot, Tile::M);
  if (tile.rows <= 0) {
    for (int d = static_cast<int>(threadIdx.x); pad_sums && d < 2 * D; d += kSimtThreads) pad_sums[d] = 0;
    return;
  }
  const KeyRange range = key_range<Tile::M>(a, tile);
  const int64_t column = static_cast<int64_t>(h) * D, kv = a.kv_start[tile.sequence];
  const T* q = static_cast<const T*>(a.q) + tile.first * a.ldq + column;
  const T* g = static_cast<const T*>(b.d_out) + tile.first * b.ld_dout + column;
  const T* k = static_cast<const T*>(a.k) + kv * a.ldk + column;
  const T* v = static_cast<const T*>(a.v) + kv * a.ldv + column;
  const int kv_len = a.kv_len[tile.sequence];
  const PaddingKeys padding = padding_keys(a, tile.sequence, h);
  const bool drops = a.dropout.p > 0;
  const float scale = a.scale * kLog2E;

  float dq[MR][4 * Tile::NJ];
#pragma unroll
  for (int i = 0; i < MR; ++i) {
    const int r = ty * MR + i, row = lesser(r, tile.rows - 1);  // no lane may miss the sums
    const int64_t t = tile.first + row;
    const T* out = static_cast<const T*>(a.out) + t * a.ldout + column;
    float sum = 0;
    for (int c = tx; c < D; c += 16) sum = fmaf(to_float(out[c]), to_float(g[row * b.ld_dout + c]), sum);
    const float delta = row_sum(sum), lse = kLog2E * a.lse[t * a.heads + h];
    if (tx == 0) row_values[r] = lse, row_values[Tile::M + r] = delta;
    if (tx == 0 && r < tile.rows) delta_out[t * a.heads + h] = delta;
#pragma unroll
    for (int c = 0; c < 4 * Tile::NJ; ++c) dq[i][c] = 0;
    float ds = 0, p = 0;
    if (padding.count > 0) {
      const float score =
          scale * dot_row(q + row * a.ldq, padding.k, D) + log2f(static_cast<float>(padding.count));
      const float factor = drops ? padding_factor(a, dropout, t, h, padding.count) : 1.0f;
      const float weight = exp2_fast(score - lse);
      p = weight * factor;
      ds = weight * (factor * dot_row(g + row * b.ld_dout, padding.v, D) - delta);
#pragma unroll
      for (int c = 0; c < 4 * Tile::NJ; ++c) {
        const int d = 4 * tx + 64 * (c / 4) + c % 4;
        if (d < D) dq[i][c] = ds * padding.k[d];
      }
    }
    if (tx == 0) pad_rows[r] = r < tile.rows ? ds : 0.0f, pad_rows[Tile::M + r] = r < tile.rows ? p : 0.0f;
  }

  load_rows<T, Tile, Tile::M>(qs, q, a.ldq, tile.rows, D, vectors);
  load_rows<T, Tile, Tile::M>(gs, g, b.ld_dout, tile.rows, D, vectors);
  for (int j = range.next_tile<N>(-1); j < range.tiles<N>(); j = range.next_tile<N>(j)) {
    const int first = j * N, count = lesser(N, kv_len - first);
    __syncthreads();  // the tile before has been used
    load_rows<T, Tile, N>(ks, k + first * a.ldk, a.ldk, count, D, vectors);
    load_rows<T, Tile, N>(vs, v + first * a.ldv, a.ldv, count, D, vectors);
    if (drops)
      drop_masks<N>(a, dropout, tile.first, tile.rows, h, padding.count + first,
                    static_cast<int>(threadIdx.x), kSimtThreads, masks);
    __syncthreads();

    float s[MR][NR], dp[MR][NR];
    multiply_scores<Tile>(qs, ks, D, s);
    multiply_scores<Tile>(gs, vs, D, dp);
#pragma unroll
    for (int i = 0; i < MR; ++i) {
      const int r = ty * MR + i;
      const RowKeys keys = row_keys(a, tile.first + r, r < tile.rows);
      const float lse = row_values[r], delta = row_values[Tile::M + r];
      const int bit =
          drops ? static_cast<int>((first_element(a, tile.first + r, h) + padding.count + first) % 8) : 0;
#pragma unroll
      for (int n = 0; n < NR; ++n) {
        const int c = tx + 16 * n, at = bit + c;
        float ds = 0;
        if (keys.sees(first + c)) {
          const float weight = exp2_fast(scale * s[i][n] - lse);
          if (drops)
            dp[i][n] = masks[r * kMaskBytes<N> + at / 8] >> at % 8 & 1 ? dp[i][n] * dropout.scale : 0.0f;
          ds = weight * (dp[i][n] - delta);
        }
        ps[r * Tile::P + c] = ds;
      }
    }
    __syncwarp();
    multiply_weights<Tile>(ps, ks, count, D, dq);
  }
#pragma unroll
  for (int i = 0; i < MR; ++i) {
    const int r = ty * MR + i;
    if (r >= tile.rows) continue;
    T* to = static_cast<T*>(b.dq) + (tile.first + r) * b.ld_dq + column;
    store_row<T, Tile::NJ>(to, dq[i], a.scale, D, b.accumulate != 0);
  }
  if (!pad_sums) return;
  __syncthreads();  // all rows' queries, dO and padding
  for (int d = static_cast<int>(threadIdx.x); d < 2 * D; d += kSimtThreads) {
    const bool of_k = d < D;
    const float* rows = of_k ? qs + d : gs + d - D;
    float sum = 0;
    for (int r = 0; r < tile.rows; ++r) sum = fmaf(pad_rows[of_k ? r : Tile::M + r], rows[r * Tile::S], sum);
    pad_sums[d] = of_k ? a.scale * sum : sum;
  }
}

template <typename T, typename Tile>
__global__ void __launch_bounds__(kSimtThreads, 2)
    attention_dkv_kernel(allmrec_attention_backward_args b, Dropout dropout, bool vectors, const float* delta,
                         int tiles) {
  constexpr int MR = Tile::MR, NR = Tile::NR, M = Tile::M, N = Tile::N;
  float* ks = static_cast<float*>(dynamic_shared());  // (M, D)
  float* vs = ks + M * Tile::S;                       // (M, D)
  float* qs = vs + M * Tile::S;                       // (N, D)
  float* gs = qs + N * Tile::S;                       // (N, D) dO
  float* ps = gs + N * Tile::S;                       // (M, N) Pᵀ, then dSᵀ
  unsigned char* masks = reinterpret_cast<unsigned char*>(ps + M * Tile::P);

  const allmrec_attention_args& a = b.forward;
  const int tx = static_cast<int>(threadIdx.x) % 16, ty = static_cast<int>(threadIdx.x) / 16;
  const int h = static_cast<int>(blockIdx.y), D = a.head_dim;
  const int sequence = static_cast<int>(blockIdx.x) / tiles;
  const int t0 = a.q_offsets[sequence], t1 = a.q_offsets[sequence + 1];
  const int64_t column = static_cast<int64_t>(h) * D, kv = a.kv_start[sequence];
  const T* q = static_cast<const T*>(a.q) + column;
  const T* g = static_cast<const T*>(b.d_out) + column;
  const T* k = static_cast<const T*>(a.k) + kv * a.ldk + column;
  const T* v = static_cast<const T*>(a.v) + kv * a.ldv + column;
  const int kv_len = a.kv_len[sequence], padding = a.pad_k ? a.pad_count[sequence] : 0;
  const bool drops = a.dropout.p > 0;
  const float scale = a.scale * kLog2E;

  // More than one turn only when the longest sequence was not known.
  for (int first = static_cast<int>(blockIdx.x) % tiles * M; first < kv_len; first += tiles * M) {
    const int count = lesser(M, kv_len - first);
    int t = next_row(a, t0, t1, first, first + count);
    __syncthreads();  // the keys before have been used
    load_rows<T, Tile, M>(ks, k + first * a.ldk, a.ldk, count, D, vectors);
    load_rows<T, Tile, M>(vs, v + first * a.ldv, a.ldv, count, D, vectors);
    float dk[MR][4 * Tile::NJ], dv[MR][4 * Tile::NJ];
#pragma unroll
    for (int i = 0; i < MR; ++i) {
#pragma unroll
      for (int c = 0; c < 4 * Tile::NJ; ++c) dk[i][c] = dv[i][c] = 0;
    }
    for (; t < t1; t = next_row(a, t + N, t1, first, first + count)) {
      const int rows = lesser(N, t1 - t);
      __syncthreads();  // the rows before have been used
      load_rows<T, Tile, N>(qs, q + t * a.ldq, a.ldq, rows, D, vectors);
      load_rows<T, Tile, N>(gs, g + t * b.ld_dout, b.ld_dout, rows, D, vectors);
      if (drops)
        drop_masks<M>(a, dropout, t, rows, h, padding + first, static_cast<int>(threadIdx.x), kSimtThreads,
                      masks);
      __syncthreads();

      float s[MR][NR], dp[MR][NR];
      multiply_scores<Tile>(ks, qs, D, s);
      multiply_scores<Tile>(vs, gs, D, dp);
#pragma unroll
      for (int n = 0; n < NR; ++n) {
        const int c = tx + 16 * n;
        const bool valid = c < rows;
        const RowKeys keys = row_keys(a, t + c, valid);
        const float lse = valid ? kLog2E * a.lse[static_cast<int64_t>(t + c) * a.heads + h] : 0.0f;
        const float mean = valid ? delta[static_cast<int64_t>(t + c) * a.heads + h] : 0.0f;
        const int bit = drops ? static_cast<int>((first_element(a, t + c, h) + padding + first) % 8) : 0;
#pragma unroll
        for (int i = 0; i < MR; ++i) {
          const int j = ty * MR + i, at = bit + j;
          float weight = 0, ds = 0;
          if (keys.sees(first + j)) {
            weight = exp2_fast(scale * s[i][n] - lse);
            float factor = 1;
            if (drops) factor = masks[c * kMaskBytes<M> + at / 8] >> at % 8 & 1 ? dropout.scale : 0.0f;
            ds = weight * (factor * dp[i][n] - mean);
            weight *= factor;
          }
          ps[j * Tile::P + c] = weight;
          s[i][n] = ds;
        }
      }
      __syncwarp();
      multiply_weights<Tile>(ps, gs, rows, D, dv);
      __syncwarp();  // the weights have been used
#pragma unroll
      for (int i = 0; i < MR; ++i) {
#pragma unroll
        for (int n = 0; n < NR; ++n) ps[(ty * MR + i) * Tile::P + tx + 16 * n] = s[i][n];
      }
      __syncwarp();
      multiply_weights<Tile>(ps, qs, rows, D, dk);
    }
#pragma unroll
    for (int i = 0; i < MR; ++i) {
      const int j = ty * MR + i;
      if (j >= count) continue;
      const int64_t row = kv + first + j;
      store_row<T, Tile::NJ>(static_cast<T*>(b.dk) + row * b.ld_dk + column, dk[i], a.scale, D,
                             b.accumulate != 0);
      store_row<T, Tile::NJ>(static_cast<T*>(b.dv) + row * b.ld_dv + column, dv[i], 1.0f, D,
                             b.accumulate != 0);
    }
  }
}

// d_pad_k and d_pad_v (H, D) += sums (slots, H, 2, D) over the slots: 32 columns a block, 32 threads a
// column.
__global__ void __launch_bounds__(1024)
    attention_pad_kernel(const float* sums, int slots, int heads, int D, float* d_pad_k, float* d_pad_v) {
  __shared__ float parts[32][33];
  const int x = static_cast<int>(threadIdx.x), y = static_cast<int>(threadIdx.y);
  const int h = static_cast<int>(blockIdx.y), of_v = static_cast<int>(blockIdx.z);
  const int d = static_cast<int>(blockIdx.x) * 32 + x;
  float* to = of_v ? d_pad_v : d_pad_k;
  if (!to) return;
  float sum = 0;
  for (int slot = y; slot < slots && d < D; slot += 32)
    sum += sums[((static_cast<int64_t>(slot) * heads + h) * 2 + of_v) * D + d];
  parts[y][x] = sum;
  __syncthreads();
  if (y > 0 || d >= D) return;
  for (int i = 1; i < 32; ++i) sum += parts[i][x];
  to[h * D + d] += sum;
}

template <typename T, typename Tile>
void run_simt(Context& context, const allmrec_attention_backward_args& b, float* delta, unsigned slots,
              float* pad_sums) {
  const allmrec_attention_args& a = b.forward;
  const bool vectors = vectors_of<T>(a.q, a.ldq, a.head_dim) && vectors_of<T>(a.k, a.ldk, a.head_dim) &&
                       vectors_of<T>(a.v, a.ldv, a.head_dim) && vectors_of<T>(b.d_out, b.ld_dout, a.head_dim);
  const unsigned heads = static_cast<unsigned>(a.heads);
  const size_t floats = 2 * (Tile::M + Tile::N) * Tile::S + Tile::M * Tile::P;
  launch(attention_dq_kernel<T, Tile>, dim3(slots, heads), dim3(kSimtThreads),
         (floats + 4 * Tile::M) * sizeof(float) + Tile::M * kMaskBytes<Tile::N>, context.stream, b,
         dropout_of(a.dropout), vectors, delta, pad_sums);
  const int tiles = key_tiles(a, Tile::M);
  launch(attention_dkv_kernel<T, Tile>, dim3(static_cast<unsigned>(a.num_sequences * tiles), heads),
         dim3(kSimtThreads), floats * sizeof(float) + Tile::N * kMaskBytes<Tile::M>, context.stream, b,
         dropout_of(a.dropout), vectors, static_cast<const float*>(delta), tiles);
}

}  // namespace

void attention_backward(Context& context, const allmrec_attention_backward_args& b) {
  const allmrec_attention_args& a = b.forward;
  if (a.tokens == 0 || a.num_sequences == 0 || a.heads == 0 || a.head_dim == 0) return;
  if (a.head_dim > kMaxHeadDim) unsupported("attention with a head_dim above 256");
  Scratch delta(context, static_cast<size_t>(a.tokens * a.heads) * sizeof(float));
  if (attention_takes_mma(b)) return attention_backward_mma(context, b, delta.as<float>());
  by_storage(a.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int rows = a.head_dim <= 64 ? 64 : a.head_dim <= 128 ? 32 : 16;
    const unsigned slots = query_slots(a, rows);
    const bool sums = a.pad_k && (b.d_pad_k || b.d_pad_v);
    Scratch pads(context, sums ? size_t{slots} * a.heads * 2 * a.head_dim * sizeof(float) : 0);
    float* pad_sums = sums ? pads.as<float>() : nullptr;
    // Shared memory of a block stays below 99 KB, what the smallest of the cards we build for allows.
    if (rows == 64) run_simt<T, SimtTile<1, 4, 4>>(context, b, delta.as<float>(), slots, pad_sums);
    if (rows == 32) run_simt<T, SimtTile<2, 2, 2>>(context, b, delta.as<float>(), slots, pad_sums);
    if (rows == 16) run_simt<T, SimtTile<4, 1, 1>>(context, b, delta.as<float>(), slots, pad_sums);
    if (!sums) return;
    const int D = a.head_dim;
    launch(attention_pad_kernel,
           dim3(static_cast<unsigned>(divide_up(D, 32)), static_cast<unsigned>(a.heads), 2), dim3(32, 32), 0,
           context.stream, static_cast<const float*>(pad_sums), static_cast<int>(slots), a.heads, D,
           b.d_pad_k, b.d_pad_v);
  });
}

}  // namespace allmrec::cuda
