// Dilated causal convolution over padded sequences, and its gradients. Bound by the products: one gemm a tap
// over all tokens, against the rows of the input moved later by the tap's distance (the gradient of the
// input: rows of the gradient moved earlier). The move is a copy of one read and one write, small beside a
// product of c_out times as many operations; the last tap, whose distance is zero, reads the input itself.
#include "../vec_math.h"
#include "ops.h"

namespace allmrec::cpu::ALLMREC_ISA {
namespace {

constexpr int kSlot = 3;  // of the shared scratch; gemm and column_sum use others

// How much earlier than its output tap j reads.
int64_t tap_distance(const allmrec_conv_args& a, int32_t j) {
  return int64_t{a.taps - 1 - j} * a.dilation;
}

// to[b, t] = x[b, t − distance], zeros where that is outside of the sequence; a negative distance moves
// earlier.
void shift_rows(Device& device, const allmrec_conv_args& a, const float* x, int64_t cols, int64_t distance,
                float* to) {
  device.pool.parallel_for(a.batch * a.steps, 8192 / cols + 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t from = row % a.steps - distance;
      const size_t bytes = static_cast<size_t>(cols) * sizeof(float);
      if (from < 0 || from >= a.steps)
        std::memset(to + row * cols, 0, bytes);
      else
        std::memcpy(to + row * cols, x + (row - distance) * cols, bytes);
    }
  });
}

float* shifted_memory(Device& device, const allmrec_conv_args& a, int64_t cols) {
  return static_cast<float*>(
      device.shared_scratch(kSlot, static_cast<size_t>(a.batch * a.steps * cols) * sizeof(float)));
}

}  // namespace

void conv(Device& device, const allmrec_conv_args& a) {
  const int64_t tokens = a.batch * a.steps;
  if (tokens == 0 || a.c_out == 0) return;
  bool first = true;
  for (int32_t j = a.taps - 1; j >= 0; --j) {
    const int64_t distance = tap_distance(a, j);
    if (distance >= a.steps) break;  // it and all taps before it read zeros only
    const float* x = a.x;
    if (distance > 0 && a.c_in > 0) {
      float* shifted = shifted_memory(device, a, a.c_in);
      shift_rows(device, a, a.x, a.c_in, distance, shifted);
      x = shifted;
    }
    allmrec_gemm_args g = {};
    g.m = tokens, g.n = a.c_out, g.k = a.c_in;
    g.a = x, g.lda = a.c_in;
    g.b = a.w + j * a.c_out * a.c_in, g.ldb = a.c_in, g.trans_b = 1;
    g.c = a.y, g.ldc = a.c_out, g.alpha = 1.0f;
    g.bias = first ? a.bias : nullptr, g.accumulate = !first;
    gemm(device, g);
    first = false;
  }
}

void conv_backward(Device& device, const allmrec_conv_backward_args& args) {
  const allmrec_conv_args& a = args.forward;
  const int64_t tokens = a.batch * a.steps;
  if (args.d_bias && tokens > 0 && a.c_out > 0) {
    allmrec_column_sum_args sum = {};
    sum.rows = tokens, sum.cols = a.c_out, sum.x = args.dy, sum.ldx = a.c_out;
    sum.out = args.d_bias, sum.accumulate = 1;
    column_sum(device, sum);
  }
  if (tokens == 0 || a.c_in == 0) return;
  bool first = true;
  for (int32_t j = a.taps - 1; j >= 0; --j) {
    const int64_t distance = tap_distance(a, j);
    if (distance >= a.steps) break;  // it and all taps before it read zeros only
    if (args.dx) {
      const float* dy = args.dy;
      if (distance > 0 && a.c_out > 0) {
        float* shifted = shifted_memory(device, a, a.c_out);
        shift_rows(device, a, args.dy, a.c_out, -distance, shifted);
        dy = shifted;
      }
      allmrec_gemm_args g = {};
      g.m = tokens, g.n = a.c_in, g.k = a.c_out;
      g.a = dy, g.lda = a.c_out;
      g.b = a.w + j * a.c_out * a.c_in, g.ldb = a.c_in;
      g.c = args.dx, g.ldc = a.c_in, g.alpha = 1.0f;
      g.accumulate = !first || args.accumulate;
      gemm(device, g);
    }
    if (args.d_w && a.c_out > 0) {
      const float* x = a.x;
      if (distance > 0) {
        float* shifted = shifted_memory(device, a, a.c_in);
        shift_rows(device, a, a.x, a.c_in, distance, shifted);
        x = shifted;
      }
      allmrec_gemm_args g = {};
      g.m = a.c_out, g.n = a.c_in, g.k = tokens;
      g.a = args.dy, g.lda = a.c_out, g.trans_a = 1;
      g.b = x, g.ldb = a.c_in;
      g.c = args.d_w + j * a.c_out * a.c_in, g.ldc = a.c_in, g.alpha = 1.0f, g.accumulate = 1;
      gemm(device, g);
    }
    first = false;
  }
}

}  // namespace allmrec::cpu::ALLMREC_ISA
