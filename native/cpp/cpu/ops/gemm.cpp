// C = act(alpha · op(A) · op(B) + bias + residual) + (accumulate ? C : 0).
//
// Idea (Goto, van de Geijn: "Anatomy of high-performance matrix multiplication", 2008): a tile of C lives in
// registers; k is cut into blocks so that one row of tiles' share of A stays in the L1 cache and a strip of
// packed B in L2; both operands are copied into the order of use. Each element of C is one chain of fused
// multiply-adds per block of k, the blocks added in order, so no choice of tiles, strips or threads changes a
// bit of the result. Three cases leave that path: few rows (gemm_dot.h), and few outputs over a long k
// (split_k below). Bound: the multiply-add units, 117 GFLOP/s per Zen 4 core. Measured there
// (a-llmrec-bench, one thread, the other core busy): 512×768×768 83 %, 512×3072×768 80 %,
// 6400×50×50 72 %; one row, at 24 GB/s, reads B as fast as this machine reads memory.
#include <algorithm>

#include "gemm_dot.h"
#include "gemm_kernel.h"
#include "ops.h"

namespace allmrec::cpu::ALLMREC_ISA {

namespace {

constexpr int64_t kKC = 384;                     // k per block: kMR · kKC floats are 18 KB of L1
constexpr int64_t kNC = 512;                     // columns per strip: kKC · kNC floats are 768 KB of L2
constexpr int64_t kSharedBytes = 4 << 20;        // a packed B up to this is packed once, for all threads
constexpr int64_t kCloseRows = 128;              // distance of rows up to which an operand is not copied
constexpr int64_t kDotMaxRows = 12;              // below it dot products beat packing
constexpr int64_t kSplitChunk = 256;             // k per partial sum
constexpr int64_t kSplitMaxOutputs = 256 * 256;  // more outputs have tiles enough for all threads
constexpr int64_t kSplitMinK = 1024;

inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// How k is cut: a function of the shape alone.
struct Blocks {
  explicit Blocks(const allmrec_gemm_args& g) {
    // Relu before accumulation needs the whole sum at once.
    const bool whole = g.accumulate && g.activation == ALLMREC_ACT_RELU;
    count = whole ? 1 : std::max<int64_t>(1, ceil_div(g.k, kKC));
    size = std::max<int64_t>(1, ceil_div(g.k, count));
  }
  int64_t count, size;
};

// A's copy for one row of tiles: stride in floats (rows that fall into the same cache sets are kept apart),
// and size.
inline int64_t a_stride(int64_t k) {
  return ceil_div(k, kLanes) * kLanes + kLanes;
}
inline size_t a_bytes(int64_t k) {
  return static_cast<size_t>(kMR * a_stride(k) + kLanes) * sizeof(float);
}

// Rows of B that lie close together are read where they are; rows far apart would each cost a page.
bool reads_b(const allmrec_gemm_args& g) {
  return kRowsOfB && !g.trans_b && g.b_dtype == ALLMREC_F32 && g.ldb <= kCloseRows;
}

// Rows i0 … i1 − 1, columns j0 … j1 − 1 of C for block `block` of k, with B's panels of that strip at
// `packed`.
void multiply_block(const allmrec_gemm_args& g, const Blocks& blocks, int64_t block, int64_t i0, int64_t i1,
                    int64_t j0, int64_t j1, const float* packed, float* a_copy) {
  const int64_t k0 = block * blocks.size;
  const int64_t k = std::max<int64_t>(0, std::min(blocks.size, g.k - k0));
  const bool relu = g.activation == ALLMREC_ACT_RELU;
  const bool first = block == 0, last = block + 1 == blocks.count;
  const float* a = static_cast<const float*>(g.a);
  const float* b_rows = reads_b(g) ? static_cast<const float*>(g.b) + k0 * g.ldb : nullptr;
  for (int64_t i = i0; i < i1; i += kMR) {
    const int rows = static_cast<int>(std::min<int64_t>(kMR, i1 - i));
    Tile t{};
    t.k = k;
    t.ldc = g.ldc;
    t.rows = rows;
    t.b_stride = b_rows ? g.ldb : kNR;
    if (k > 0) {
      const float* from = g.trans_a ? a + k0 * g.lda + i : a + i * g.lda + k0;
      const bool direct = rows % 2 == 0 && (j1 - j0 <= 2 * kNR || (!g.trans_a && g.lda <= kCloseRows));
      if (direct) {
        t.a = from;
        t.a_stride = g.lda;
      } else {
        t.a = a_copy;
        t.a_stride = g.trans_a ? kMR : a_stride(k);
        pack_a(from, g.lda, g.trans_a, k, rows, t.a_stride, a_copy);
      }
    }
    for (int64_t j = j0; j < j1; j += kNR) {
      Epilogue e{};
      e.alpha = g.alpha;
      if (first) {
        e.bias = g.bias ? g.bias + j : nullptr;
        e.residual = g.residual ? f32(g.residual) + i * g.ld_residual + j : nullptr;
        e.ld_residual = g.ld_residual;
      }
      e.add_c = !first || (g.accumulate && !relu);
      e.relu = last && relu;
      e.add_c_after_relu = g.accumulate && relu;
      t.b = b_rows ? b_rows + j : packed + (j - j0) * k;
      t.c = f32(g.c) + i * g.ldc + j;
      t.cols = static_cast<int>(std::min<int64_t>(kNR, j1 - j));
      multiply(t, e, !g.trans_a);
    }
  }
}

void pack_strip(const allmrec_gemm_args& g, const Blocks& blocks, int64_t block, int64_t j0, int64_t j1,
                float* to) {
  if (reads_b(g)) return;
  const int64_t k0 = block * blocks.size;
  const int64_t k = std::min(blocks.size, g.k - k0);
  if (k <= 0) return;
  for (int64_t j = j0; j < j1; j += kNR)
    pack_b(g, k0, k, j, std::min<int64_t>(kNR, j1 - j), to + (j - j0) * k);
}

// The whole product in the calling thread; `packed` holds a strip, `a_copy` a row of tiles.
void multiply_serial(const allmrec_gemm_args& g, float* packed, float* a_copy) {
  const Blocks blocks(g);
  for (int64_t j = 0; j < g.n; j += kNC) {
    const int64_t j1 = std::min(g.n, j + kNC);
    for (int64_t block = 0; block < blocks.count; ++block) {
      pack_strip(g, blocks, block, j, j1, packed);
      multiply_block(g, blocks, block, 0, g.m, j, j1, packed, a_copy);
    }
  }
}

// Rows per task: enough tasks to balance the threads, but rows enough to pay for a task.
int64_t rows_per_task(const Device& device, int64_t m, int64_t strips, int64_t least) {
  const int64_t wanted = ceil_div(6 * device.pool.size(), strips);
  return ceil_div(std::max(least, ceil_div(m, wanted)), kMR) * kMR;
}

// B packed once, by all threads; then tiles in any order.
void multiply_shared(Device& device, const allmrec_gemm_args& g) {
  const Blocks blocks(g);
  const int64_t strips = ceil_div(g.n, kNC), width = ceil_div(g.n, kNR) * kNR;
  float* packed =
      static_cast<float*>(device.shared_scratch(0, static_cast<size_t>(width * g.k + kLanes) * 4));
  const auto strip_of = [&](int64_t block, int64_t strip) {
    const int64_t k = std::min(blocks.size, g.k - block * blocks.size);
    return packed + block * blocks.size * width + strip * kNC * std::max<int64_t>(0, k);
  };
  const auto pack = [&](int64_t task, int) {
    const int64_t block = task / strips, strip = task % strips;
    pack_strip(g, blocks, block, strip * kNC, std::min(g.n, (strip + 1) * kNC), strip_of(block, strip));
  };
  if (g.n * g.k < 64 * 1024) {
    for (int64_t task = 0; task < blocks.count * strips; ++task) pack(task, 0);
  } else {
    device.pool.run(blocks.count * strips, pack);
  }
  const int64_t step = rows_per_task(device, g.m, strips, 48);
  device.pool.run(strips * ceil_div(g.m, step), [&](int64_t task, int thread) {
    const int64_t strip = task % strips, i = task / strips * step;
    float* a_copy = static_cast<float*>(device.scratch(thread, 0, a_bytes(blocks.size)));
    for (int64_t block = 0; block < blocks.count; ++block) {
      multiply_block(g, blocks, block, i, std::min(g.m, i + step), strip * kNC,
                     std::min(g.n, (strip + 1) * kNC), strip_of(block, strip), a_copy);
    }
  });
}

// A large B: every task packs its own strip, which then never leaves its core's cache.
void multiply_strips(Device& device, const allmrec_gemm_args& g) {
  const Blocks blocks(g);
  const int64_t strips = ceil_div(g.n, kNC);
  const int64_t step = rows_per_task(device, g.m, strips, 384);
  device.pool.run(strips * ceil_div(g.m, step), [&](int64_t task, int thread) {
    const int64_t j = task % strips * kNC, i = task / strips * step;
    const int64_t j1 = std::min(g.n, j + kNC);
    float* a_copy = static_cast<float*>(device.scratch(thread, 0, a_bytes(blocks.size)));
    float* packed =
        static_cast<float*>(device.scratch(thread, 1, static_cast<size_t>(kNC * blocks.size) * 4));
    for (int64_t block = 0; block < blocks.count; ++block) {
      pack_strip(g, blocks, block, j, j1, packed);
      multiply_block(g, blocks, block, i, std::min(g.m, i + step), j, j1, packed, a_copy);
    }
  });
}

// Few outputs, long k (the gradient of a small weight matrix): chunks of k are summed apart, then added in
// order.
void split_k(Device& device, const allmrec_gemm_args& g) {
  const int64_t chunks = ceil_div(g.k, std::max(kSplitChunk, ceil_div(ceil_div(g.k, 64), 64) * 64));
  const int64_t size = ceil_div(g.k, chunks);
  const int64_t outputs = g.m * g.n;
  float* partial = static_cast<float*>(device.shared_scratch(0, static_cast<size_t>(chunks * outputs) * 4));
  device.pool.run(chunks, [&](int64_t chunk, int thread) {
    const int64_t k0 = chunk * size;
    allmrec_gemm_args part = g;
    part.k = std::max<int64_t>(0, std::min(size, g.k - k0));
    part.a = static_cast<const float*>(g.a) + k0 * (g.trans_a ? g.lda : 1);
    const int64_t b_offset = k0 * (g.trans_b ? 1 : g.ldb);
    part.b = static_cast<const char*>(g.b) + b_offset * (g.b_dtype == ALLMREC_F32 ? 4 : 2);
    part.c = partial + chunk * outputs;
    part.ldc = g.n;
    part.alpha = 1.0f;
    part.bias = nullptr;
    part.residual = nullptr;
    part.activation = ALLMREC_ACT_NONE;
    part.accumulate = 0;
    const int64_t width = std::min(kNC, ceil_div(g.n, kNR) * kNR), depth = Blocks(part).size;
    float* a_copy = static_cast<float*>(device.scratch(thread, 0, a_bytes(depth)));
    float* packed = static_cast<float*>(device.scratch(thread, 1, static_cast<size_t>(width * depth) * 4));
    multiply_serial(part, packed, a_copy);
  });
  device.pool.parallel_for(g.m, std::max<int64_t>(1, 2048 / g.n), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t j = 0; j < g.n; j += kLanes) {
        const int64_t n = g.n - j;
        Vec sum = zero();
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
          sum += load_n(partial + chunk * outputs + i * g.n + j, n);
        }
        Epilogue e{};
        e.alpha = g.alpha;
        const bool relu = g.activation == ALLMREC_ACT_RELU;
        e.add_c = g.accumulate && !relu;
        e.relu = relu;
        e.add_c_after_relu = g.accumulate && relu;
        float* c = f32(g.c) + i * g.ldc + j;
        store_n(c,
                finish(sum, e, g.bias ? g.bias + j : nullptr,
                       g.residual ? f32(g.residual) + i * g.ld_residual + j : nullptr, c, n),
                n);
      }
    }
  });
}

