// conv, conv_backward: dilated causal convolution over padded sequences.
//
// Bound by flops (float32). One kernel, three products:
//   forward   y[token, o]     = Σ_tap Σ_i x[token − distance, i] · w[tap, o, i]
//   input     dx[token, i]    = Σ_tap Σ_o dy[token + distance, o] · w[tap, o, i]
//   weights   d_w[tap, o, i] += Σ_token dy[token, o] · x[token − distance, i]
// each as 64 × 64 tiles of an implicit matrix product: rows move by the tap's distance while they are loaded,
// and one that leaves its sequence is loaded as zeros. Tokens of all sequences follow each other, so tiles
// are full whatever the sequences' length and a dilation may be larger than a tile; the taps of a tile find x
// in the L1 and L2 cache, which a slab of 16 asks for 16 flops a byte. Slabs go through registers into two
// buffers in shared memory, one barrier each. A thread has 8 × 4 outputs. The gradient of the weights is a
// sum over all tokens: it is split over blocks to fill the card, and a second launch adds the parts in order.
// Expected 45–55 % of float32 peak; not yet measured on hardware.

#include "numeric.h"
#include "ops.h"

namespace allmrec::cuda {
namespace {

constexpr int kTile = 64, kSlab = 16, kThreads = 128;
constexpr int kRows = 8, kColumns = 4;  // of a thread
constexpr int kLd = kTile + 4;          // keeps vectors aligned, halves bank conflicts
constexpr int kQuads = kTile * kSlab / 4 / kThreads;

enum class Product { forward, input, weights };

struct Conv {
  int64_t tokens;
  int64_t steps;
  int64_t m, n;   // of the product
  int64_t depth;  // forward: c_in, input: c_out
  int64_t c_in, c_out;
  int taps;
  int64_t dilation;
  const float* rows;   // the operand whose rows move: x, dy, x
  const float* other;  // w, w, dy
  const float* bias;   // forward, or null
  float* out;
  int accumulate;
  int64_t split_tokens;  // weights: tokens of a block
};

__device__ __forceinline__ Vector<float> zero_quad() {
  return {{0.0f, 0.0f, 0.0f, 0.0f}};
}

// Values c … c + 3 of a row of `cols`, zeros behind its end.
__device__ __forceinline__ Vector<float> load_quad(const float* row, int64_t c, int64_t cols, bool vectors) {
  if (vectors) return c < cols ? load_vector(row + c) : zero_quad();
  Vector<float> v = zero_quad();
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (c + j < cols) v.value[j] = row[c + j];
  }
  return v;
}

// kSlab × kTile values of one operand in shared memory, k by k. Quad q of an operand whose rows run along k
// is row q / 4, k = 4 · (q % 4) …; of one whose rows lie across, k = q / 16, columns 4 · (q % 16) ….
__device__ __forceinline__ void store_along(float* slab, int q, const Vector<float>& v) {
#pragma unroll
  for (int j = 0; j < 4; ++j) slab[(q % 4 * 4 + j) * kLd + q / 4] = v.value[j];
}
__device__ __forceinline__ void store_across(float* slab, int q, const Vector<float>& v) {
  store_vector(slab + q / 16 * kLd + q % 16 * 4, v);
}

template <Product P>
__global__ void __launch_bounds__(kThreads, 4) conv_kernel(const Conv g, bool vectors_in, bool vectors_out) {
  __shared__ __align__(16) float slabs[2][2][kSlab * kLd];
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t n_tiles = (g.n + kTile - 1) / kTile;
  const int64_t m0 = blockIdx.x / n_tiles * kTile, n0 = blockIdx.x % n_tiles * kTile;
  const bool vectors_a = P == Product::forward ? vectors_in : vectors_out;  // widths c_in and c_out
  const bool vectors_b = vectors_in;
  // weights: blockIdx.y is the tap, blockIdx.z the part of the tokens.
  const int64_t token_begin = P == Product::weights ? blockIdx.z * g.split_tokens : 0;
  const int64_t token_end = token_begin + g.split_tokens < g.tokens ? token_begin + g.split_tokens : g.tokens;
  const int64_t depth_slabs = (g.depth + kSlab - 1) / kSlab;
  const int64_t slab_count =
      P == Product::weights ? (token_end - token_begin + kSlab - 1) / kSlab : g.taps * depth_slabs;

  // Of this thread's rows of the moving operand: the token and its place in its sequence.
  int64_t token[kQuads], place[kQuads];
#pragma unroll
  for (int u = 0; u < kQuads; ++u) {
    const int q = u * kThreads + thread;
    token[u] = P == Product::weights ? token_begin + q / 16 : m0 + q / 4;
    place[u] = token[u] % g.steps;
  }
  const int64_t advance = P == Product::weights ? kSlab % g.steps : 0;
  int tap = P == Product::weights ? static_cast<int>(blockIdx.y) : 0;
  int64_t k0 = 0;  // of the slab to be fetched next
  Vector<float> next_a[kQuads], next_b[kQuads];
  const auto fetch = [&] {
    const int64_t distance = (g.taps - 1 - tap) * g.dilation;
#pragma unroll
    for (int u = 0; u < kQuads; ++u) {
      const int q = u * kThreads + thread;
      next_a[u] = next_b[u] = zero_quad();
      if (P == Product::weights) {
        if (token[u] < token_end) {
          next_a[u] = load_quad(g.other + token[u] * g.c_out, m0 + q % 16 * 4, g.c_out, vectors_a);
          if (place[u] >= distance)
            next_b[u] =
                load_quad(g.rows + (token[u] - distance) * g.c_in, n0 + q % 16 * 4, g.c_in, vectors_b);
        }
        token[u] += kSlab;
        place[u] += advance;
        if (place[u] >= g.steps) place[u] -= g.steps;
        continue;
      }
      const int64_t from = P == Product::forward ? place[u] - distance : place[u] + distance;
      if (token[u] < g.tokens && from >= 0 && from < g.steps)
        next_a[u] =
            load_quad(g.rows + (token[u] - place[u] + from) * g.depth, k0 + q % 4 * 4, g.depth, vectors_a);
      if (P == Product::forward) {
        const int64_t column = n0 + q / 4;
        if (column < g.n)
          next_b[u] = load_quad(g.other + (tap * g.n + column) * g.depth, k0 + q % 4 * 4, g.depth, vectors_b);
      } else {
        const int64_t k = k0 + q / 16;
        if (k < g.depth)
          next_b[u] = load_quad(g.other + (tap * g.depth + k) * g.n, n0 + q % 16 * 4, g.n, vectors_b);
      }
    }
    if (P == Product::weights) return;
    k0 += kSlab;
    if (k0 >= g.depth) {
      k0 = 0;
      ++tap;
    }
  };

  const int row = thread / 16 * kRows, column = thread % 16 * kColumns;
  float sum[kRows][kColumns] = {};
  if (slab_count > 0) fetch();
  for (int64_t slab = 0; slab < slab_count; ++slab) {
    float* a_slab = slabs[slab % 2][0];
    float* b_slab = slabs[slab % 2][1];
#pragma unroll
    for (int u = 0; u < kQuads; ++u) {
      const int q = u * kThreads + thread;
      if (P == Product::weights)
        store_across(a_slab, q, next_a[u]);
      else
        store_along(a_slab, q, next_a[u]);
      if (P == Product::forward)
        store_along(b_slab, q, next_b[u]);
      else
        store_across(b_slab, q, next_b[u]);
    }
    __syncthreads();
    if (slab + 1 < slab_count) fetch();
#pragma unroll
    for (int k = 0; k < kSlab; ++k) {
      const Vector<float> low = load_vector(a_slab + k * kLd + row);
      const Vector<float> high = load_vector(a_slab + k * kLd + row + 4);
      const Vector<float> b = load_vector(b_slab + k * kLd + column);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const float a = i < 4 ? low.value[i % 4] : high.value[i % 4];
#pragma unroll
        for (int j = 0; j < kColumns; ++j) sum[i][j] += a * b.value[j];
      }
    }
  }

