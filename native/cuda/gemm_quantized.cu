// The matrix product with weights of 8 or 4 bits, for more rows than the matvec takes.
//
// Up to 128 rows it is bound by the weights' bytes (1 or 9/16 a weight): one kernel turns tiles of weights
// into halves on their way into shared memory and multiplies halves. Above, a product of halves is bound by
// arithmetic and a weight's size does not matter: the layer is written out in halves once (5 bytes a weight
// to and fro, 80 µs for 4096 × 16384) and the ordinary product follows. So it is for trans_b = 0, for float32
// activations and for row lengths that 16-byte loads cannot take.
//
// - Tiles of 32, 64 or 128 rows × 64 columns, depth 32, which is one group of I4. 32 rows, since with 64 the
//   matrix units, not memory, would bound the 4-bit product.
// - Raw quants and A come by cp.async in four stages. A warp converts what its own lanes copied, so that
// needs
//   no barrier; the halves go to a double-buffered tile; one barrier a step.
// - I8: the quants are exact in halves, and the row's scale multiplies the float32 sum. I4: q · scale is
// rounded
//   to A's dtype, as a float32 weight would be; the scales are loaded three steps ahead into registers.
// - Bytes become floats by placing them into the mantissa of 2^23, since conversions run at an eighth of the
//   arithmetic rate.
// - k is split where 64 columns a block would leave multiprocessors idle.
//
// Not yet measured on hardware.

#include "dequantize.h"
#include "gemm_mma.h"

namespace allmrec::cuda {

namespace {

constexpr int kMostRows = 128;
constexpr int kCols = 64;
constexpr int kThreads = 128;
constexpr int kStages = 4;

const GemmTile kTiles[] = {{32, kCols, kMmaDepth, 6, 2, 1, 2.5, 0.25},
                           {64, kCols, kMmaDepth, 5, 2, 1, 3.0, 0.25},
                           {128, kCols, kMmaDepth, 4, 2, 1, 3.3, 0.3}};

// ---- Raw tiles: the 32 weights of each of 64 columns
// --------------------------------------------------------

// Bytes 0 … 3 of a word as floats 2^23 + byte.
__device__ __forceinline__ float above_2_23(uint32_t word, int byte) {
  return __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7650u + byte));
}

// Four bytes of 0 … 255 to (byte − zero) · scale, as two pairs.
template <typename T>
__device__ __forceinline__ void to_pairs(uint32_t word, float zero, float scale, uint32_t* out) {
  const float shift = 8388608.0f + zero;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    out[i] =
        pack2<T>((above_2_23(word, 2 * i) - shift) * scale, (above_2_23(word, 2 * i + 1) - shift) * scale);
  }
}

template <typename Rows>
struct RawTile;

template <>
struct RawTile<Int8Rows> {
  static constexpr int kBytes = kCols * kMmaDepth;
  static constexpr bool kShared = false;  // between lanes

  // A thread copies and converts half a column's 32 bytes.
  static __device__ __forceinline__ void load(unsigned char* raw, const Int8Rows& b, int64_t n0, int64_t n,
                                              int64_t k, int64_t k_end) {
    const int thread = static_cast<int>(threadIdx.x);
    const int64_t col = n0 + thread / 2, from = k + thread % 2 * 16;
    const bool inside = col < n && from < k_end;
    cp_async_16(raw + thread * 16, inside ? b.quants + col * b.ld + from : b.quants, inside);
  }
  static __device__ __forceinline__ float scale(const Int8Rows&, int64_t, int64_t, int64_t, int64_t) {
    return 1.0f;
  }
  template <typename T>
  static __device__ __forceinline__ void convert(const unsigned char* raw, float scale, T* tile) {
    const int thread = static_cast<int>(threadIdx.x);
    const uint4 words = *reinterpret_cast<const uint4*>(raw + thread * 16);
    const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int chunk = 0; chunk < 2; ++chunk) {
      uint32_t pairs[4];
      to_pairs<T>(word[chunk * 2] ^ 0x80808080u, 128.0f, scale, pairs);
      to_pairs<T>(word[chunk * 2 + 1] ^ 0x80808080u, 128.0f, scale, pairs + 2);
      *reinterpret_cast<uint4*>(tile +
                                MmaTile<T, kCols, true>::chunk_at(thread / 2, thread % 2 * 2 + chunk)) =
          make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
    }
  }
  static __device__ __forceinline__ const float* column_scales(const Int8Rows& b) {
    return b.scales;
  }
};

template <>
struct RawTile<Int4Rows> {
  static constexpr int kBytes = kCols * kMmaDepth / 2;
  static constexpr bool kShared = true;

