// Activations and their gradients. RELU is bound by memory, the others by the polynomials of vec_math.h.
// Idea: one loop, instantiated per function; `max(0, x)` and `saved <= 0` are written so that NaN stays NaN.
#include <algorithm>

#include "../vec_math.h"
#include "ops.h"

namespace allmrec::cpu::ALLMREC_ISA {
namespace {

constexpr int64_t kGrain = 1 << 14;
constexpr float kLeakySlope = 0.01f;
constexpr float kSqrtHalf = 0.70710678118654752f;
constexpr float kInverseSqrtTwoPi = 0.39894228040143268f;
constexpr float kGeluTanhScale = 0.79788456080286536f;  // √(2/π)
constexpr float kGeluTanhCubic = 0.044715f;

ALLMREC_INLINE Vec gelu(Vec x) {
  return 0.5f * x * (1.0f + erf(x * kSqrtHalf));
}
// Φ(x) + x · φ(x)
ALLMREC_INLINE Vec gelu_slope(Vec x) {
  const Vec density = kInverseSqrtTwoPi * exp(-0.5f * x * x);
  return 0.5f * (1.0f + erf(x * kSqrtHalf)) + x * density;
}
// ½ (1 + tanh u) = σ(2u), which is cheaper and keeps the digits of the negative tail.
ALLMREC_INLINE Vec gelu_tanh_gate(Vec x) {
  return sigmoid(2.0f * kGeluTanhScale * (x + kGeluTanhCubic * x * x * x));
}
ALLMREC_INLINE Vec gelu_tanh(Vec x) {
  return x * gelu_tanh_gate(x);
}
ALLMREC_INLINE Vec gelu_tanh_slope(Vec x) {
  const Vec gate = gelu_tanh_gate(x);
  const Vec inner = 2.0f * kGeluTanhScale * (1.0f + 3.0f * kGeluTanhCubic * x * x);
  return gate + x * gate * (1.0f - gate) * inner;
}

template <typename Function>
void apply(Device& device, const allmrec_activation_args& a, Function function) {
  device.pool.parallel_for(a.n, kGrain, [&](int64_t begin, int64_t end, int) {
    sweep(end - begin, [&](int64_t i, auto lanes) {
      put(f32(a.y) + begin + i, function(get(f32(a.x) + begin + i, lanes)), lanes);
    });
  });
}

// slope(dy, saved) gives dy · act'.
template <typename Slope>
void apply_backward(Device& device, const allmrec_activation_backward_args& a, Slope slope) {
  const float* saved = f32(a.saved ? a.saved : a.dy);  // NONE needs none
  device.pool.parallel_for(a.n, kGrain, [&](int64_t begin, int64_t end, int) {
    sweep(end - begin, [&](int64_t j, auto lanes) {
      const int64_t i = begin + j;
      Vec d = slope(get(f32(a.dy) + i, lanes), get(saved + i, lanes));
      if (a.accumulate) d += get(f32(a.dx) + i, lanes);
      put(f32(a.dx) + i, d, lanes);
    });
  });
}

static_assert(kGrain % 8 == 0, "a task's bits begin with a byte");

void relu_bits(Device& device, const allmrec_activation_args& a) {
  device.pool.parallel_for(a.n, kGrain, [&](int64_t begin, int64_t end, int) {
    const float* x = f32(a.x);
    auto* bits = static_cast<uint8_t*>(a.y);
    for (int64_t i = begin; i < end; i += 8) {
      const int64_t count = std::min<int64_t>(8, end - i);
      unsigned byte = 0;
      for (int64_t j = 0; j < count; ++j) byte |= static_cast<unsigned>(!(x[i + j] <= 0.0f)) << j;
      bits[i / 8] = static_cast<uint8_t>(byte);
    }
  });
}

void relu_bits_backward(Device& device, const allmrec_activation_backward_args& a) {
  device.pool.parallel_for(a.n, kGrain, [&](int64_t begin, int64_t end, int) {
    const float* dy = f32(a.dy);
    float* dx = f32(a.dx);
    const auto* bits = static_cast<const uint8_t*>(a.saved);
    for (int64_t i = begin; i < end; i += 8) {
      const int64_t count = std::min<int64_t>(8, end - i);
      const unsigned byte = bits[i / 8];
      for (int64_t j = 0; j < count; ++j) {
        const float d = byte >> j & 1u ? dy[i + j] : 0.0f;
        dx[i + j] = a.accumulate ? dx[i + j] + d : d;
      }
    }
  });
}

}  // namespace

void activation(Device& device, const allmrec_activation_args& a) {
  switch (a.kind) {
    case ALLMREC_ACT_RELU_BITS:
      return relu_bits(device, a);
    case ALLMREC_ACT_RELU:
      return apply(device, a, [](Vec x) { return max(zero(), x); });
    case ALLMREC_ACT_LEAKY_RELU:
      return apply(device, a, [](Vec x) { return blend(x > 0.0f, x, x * kLeakySlope); });
    case ALLMREC_ACT_GELU:
      return apply(device, a, [](Vec x) { return gelu(x); });
    case ALLMREC_ACT_GELU_TANH:
      return apply(device, a, [](Vec x) { return gelu_tanh(x); });
    case ALLMREC_ACT_SIGMOID:
      return apply(device, a, [](Vec x) { return sigmoid(x); });
    case ALLMREC_ACT_TANH:
      return apply(device, a, [](Vec x) { return tanh(x); });
    default:
      return apply(device, a, [](Vec x) { return x; });
  }
}

void activation_backward(Device& device, const allmrec_activation_backward_args& a) {
  switch (a.kind) {
    case ALLMREC_ACT_RELU_BITS:
      return relu_bits_backward(device, a);
    case ALLMREC_ACT_RELU:
      return apply_backward(device, a, [](Vec dy, Vec y) { return blend(y <= 0.0f, zero(), dy); });
    case ALLMREC_ACT_LEAKY_RELU:
      return apply_backward(device, a, [](Vec dy, Vec x) { return blend(x > 0.0f, dy, dy * kLeakySlope); });
    case ALLMREC_ACT_GELU:
      return apply_backward(device, a, [](Vec dy, Vec x) { return dy * gelu_slope(x); });
    case ALLMREC_ACT_GELU_TANH:
      return apply_backward(device, a, [](Vec dy, Vec x) { return dy * gelu_tanh_slope(x); });
    case ALLMREC_ACT_SIGMOID:
      return apply_backward(device, a, [](Vec dy, Vec y) { return dy * y * (1.0f - y); });
    case ALLMREC_ACT_TANH:
      return apply_backward(device, a, [](Vec dy, Vec y) { return dy * (1.0f - y * y); });
    default:
      return apply_backward(device, a, [](Vec dy, Vec) { return dy; });
  }
}

}  // namespace allmrec::cpu::ALLMREC_ISA
