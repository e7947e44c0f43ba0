// Attention over packed sequences, forward, on the matrix units (FlashAttention-2's scheme).
//
// A block takes one head of 64 query rows, a warp 16 of them, and goes over the tiles of 64 keys that any row
// sees; running maximum and sum a row, exponents in base 2. Queries stay in registers as fragments. Keys and
// values have one buffer each: while scores are computed the values arrive, while the values are used the
// next keys do. The queries come in through the values' buffer. Weights go from one product to the next in
// registers, rounded to the storage type; their sum is taken before. Masks are computed only for tiles that
// some row sees in part.
//
// Bound: the matrix units, 4 · D flops a visible pair. Shared memory feeds a warp's 16 rows at about the rate
// at which mma.sync takes operands, which is some 60 % of what the units can do with wgmma. Expected on an
// H200: 250 TFLOP/s for sequences of several thousand, 150 at 700 tokens of 32 heads, where 352 blocks are
// one and a third waves. Not yet measured on hardware.
#include "attention_mma.h"

namespace allmrec::cuda {

namespace {

constexpr int M = 64, N = 64;

template <typename T, int DP, bool Drops>
__global__ void __launch_bounds__(kMmaThreads)
    attention_mma_kernel(allmrec_attention_args a, Dropout dropout) {
  T* ks = static_cast<T*>(dynamic_shared());  // (N, DP)
  T* vs = ks + N * (DP + 8);                  // (N, DP), the queries at first
  unsigned char* masks = reinterpret_cast<unsigned char*>(vs + N * (DP + 8));

  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int h = static_cast<int>(blockIdx.y), D = a.head_dim;
  // The last tiles of a causal sequence are the longest: they go first.
  const QueryTile tile = query_tile(a, static_cast<int>(gridDim.x - 1 - blockIdx.x), M);
  if (tile.rows <= 0) return;
  const int64_t column = static_cast<int64_t>(h) * D, kv = a.kv_start[tile.sequence];
  const T* q = static_cast<const T*>(a.q) + (tile.first + 16 * warp) * a.ldq + column;
  const T* k = static_cast<const T*>(a.k) + kv * a.ldk + column;
  const T* v = static_cast<const T*>(a.v) + kv * a.ldv + column;
  const int kv_len = a.kv_len[tile.sequence];
  const float scale = a.scale * kLog2E;

  T* own = vs + 16 * warp * (DP + 8);
  copy_rows<T, DP, 16, kWarp>(own, q, a.ldq, tile.rows - 16 * warp, D, lane);
  cp_async_commit();
  const KeyRange range = key_range<M>(a, tile);
  const int tiles = range.tiles<N>();
  int j = range.next_tile<N>(-1);
  if (j < tiles)
    copy_rows<T, DP, N, kMmaThreads>(ks, k + j * N * a.ldk, a.ldk, kv_len - j * N, D,
                                     static_cast<int>(threadIdx.x));
  cp_async_commit();
  cp_async_wait<1>();
  __syncwarp();  // a warp's queries are its own
  uint32_t query[DP / 16][4];
#pragma unroll
  for (int d = 0; d < DP / 16; ++d) load_a<DP>(query[d], own + 16 * d, lane);

  // Rows lane / 4 and lane / 4 + 8 of the warp's 16.
  const int rows[2] = {16 * warp + lane / 4, 16 * warp + lane / 4 + 8};
  float o[DP / 8][4], top[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};  // total: of this lane's columns
#pragma unroll
  for (int n = 0; n < DP / 8; ++n) o[n][0] = o[n][1] = o[n][2] = o[n][3] = 0;

  while (j < tiles) {
    const int first = j * N;
    cp_async_wait<0>();
    __syncthreads();  // the keys are here; nobody uses the values' buffer any more
    copy_rows<T, DP, N, kMmaThreads>(vs, v + first * a.ldv, a.ldv, kv_len - first, D,
                                     static_cast<int>(threadIdx.x));
    cp_async_commit();
    if (Drops)
      drop_masks<N>(a, dropout, tile.first, tile.rows, h, first, static_cast<int>(threadIdx.x), kMmaThreads,
                    masks);

    float s[N / 8][4];
#pragma unroll
    for (int n = 0; n < N / 8; ++n) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#pragma unroll
    for (int d = 0; d < DP / 16; ++d) {
#pragma unroll
      for (int n = 0; n < N / 16; ++n) {
        uint32_t key[4];
        load_b_transposed<DP>(key, ks + 16 * n * (DP + 8) + 16 * d, lane);
        multiply_two<T>(s[2 * n], s[2 * n + 1], query[d], key);
      }
    }

    cp_async_wait<0>();
    __syncthreads();  // the values are here; nobody uses the keys any more
    j = range.next_tile<N>(j);
    if (j < tiles)
      copy_rows<T, DP, N, kMmaThreads>(ks, k + j * N * a.ldk, a.ldk, kv_len - j * N, D,
                                       static_cast<int>(threadIdx.x));
    cp_async_commit();

    const bool all = range.all_see(first, first + N);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (!all) {
        const RowKeys keys = row_keys(a, tile.first + rows[half], rows[half] < tile.rows);
#pragma unroll
        for (int n = 0; n < N / 8; ++n) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            if (!keys.sees(first + 8 * n + lane % 4 * 2 + i)) s[n][2 * half + i] = -INFINITY;
          }
        }
      }
      float highest = -INFINITY;
#pragma unroll
      for (int n = 0; n < N / 8; ++n) highest = fmaxf(highest, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
      highest = fmaxf(top[half], scale * quad_max(highest));
      const float base = highest == -INFINITY ? 0.0f : highest;  // keeps −∞ − (−∞) out of the way
      const float fade = exp2_fast(top[half] - base);
      top[half] = highest;
      uint64_t kept = ~uint64_t{0};
      if (Drops && rows[half] < tile.rows) {
        const uint64_t element = first_element(a, tile.first + rows[half], h) + static_cast<uint64_t>(first);
        kept =
            kept_bits<N>(masks + rows[half] * kMaskBytes<N>, static_cast<int>(element % 8)) >> (lane % 4 * 2);
      }
      float sum = 0;
#pragma unroll
      for (int n = 0; n < N / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float weight = exp2_fast(fmaf(scale, s[n][2 * half + i], -base));
          sum += weight;
          s[n][2 * half + i] = !Drops || (kept >> (8 * n + i) & 1) ? weight : 0.0f;
        }
      }
      total[half] = total[half] * fade + sum;
#pragma unroll
      for (int n = 0; n < DP / 8; ++n) o[n][2 * half] *= fade, o[n][2 * half + 1] *= fade;
    }
    multiply_weights<T, DP, N>(o, s, vs, lane);
  }

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float sum = quad_sum(total[half]);
    if (rows[half] >= tile.rows) continue;
    const int64_t t = tile.first + rows[half];
    const float factor = sum > 0 ? (Drops ? dropout.scale : 1.0f) / sum : 0.0f;
    store_fragment_row<T, DP>(static_cast<T*>(a.out) + t * a.ldout + column, o, half, factor, D, lane, false);
    if (a.lse && lane % 4 == 0) a.lse[t * a.heads + h] = sum > 0 ? kLn2 * top[half] + logf(sum) : -INFINITY;
  }
}

template <typename T>
void run(Context& context, const allmrec_attention_args& a) {
  by_width(a.head_dim, [&](auto width) {
    constexpr int DP = decltype(width)::value;
    const bool drops = a.dropout.p > 0;
    const size_t shared = 2 * N * (DP + 8) * sizeof(T) + (drops ? M * kMaskBytes<N> : 0);
    launch(drops ? attention_mma_kernel<T, DP, true> : attention_mma_kernel<T, DP, false>,
           dim3(query_slots(a, M), static_cast<unsigned>(a.heads)), dim3(kMmaThreads), shared, context.stream,
           a, dropout_of(a.dropout));
  });
}

}  // namespace

void attention_mma(Context& context, const allmrec_attention_args& a) {
  if (a.dtype == ALLMREC_F16) run<__half>(context, a);
  if (a.dtype == ALLMREC_BF16) run<__nv_bfloat16>(context, a);
}

}  // namespace allmrec::cuda