  float* out = g.out;
  if (P == Product::weights) out += (blockIdx.z * static_cast<int64_t>(g.taps) + blockIdx.y) * g.m * g.n;
  const bool vectors = P == Product::forward ? vectors_out : vectors_in;
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const int64_t r = m0 + row + i, c = n0 + column;
    if (r >= g.m) continue;
    float* to = out + r * g.n + c;
    if (P == Product::forward && g.bias) {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        if (c + j < g.n) sum[i][j] += g.bias[c + j];
      }
    }
    if (vectors) {
      if (c >= g.n) continue;
      Vector<float> v = g.accumulate ? load_vector(to) : zero_quad();
#pragma unroll
      for (int j = 0; j < kColumns; ++j) v.value[j] += sum[i][j];
      store_vector(to, v);
    } else {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        if (c + j < g.n) to[j] = g.accumulate ? to[j] + sum[i][j] : sum[i][j];
      }
    }
  }
}

// out[i] += Σ parts[p][i], in order.
__global__ void conv_add_parts_kernel(const float* parts, int count, int64_t n, float* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float sum = 0.0f;
#pragma unroll 4
  for (int p = 0; p < count; ++p) sum += parts[p * n + i];
  out[i] += sum;
}

Conv conv_of(const allmrec_conv_args& a) {
  Conv g = {};
  g.tokens = a.batch * a.steps, g.steps = a.steps;
  g.split_tokens = g.tokens;
  g.c_in = a.c_in, g.c_out = a.c_out, g.taps = a.taps, g.dilation = a.dilation;
  return g;
}

