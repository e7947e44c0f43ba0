// Attention over packed sequences, forward: the choice of kernel, and the kernel for the ordinary units.
//
// A block takes one head of up to M query rows and goes once over the tiles of N keys that any of them sees,
// with a running maximum and sum a row (exponents in base 2), so scores never reach memory. Tiles nobody sees
// are skipped: causal attention costs its triangle, a candidate the prompt and itself. Virtual padding is the
// softmax's starting value: score, weight one, its value row. A sequence of up to 64 rows and keys (SASRec)
// is one block with all operands in shared memory.
//
// Bound: float32 multiply-adds, 4 · D flops a visible pair. Eight 16-byte shared loads feed 64 of them.
// Not yet measured on hardware.
#include "attention_simt.h"
#include "ops.h"

namespace allmrec::cuda {

namespace {

template <typename T, typename Tile>
__global__ void __launch_bounds__(kSimtThreads, Tile::NJ < 4 ? 2 : 1)
    attention_simt_kernel(allmrec_attention_args a, Dropout dropout, bool vectors) {
  constexpr int MR = Tile::MR, NR = Tile::NR, N = Tile::N;
  float* qs = static_cast<float*>(dynamic_shared());  // (M, D)
  float* ks = qs + Tile::M * Tile::S;                 // (N, D)
  float* vs = ks + N * Tile::S;                       // (N, D)
  float* ps = vs + N * Tile::S;                       // (M, N) weights
  unsigned char* masks = reinterpret_cast<unsigned char*>(ps + Tile::M * Tile::P);

  const int tx = static_cast<int>(threadIdx.x) % 16, ty = static_cast<int>(threadIdx.x) / 16;
  const int h = static_cast<int>(blockIdx.y), D = a.head_dim;
  // The last tiles of a causal sequence are the longest: they go first.
  const QueryTile tile = query_tile(a, static_cast<int>(gridDim.x - 1 - blockIdx.x), Tile::M);
  if (tile.rows <= 0) return;
  const KeyRange range = key_range<Tile::M>(a, tile);
  const int64_t column = static_cast<int64_t>(h) * D, kv = a.kv_start[tile.sequence];
  const T* q = static_cast<const T*>(a.q) + tile.first * a.ldq + column;
  const T* k = static_cast<const T*>(a.k) + kv * a.ldk + column;
  const T* v = static_cast<const T*>(a.v) + kv * a.ldv + column;
  const int kv_len = a.kv_len[tile.sequence];
  const PaddingKeys padding = padding_keys(a, tile.sequence, h);
  const bool drops = a.dropout.p > 0;
  const float scale = a.scale * kLog2E;

  float o[MR][4 * Tile::NJ], top[MR], total[MR];  // total: of this lane's columns
#pragma unroll
  for (int i = 0; i < MR; ++i) {
    const int r = ty * MR + i;
    top[i] = -INFINITY, total[i] = 0;
#pragma unroll
    for (int c = 0; c < 4 * Tile::NJ; ++c) o[i][c] = 0;
    if (padding.count == 0) continue;
    const int row = lesser(r, tile.rows - 1);  // no lane may miss the sums
    top[i] = scale * dot_row(q + row * a.ldq, padding.k, D) + log2f(static_cast<float>(padding.count));
    total[i] = tx == 0 ? 1.0f : 0.0f;
    const float factor = drops ? padding_factor(a, dropout, tile.first + row, h, padding.count) : 1.0f;
#pragma unroll
    for (int c = 0; c < 4 * Tile::NJ; ++c) {
      const int d = 4 * tx + 64 * (c / 4) + c % 4;
      if (d < D) o[i][c] = factor * padding.v[d];
    }
  }

  load_rows<T, Tile, Tile::M>(qs, q, a.ldq, tile.rows, D, vectors);
  for (int j = range.next_tile<N>(-1); j < range.tiles<N>(); j = range.next_tile<N>(j)) {
    const int first = j * N, count = lesser(N, kv_len - first);
    __syncthreads();  // the tile before has been used
    load_rows<T, Tile, N>(ks, k + first * a.ldk, a.ldk, count, D, vectors);
    load_rows<T, Tile, N>(vs, v + first * a.ldv, a.ldv, count, D, vectors);
    if (drops)
      drop_masks<N>(a, dropout, tile.first, tile.rows, h, padding.count + first,
                    static_cast<int>(threadIdx.x), kSimtThreads, masks);
    __syncthreads();

    float s[MR][NR];
    multiply_scores<Tile>(qs, ks, D, s);
#pragma unroll
    for (int i = 0; i < MR; ++i) {
      const int r = ty * MR + i;
      const RowKeys keys =
          row_keys(a, tile.first + r, r < tile.rows);  // from the cache: registers are scarce
      float highest = -INFINITY;
#pragma unroll
      for (int n = 0; n < NR; ++n) {
        s[i][n] = keys.sees(first + tx + 16 * n) ? scale * s[i][n] : -INFINITY;
        highest = fmaxf(highest, s[i][n]);
      }
      highest = fmaxf(top[i], row_max(highest));
      const float base = highest == -INFINITY ? 0.0f : highest;  // keeps −∞ − (−∞) out of the way
      const float fade = exp2_fast(top[i] - base);
      top[i] = highest;
      total[i] *= fade;
      const int bit =
          drops ? static_cast<int>((first_element(a, tile.first + r, h) + padding.count + first) % 8) : 0;
#pragma unroll
      for (int n = 0; n < NR; ++n) {
        const int c = tx + 16 * n;
        float weight = exp2_fast(s[i][n] - base);
        total[i] += weight;
        if (drops && r < tile.rows) {
          const int at = bit + c;
          weight = masks[r * kMaskBytes<N> + at / 8] >> at % 8 & 1 ? weight * dropout.scale : 0.0f;
        }
        ps[r * Tile::P + c] = weight;
      }
#pragma unroll
      for (int c = 0; c < 4 * Tile::NJ; ++c) o[i][c] *= fade;
    }
    __syncwarp();  // a row's weights come from the lanes of its warp
    multiply_weights<Tile>(ps, vs, count, D, o);
  }

#pragma unroll
  for (int i = 0; i < MR; ++i) {
    const int r = ty * MR + i;
    const float sum = row_sum(total[i]);
    if (r >= tile.rows) continue;
    const int64_t t = tile.first + r;
    T* out = static_cast<T*>(a.out) + t * a.ldout + column;
    store_row<T, Tile::NJ>(out, o[i], sum > 0 ? 1.0f / sum : 0.0f, D, false);
    if (a.lse && tx == 0) a.lse[t * a.heads + h] = sum > 0 ? kLn2 * top[i] + logf(sum) : -INFINITY;
  }
}

template <typename T, typename Tile>
void run_simt(Context& context, const allmrec_attention_args& a) {
  const size_t floats = (Tile::M + 2 * Tile::N) * Tile::S + Tile::M * Tile::P;
  const size_t shared = floats * sizeof(float) + Tile::M * kMaskBytes<Tile::N>;
  const bool vectors = vectors_of<T>(a.q, a.ldq, a.head_dim) && vectors_of<T>(a.k, a.ldk, a.head_dim) &&
                       vectors_of<T>(a.v, a.ldv, a.head_dim);
  launch(attention_simt_kernel<T, Tile>, dim3(query_slots(a, Tile::M), static_cast<unsigned>(a.heads)),
         dim3(kSimtThreads), shared, context.stream, a, dropout_of(a.dropout), vectors);
}

}  // namespace

void attention(Context& context, const allmrec_attention_args& a) {
  if (a.tokens == 0 || a.num_sequences == 0 || a.heads == 0 || a.head_dim == 0) return;
  if (a.head_dim > kMaxHeadDim) unsupported("attention with a head_dim above 256");
  if (a.kv_dtype != ALLMREC_F32 && a.kv_dtype != a.dtype)
    unsupported("attention of float32 queries with keys and values of a half type");
  if (attention_is_decode(a)) return attention_decode(context, a);
  if (attention_takes_mma(a)) return attention_mma(context, a);
  // Shared memory of a block stays below 99 KB, what the smallest of the cards we build for allows.
  by_storage(a.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (a.head_dim <= 64) return run_simt<T, SimtTile<1, 4, 4>>(context, a);
    if (a.head_dim <= 128) return run_simt<T, SimtTile<2, 4, 2>>(context, a);
    run_simt<T, SimtTile<4, 2, 1>>(context, a);
  });
}

}  // namespace allmrec::cuda
