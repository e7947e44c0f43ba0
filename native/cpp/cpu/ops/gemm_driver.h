#pragma once

// How a product is cut into tasks, blocks and tiles, whatever its operands are packed to.
//
// Idea (Goto, van de Geijn: "Anatomy of high-performance matrix multiplication", 2008): a tile of C lives in
// registers; k is cut into blocks so that one row of tiles' share of A stays in the L1 cache and a strip of
// packed B in L2; both operands are copied into the order of use. Each element of C is one chain of fused
// multiply-adds per block of k, the blocks added in order, so no choice of tiles, strips or threads changes a
// bit of the result. Every strip of B is packed once: by the task that takes all rows through it when there
// are strips enough for all threads, otherwise beforehand, for all tasks.
//
// A Format says what the operands are packed to:
//   Units             what a unit of 32 bits holds (gemm_kernel.h)
//   pack_b            a panel of B
//   pack_a            one row of tiles' share of A
//   a_in_place, b_in_place   whether that is left out, and the matrix itself read

#include <algorithm>

#include "gemm_kernel.h"
#include "ops.h"

namespace allmrec::cpu::ALLMREC_ISA {
namespace {

constexpr int64_t kKC = 384;  // units of k per block, whole groups: kMR · kKC of them are 18 KB of L1
constexpr int64_t kNC = 512;  // columns per strip: kKC · kNC units are 768 KB of L2
constexpr int64_t kLeastStrip = 160;  // columns that pay for packing A once more
constexpr int64_t kTasksPerThread = 6;
constexpr int64_t kSplitChunk = 256;             // k per partial sum
constexpr int64_t kSplitMaxOutputs = 256 * 256;  // more outputs have tiles enough for all threads
constexpr int64_t kSplitMinK = 1024;

inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
inline int64_t round_up_to(int64_t a, int64_t b) {
  return ceil_div(a, b) * b;
}

template <typename Format>
class Product {
 public:
  // Shared scratch slot 0, and slots 0 and 1 of every thread.
  static void run(Device& device, const allmrec_gemm_args& g) {
    const bool splits = g.k >= kSplitMinK && g.m * g.n <= kSplitMaxOutputs && !g.fixed_order &&
                        !is_quantized(g.b_dtype);  // whose groups do not end where the chunks do
    if (splits) return split_k(device, g);
    if (g.n >= kTasksPerThread * device.pool.size() * kLeastStrip) return run_strips(device, g);
    run_shared(device, g);
  }

 private:
  using Units = typename Format::Units;
  static constexpr int64_t kPerUnit = Units::kPerUnit;

  static int64_t units(int64_t k) { return ceil_div(k, kPerUnit); }

  // How k is cut: a function of the shape alone.
  struct Blocks {
    explicit Blocks(const allmrec_gemm_args& g) {
      // Relu before accumulation needs the whole sum at once.
      const bool whole = g.accumulate && g.activation == ALLMREC_ACT_RELU;
      count = whole ? 1 : std::max<int64_t>(1, ceil_div(units(g.k), kKC));
      size = round_up_to(std::max<int64_t>(1, ceil_div(g.k, count)), kGroup);  // no group of I4 is cut
    }
    int64_t begin(int64_t block) const { return block * size; }
    int64_t length(const allmrec_gemm_args& g, int64_t block) const {
      return std::max<int64_t>(0, std::min(size, g.k - begin(block)));
    }
    int64_t count, size;  // size in elements
  };

  // A's copy for one row of tiles: rows that fall into the same cache sets are kept apart.
  static int64_t a_stride(int64_t k) { return round_up_to(units(k), kLanes) + kLanes; }
  static size_t a_bytes(int64_t k) { return static_cast<size_t>(kMR * a_stride(k) + kLanes) * 4; }

  static float* a_scratch(Device& device, int thread, const Blocks& blocks) {
    return static_cast<float*>(device.scratch(thread, 0, a_bytes(blocks.size)));
  }