unsigned tiles(const Conv& g) {
  return static_cast<unsigned>(divide_up(g.m, kTile) * divide_up(g.n, kTile));
}

}  // namespace

void conv(Context& context, const allmrec_conv_args& a) {
  Conv g = conv_of(a);
  if (g.tokens == 0 || a.c_out == 0) return;
  g.m = g.tokens, g.n = a.c_out, g.depth = a.c_in;
  g.rows = a.x, g.other = a.w, g.bias = a.bias, g.out = a.y;
  const bool vectors_in = a.c_in % 4 == 0 && aligned_16(a.x) && aligned_16(a.w);
  const bool vectors_out = a.c_out % 4 == 0 && aligned_16(a.y);
  launch(conv_kernel<Product::forward>, tiles(g), kThreads, 0, context.stream, g, vectors_in, vectors_out);
}

void conv_backward(Context& context, const allmrec_conv_backward_args& args) {
  const allmrec_conv_args& a = args.forward;
  Conv g = conv_of(a);
  if (g.tokens == 0) return;
  const bool vectors_out = a.c_out % 4 == 0 && aligned_16(args.dy);
  if (args.d_bias && a.c_out > 0)
    column_sum(context, {g.tokens, a.c_out, args.dy, a.c_out, args.d_bias, 1, ALLMREC_F32});
  if (args.dx && a.c_in > 0) {
    g.m = g.tokens, g.n = a.c_in, g.depth = a.c_out;
    g.rows = args.dy, g.other = a.w, g.out = args.dx, g.accumulate = args.accumulate;
    const bool vectors_in = a.c_in % 4 == 0 && aligned_16(a.w) && aligned_16(args.dx);
    launch(conv_kernel<Product::input>, tiles(g), kThreads, 0, context.stream, g, vectors_in, vectors_out);
  }
  const int64_t weights = a.taps * a.c_out * a.c_in;
  if (!args.d_w || weights == 0) return;
  g.m = a.c_out, g.n = a.c_in;
  g.rows = a.x, g.other = args.dy;
  // Four blocks a multiprocessor, as long as each has 128 tokens to add.
  const int64_t wanted = divide_up(4 * context.sm_count, tiles(g) * int64_t{a.taps});
  const int64_t most = divide_up(g.tokens, 128);
  int64_t splits = wanted < most ? wanted : most;
  g.split_tokens = divide_up(divide_up(g.tokens, splits), kSlab) * kSlab;
  splits = divide_up(g.tokens, g.split_tokens);
  const Scratch parts(context, splits > 1 ? static_cast<size_t>(splits * weights) * sizeof(float) : 0);
  g.out = splits > 1 ? parts.as<float>() : args.d_w;
  g.accumulate = splits == 1;
  const bool vectors_in = a.c_in % 4 == 0 && aligned_16(a.x) && aligned_16(g.out);
  launch(conv_kernel<Product::weights>,
         dim3(tiles(g), static_cast<unsigned>(a.taps), static_cast<unsigned>(splits)), kThreads, 0,
         context.stream, g, vectors_in, vectors_out);
  if (splits > 1)
    launch(conv_add_parts_kernel, static_cast<unsigned>(divide_up(weights, 256)), 256, 0, context.stream,
           parts.as<float>(), static_cast<int>(splits), weights, args.d_w);
}

}  // namespace allmrec::cuda
