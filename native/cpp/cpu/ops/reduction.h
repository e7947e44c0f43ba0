#pragma once

// Sums of losses and norms: float64, in blocks whose borders depend on the length alone, added in order.

#include "../vec_math.h"
#include "ops.h"

namespace allmrec::cpu::ALLMREC_ISA {
namespace {

constexpr int64_t kReductionBlock = 1 << 13;  // elements

// Σ of block_sum(begin, end) over the blocks of [0, n). Uses the shared scratch slot 2.
template <typename BlockSum>
inline double sum_blocks(Device& device, int64_t n, BlockSum block_sum) {
  if (n <= 0) return 0.0;
  const int64_t blocks = (n + kReductionBlock - 1) / kReductionBlock;
  if (blocks == 1) return block_sum(int64_t{0}, n);
  double* partial =
      static_cast<double*>(device.shared_scratch(2, static_cast<size_t>(blocks) * sizeof(double)));
  device.pool.run(blocks, [&](int64_t block, int) {
    const int64_t begin = block * kReductionBlock;
    partial[block] = block_sum(begin, begin + kReductionBlock < n ? begin + kReductionBlock : n);
  });
  double total = 0.0;
  for (int64_t block = 0; block < blocks; ++block) total += partial[block];
  return total;
}

// out[0] = value, or += value.
ALLMREC_INLINE void put_sum(float* out, double value, bool accumulate) {
  if (out) *out = static_cast<float>(accumulate ? static_cast<double>(*out) + value : value);
}

}  // namespace
}  // namespace allmrec::cpu::ALLMREC_ISA