  // Rows i0 … i1 − 1, columns j0 … j1 − 1 of C for one block of k, with B's panels of that strip at `packed`.
  static void multiply_block(const allmrec_gemm_args& g, const Blocks& blocks, int64_t block, int64_t i0,
                             int64_t i1, int64_t j0, int64_t j1, const float* packed, float* a_copy) {
    const int64_t k0 = blocks.begin(block), k = blocks.length(g, block);
    const bool relu = g.activation == ALLMREC_ACT_RELU;
    const bool first = block == 0, last = block + 1 == blocks.count;
    const bool b_in_place = Format::b_in_place(g);
    for (int64_t i = i0; i < i1; i += kMR) {
      const int rows = static_cast<int>(std::min<int64_t>(kMR, i1 - i));
      Tile t{};
      t.k = units(k);
      t.ldc = g.ldc;
      t.rows = rows;
      t.b_stride = b_in_place ? g.ldb : kNR;
      if (k > 0) {
        if (rows % 2 == 0 && Format::a_in_place(g, j1 - j0)) {
          t.a = f32(g.a) + (g.trans_a ? k0 * g.lda + i : i * g.lda + k0);
          t.a_stride = g.lda;
        } else {
          t.a = a_copy;
          t.a_stride = g.trans_a ? kMR : a_stride(k);
          Format::pack_a(g, i, rows, k0, k, t.a_stride, a_copy);
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
        t.b = b_in_place ? f32(g.b) + k0 * g.ldb + j : packed + (j - j0) * t.k;
        t.c = f32(g.c) + i * g.ldc + j;
        t.cols = static_cast<int>(std::min<int64_t>(kNR, j1 - j));
        multiply<Units>(t, e, !g.trans_a);
      }
    }
  }

  static void pack_strip(const allmrec_gemm_args& g, const Blocks& blocks, int64_t block, int64_t j0,
                         int64_t j1, float* to) {
    const int64_t k = blocks.length(g, block);
    if (k == 0 || Format::b_in_place(g)) return;
    for (int64_t j = j0; j < j1; j += kNR) {
      Format::pack_b(g, blocks.begin(block), k, j, std::min<int64_t>(kNR, j1 - j), to + (j - j0) * units(k));
    }
  }

  // Columns j0 … j1 − 1 of C in the calling thread; `packed` holds a block of them.
  static void multiply_strip(const allmrec_gemm_args& g, const Blocks& blocks, int64_t j0, int64_t j1,
                             float* packed, float* a_copy) {
    for (int64_t block = 0; block < blocks.count; ++block) {
      pack_strip(g, blocks, block, j0, j1, packed);
      multiply_block(g, blocks, block, 0, g.m, j0, j1, packed, a_copy);
    }
  }

  // Many columns: every task packs its own strip, which then never leaves its core's cache.
  static void run_strips(Device& device, const allmrec_gemm_args& g) {
    const Blocks blocks(g);
    const int64_t share = ceil_div(g.n, kTasksPerThread * device.pool.size());
    const int64_t width = std::min(kNC, round_up_to(share, kNR));
    device.pool.run(ceil_div(g.n, width), [&](int64_t task, int thread) {
      float* packed =
          static_cast<float*>(device.scratch(thread, 1, static_cast<size_t>(width * units(blocks.size)) * 4));
      multiply_strip(g, blocks, task * width, std::min(g.n, (task + 1) * width), packed,
                     a_scratch(device, thread, blocks));
    });
  }

  // B packed once, by all threads; then tiles in any order.
  static void run_shared(Device& device, const allmrec_gemm_args& g) {
    const Blocks blocks(g);
    const int64_t strips = ceil_div(g.n, kNC), width = round_up_to(ceil_div(g.n, strips), kNR);
    const int64_t columns = round_up_to(g.n, kNR), k_units = blocks.count * units(blocks.size);
    float* packed =
        static_cast<float*>(device.shared_scratch(0, static_cast<size_t>(columns * k_units + kLanes) * 4));
    // Blocks lie one behind the other, in each the panels.
    const auto panels_of = [&](int64_t block, int64_t j) {
      return packed + block * units(blocks.size) * columns + j * units(blocks.length(g, block));
    };
    const int64_t chunk = 4 * kNR, chunks = ceil_div(g.n, chunk);
    const auto pack = [&](int64_t task, int) {
      const int64_t block = task / chunks, j = task % chunks * chunk;
      pack_strip(g, blocks, block, j, std::min(g.n, j + chunk), panels_of(block, j));
    };
    if (g.n * g.k < 64 * 1024) {
      for (int64_t task = 0; task < blocks.count * chunks; ++task) pack(task, 0);
    } else {
      device.pool.run(blocks.count * chunks, pack);
    }
    // Enough tasks to balance the threads, but rows enough to pay for one.
    const int64_t wanted = ceil_div(kTasksPerThread * device.pool.size(), strips);
    const int64_t step = round_up_to(std::max<int64_t>(48, ceil_div(g.m, wanted)), kMR);
    device.pool.run(strips * ceil_div(g.m, step), [&](int64_t task, int thread) {
      const int64_t j = task % strips * width, i = task / strips * step;
      if (j >= g.n) return;
      float* a_copy = a_scratch(device, thread, blocks);
      for (int64_t block = 0; block < blocks.count; ++block) {
        multiply_block(g, blocks, block, i, std::min(g.m, i + step), j, std::min(g.n, j + width),
                       panels_of(block, j), a_copy);
      }
    });
  }

  // Few outputs, long k (the gradient of a small weight matrix): chunks of k are summed apart, then added in
  // order.
  static void split_k(Device& device, const allmrec_gemm_args& g) {
    const int64_t least = std::max(kSplitChunk, round_up_to(ceil_div(g.k, 64), 64));
    const int64_t chunks = ceil_div(g.k, least), size = round_up_to(ceil_div(g.k, chunks), kPerUnit);
    const int64_t outputs = g.m * g.n;
    float* partial = static_cast<float*>(device.shared_scratch(0, static_cast<size_t>(chunks * outputs) * 4));
    device.pool.run(chunks, [&](int64_t chunk, int thread) {
      const int64_t k0 = chunk * size;
      allmrec_gemm_args part = g;
      part.k = std::max<int64_t>(0, std::min(size, g.k - k0));
      part.a = static_cast<const char*>(g.a) + k0 * (g.trans_a ? g.lda : 1) * size_of(g.a_dtype);
      part.b = static_cast<const char*>(g.b) + k0 * (g.trans_b ? 1 : g.ldb) * size_of(g.b_dtype);
      part.c = partial + chunk * outputs;
      part.ldc = g.n;
      part.alpha = 1.0f;
      part.bias = nullptr;
      part.residual = nullptr;
      part.activation = ALLMREC_ACT_NONE;
      part.accumulate = 0;
      const Blocks blocks(part);
      const int64_t width = std::min(kNC, round_up_to(g.n, kNR));
      float* packed =
          static_cast<float*>(device.scratch(thread, 1, static_cast<size_t>(width * units(blocks.size)) * 4));
      float* a_copy = a_scratch(device, thread, blocks);
      for (int64_t j = 0; j < g.n; j += width)
        multiply_strip(part, blocks, j, std::min(g.n, j + width), packed, a_copy);
    });
    device.pool.parallel_for(g.m, std::max<int64_t>(1, 2048 / g.n), [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t j = 0; j < g.n; j += kLanes) {
          const int64_t n = g.n - j;
          Vec sum = zero();
          for (int64_t chunk = 0; chunk < chunks; ++chunk) {
            sum += load_n(partial + chunk * outputs + i * g.n + j, n);
          }
          store_finished(sum, g, i, j, n);
        }
      }
    });
  }
};

}  // namespace
}  // namespace allmrec::cpu::ALLMREC_ISA