// Few rows against rows of B.
void multiply_dots(Device& device, const allmrec_gemm_args& g) {
  // A task reads about 512 KB of B, or a sixth of a thread's share.
  const int64_t share = ceil_div(g.n, 6 * device.pool.size());
  const int64_t step = std::max<int64_t>(16, std::min(share, 128 * 1024 / std::max<int64_t>(1, g.k)));
  device.pool.parallel_for(g.n, step, [&](int64_t begin, int64_t end, int thread) {
    if (g.b_dtype == ALLMREC_F32) return dot_columns<ALLMREC_F32>(g, begin, end);
    if (g.b_dtype == ALLMREC_F16) return dot_columns<ALLMREC_F16>(g, begin, end);
    if (g.b_dtype == ALLMREC_BF16) return dot_columns<ALLMREC_BF16>(g, begin, end);
    float* rows = static_cast<float*>(device.scratch(thread, 0, dequantized_bytes(g.k)));
    return dot_quantized_columns(g, begin, end, rows);
  });
}

}  // namespace

void gemm(Device& device, const allmrec_gemm_args& g) {
  if (g.m == 0 || g.n == 0) return;
  if (g.k > 0 && g.m <= kDotMaxRows && g.trans_b && !g.trans_a) return multiply_dots(device, g);
  // Quantised weights are no gradient's operand, and their groups do not end where the chunks do.
  if (g.k >= kSplitMinK && g.m * g.n <= kSplitMaxOutputs && !is_quantized(g.b_dtype))
    return split_k(device, g);
  const int64_t packed_bytes = ceil_div(g.n, kNR) * kNR * g.k * 4;
  if (packed_bytes <= kSharedBytes) return multiply_shared(device, g);
  multiply_strips(device, g);
}

}  // namespace allmrec::cpu::ALLMREC_ISA