  // Sixteen lanes copy the warp's sixteen columns, a group each; all lanes convert half a group.
  static __device__ __forceinline__ void load(unsigned char* raw, const Int4Rows& b, int64_t n0, int64_t n,
                                              int64_t k, int64_t k_end) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    if (lane >= kWarp / 2) return;
    const int col = static_cast<int>(threadIdx.x) / 2 - lane / 2 + lane;
    const bool inside = n0 + col < n && k < k_end;
    cp_async_16(raw + col * 16, inside ? b.quants + ((n0 + col) * (b.ld / 32) + k / 32) * 16 : b.quants,
                inside);
  }
  static __device__ __forceinline__ float scale(const Int4Rows& b, int64_t n0, int64_t n, int64_t k,
                                                int64_t k_end) {
    const int64_t col = n0 + static_cast<int>(threadIdx.x) / 2;
    return col < n && k < k_end ? to_float(b.scales[col * (b.ld / 32) + k / 32]) : 0.0f;
  }
  template <typename T>
  static __device__ __forceinline__ void convert(const unsigned char* raw, float scale, T* tile) {
    const int thread = static_cast<int>(threadIdx.x);
    const uint2 words = *reinterpret_cast<const uint2*>(raw + thread * 8);
    uint32_t low[4], high[4];
    to_pairs<T>(low_nibbles(words.x), 8.0f, scale, low);
    to_pairs<T>(low_nibbles(words.y), 8.0f, scale, low + 2);
    to_pairs<T>(high_nibbles(words.x), 8.0f, scale, high);
    to_pairs<T>(high_nibbles(words.y), 8.0f, scale, high + 2);
    using Tile = MmaTile<T, kCols, true>;
    *reinterpret_cast<uint4*>(tile + Tile::chunk_at(thread / 2, thread % 2)) =
        make_uint4(low[0], low[1], low[2], low[3]);
    *reinterpret_cast<uint4*>(tile + Tile::chunk_at(thread / 2, 2 + thread % 2)) =
        make_uint4(high[0], high[1], high[2], high[3]);
  }
  static __device__ __forceinline__ const float* column_scales(const Int4Rows&) { return nullptr; }
};

// ---- The product
// --------------------------------------------------------------------------------------------

template <typename T, typename Quants, int Rows>
constexpr size_t kSharedBytes =
    kStages * (Rows * kMmaDepth * sizeof(T) + RawTile<Quants>::kBytes) + 2 * kCols * kMmaDepth * sizeof(T);

template <typename T, typename Quants, int Rows>
__global__ void __launch_bounds__(kThreads)
    gemm_quantized_kernel(GemmOperands<T, T> p, Quants b, GemmEpilogue e) {
  using TileA = MmaTile<T, Rows, true>;
  using TileB = MmaTile<T, kCols, true>;
  using Raw = RawTile<Quants>;
  constexpr int kDown = Rows == 32 ? 1 : 2, kAcross = 4 / kDown;  // warps
  constexpr int kWarpRows = Rows / kDown, kWarpCols = kCols / kAcross;
  T* tiles_a = static_cast<T*>(dynamic_shared());
  T* tiles_b = tiles_a + kStages * TileA::kElements;
  unsigned char* raw = reinterpret_cast<unsigned char*>(tiles_b + 2 * TileB::kElements);
  int tile_m, tile_n;
  tile_at(static_cast<int>(blockIdx.x), p.tiles_m, p.tiles_n, tile_m, tile_n);
  const int64_t m0 = int64_t{tile_m} * Rows, n0 = int64_t{tile_n} * kCols;
  const int64_t k_begin = int64_t{blockIdx.y} * p.k_part, k_end = min(p.k, k_begin + p.k_part);
  const int steps = static_cast<int>((max(k_end - k_begin, int64_t{0}) + kMmaDepth - 1) / kMmaDepth);
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int row0 = warp % kDown * kWarpRows, col0 = warp / kDown * kWarpCols;

  MmaLoader<T, Rows, true, kThreads> loader_a(p.a, p.lda, m0, e.m, k_begin, k_end);
  float scales[kStages];
  const auto load = [&](int step, int stage) {
    if (step < steps) {
      const int64_t k = k_begin + int64_t{step} * kMmaDepth;
      loader_a.load(tiles_a + stage * TileA::kElements, p.a);
      Raw::load(raw + stage * Raw::kBytes, b, n0, e.n, k, k_end);
      scales[stage] = Raw::scale(b, n0, e.n, k, k_end);
    }
    cp_async_commit();  // even when empty: the waits count groups
  };
#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) load(s, s);

  float sum[kWarpRows / 16][kWarpCols / 8][4] = {};
  for (int first = 0; first < steps; first += kStages) {
#pragma unroll
    for (int stage = 0; stage < kStages; ++stage) {
      const int step = first + stage;
      if (step >= steps) break;
      T* tile_b = tiles_b + stage % 2 * TileB::kElements;
      cp_async_wait<kStages - 2>();
      if (Raw::kShared) __syncwarp();
      Raw::template convert<T>(raw + stage * Raw::kBytes, scales[stage], tile_b);
      __syncthreads();
      load(step + kStages - 1, (stage + kStages - 1) % kStages);
      multiply_tiles<T, TileA, TileB>(sum, tiles_a + stage * TileA::kElements, tile_b, row0, col0, lane);
    }
  }
  static_assert(kStoreBytes<4, kWarpCols> <= kSharedBytes<T, Quants, Rows>, "the sums' way out fits");
  __syncthreads();
  float* staging = static_cast<float*>(dynamic_shared()) + warp * 16 * (kWarpCols + 8);
  store_fragments<T>(e, sum, m0 + row0, n0 + col0, lane, staging, Raw::column_scales(b));
}

