// sum, column_sum and squared_norm. Bound by memory: one read.
#include "reduction.h"

namespace allmrec::cpu::ALLMREC_ISA {
namespace {

constexpr int64_t kMaxBlocks = 32;      // of rows, each with a partial sum of its own
constexpr int64_t kMinBlock = 1 << 13;  // elements
constexpr int kChains = 16;             // additions in flight

}  // namespace

// Every addition in float64: unlike a loss's or a norm's, these terms may cancel.
void sum(Device& device, const allmrec_sum_args& a) {
  const double total = sum_blocks(device, a.n, [&](int64_t begin, int64_t end) {
    double sums[kChains] = {};
    int64_t i = begin;
    for (; i + kChains <= end; i += kChains) {
      for (int c = 0; c < kChains; ++c) sums[c] += static_cast<double>(a.x[i + c]);
    }
    for (; i < end; ++i) sums[0] += static_cast<double>(a.x[i]);
    double total = 0.0;
    for (double part : sums) total += part;
    return total;
  });
  put_sum(a.out, total * a.scale, a.accumulate);
}

void squared_norm(Device& device, const allmrec_squared_norm_args& a) {
  double total = 0.0;
  for (int64_t t = 0; t < a.count; ++t) {
    const float* x = a.tensors[t];
    total += sum_blocks(device, a.sizes[t], [&](int64_t begin, int64_t end) {
      return sum_over_double(end - begin, [&](int64_t i, auto lanes) {
        const Vec v = get(x + begin + i, lanes);
        return v * v;
      });
    });
  }
  put_sum(a.out, total, false);
}

// Blocks of rows are summed side by side, four rows per pass over the block's sums; then the blocks in order.
void column_sum(Device& device, const allmrec_column_sum_args& a) {
  if (a.cols == 0) return;
  int64_t block_rows = (a.rows + kMaxBlocks - 1) / kMaxBlocks;
  if (block_rows * a.cols < kMinBlock) block_rows = (kMinBlock + a.cols - 1) / a.cols;
  const int64_t blocks = (a.rows + block_rows - 1) / block_rows;
  float* partial =
      static_cast<float*>(device.shared_scratch(2, static_cast<size_t>(blocks * a.cols) * sizeof(float)));
  device.pool.run(blocks, [&](int64_t block, int) {
    float* sums = partial + block * a.cols;
    std::memset(sums, 0, static_cast<size_t>(a.cols) * sizeof(float));
    const int64_t end = (block + 1) * block_rows < a.rows ? (block + 1) * block_rows : a.rows;
    int64_t row = block * block_rows;
    for (; row + 4 <= end; row += 4) {
      const float* x = f32(a.x) + row * a.ldx;
      sweep(a.cols, [&](int64_t i, auto lanes) {
        const Vec ab = get(x + i, lanes) + get(x + a.ldx + i, lanes);
        const Vec cd = get(x + 2 * a.ldx + i, lanes) + get(x + 3 * a.ldx + i, lanes);
        put(sums + i, get(sums + i, lanes) + (ab + cd), lanes);
      });
    }
    for (; row < end; ++row) {
      const float* x = f32(a.x) + row * a.ldx;
      sweep(a.cols,
            [&](int64_t i, auto lanes) { put(sums + i, get(sums + i, lanes) + get(x + i, lanes), lanes); });
    }
  });
  sweep(a.cols, [&](int64_t i, auto lanes) {
    Vec total = zero();
    for (int64_t block = 0; block < blocks; ++block) total += get(partial + block * a.cols + i, lanes);
    if (a.accumulate) total += get(a.out + i, lanes);
    put(a.out + i, total, lanes);
  });
}

}  // namespace allmrec::cpu::ALLMREC_ISA