template <typename T, int Rows>
void run(Context& context, const allmrec_gemm_args& g, const GemmTile& tile) {
  const GemmPlan plan = plan_gemm(&tile, 1, g.m, g.n, g.k, context.sm_count);
  GemmLaunch parts(context, g, plan);
  by_quantized(g.b_dtype, g.b, g.b_scales, g.ldb, [&](auto rows) {
    using Quants = decltype(rows);
    launch(gemm_quantized_kernel<T, Quants, Rows>, parts.grid(), dim3(kThreads),
           kSharedBytes<T, Quants, Rows>, context.stream, operands_of<T, T>(g, plan), rows, parts.kernel);
  });
  parts.finish();
}

template <typename T>
void run_half(Context& context, const allmrec_gemm_args& g) {
  if (g.m <= 32) return run<T, 32>(context, g, kTiles[0]);
  if (g.m <= 64) return run<T, 64>(context, g, kTiles[1]);
  run<T, 128>(context, g, kTiles[2]);
}

bool fits_tiles(const allmrec_gemm_args& g) {
  if (g.m > kMostRows || g.trans_a || !g.trans_b || g.a_dtype == ALLMREC_F32) return false;
  if (!aligned_16(g.a) || g.lda % 8 != 0 || g.k % 8 != 0 || !aligned_16(g.b)) return false;
  return g.b_dtype == ALLMREC_I4 || (g.ldb % 16 == 0 && g.k % 16 == 0);
}

// ---- Writing a matrix out in another dtype
// ------------------------------------------------------------------

// float32 with the members of Int8Rows.
struct FloatRows {
  const float* x;
  int64_t ld;
  bool vectors() const { return aligned_16(x) && ld % 4 == 0; }
  __device__ __forceinline__ float at(int64_t row, int64_t col) const { return x[row * ld + col]; }
  __device__ __forceinline__ void load8(int64_t row, int64_t col, float (&out)[8]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Vector<float> v = load_vector(x + row * ld + col + half * 4);
#pragma unroll
      for (int i = 0; i < 4; ++i) out[half * 4 + i] = v.value[i];
    }
  }
};

constexpr int kConvertThreads = 256;

// Eight columns a thread.
template <typename Rows, typename T>
__global__ void __launch_bounds__(kConvertThreads)
    gemm_convert_kernel(Rows x, int64_t rows, int64_t cols, bool vectors, T* out, int64_t ld_out) {
  const int64_t groups = (cols + 7) / 8;
  const int64_t group = int64_t{blockIdx.x} * kConvertThreads + threadIdx.x;
  if (group >= rows * groups) return;
  const int64_t row = group / groups, col = group % groups * 8;
  T* to = out + row * ld_out + col;
  if (!vectors || col + 8 > cols) {
    for (int64_t i = 0; i < 8 && col + i < cols; ++i) to[i] = from_float<T>(x.at(row, col + i));
    return;
  }
  float values[8];
  x.load8(row, col, values);
  constexpr int kWidth = Vector<T>::size;
#pragma unroll
  for (int i = 0; i < 8; i += kWidth) {
    Vector<T> v;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) v.value[j] = from_float<T>(values[i + j]);
    store_vector(to + i, v);
  }
}

}  // namespace

void gemm_convert(Context& context, const void* x, int32_t x_dtype, const void* scales, int64_t rows,
                  int64_t cols, int64_t ld, void* out, int32_t dtype, int64_t ld_out) {
  const dim3 grid(static_cast<unsigned>(divide_up(rows * divide_up(cols, 8), kConvertThreads)));
  const bool aligned = aligned_16(out) && ld_out % 8 == 0;
  const auto convert = [&](auto from) {
    by_storage(dtype, [&](auto zero) {
      using T = decltype(zero);
      launch(gemm_convert_kernel<decltype(from), T>, grid, dim3(kConvertThreads), 0, context.stream, from,
             rows, cols, aligned && from.vectors(), static_cast<T*>(out), ld_out);
    });
  };
  if (x_dtype == ALLMREC_F32) return convert(FloatRows{static_cast<const float*>(x), ld});
  by_quantized(x_dtype, x, scales, ld, convert);
}

void gemm_quantized(Context& context, const allmrec_gemm_args& g) {
  if (fits_tiles(g)) {
    return g.a_dtype == ALLMREC_F16 ? run_half<__half>(context, g) : run_half<__nv_bfloat16>(context, g);
  }
  gemm_with_converted_b(context, g, g.a_dtype);
}

}  // namespace allmrec::cuda
