// A GRU layer over a padded batch, and its gradients. Bound by the product h · W_hhᵀ of each step (the
// products with x come in as gates_x). One gemm per step, then the gates in one fused pass; in the backward
// the gradients of the gates of all steps are kept, so that the gradient of W_hh is one large product at the
// end instead of S small ones.
#include "../vec_math.h"
#include "ops.h"

namespace allmrec::cpu::ALLMREC_ISA {
namespace {

constexpr int kSlot = 3;  // of the shared scratch; gemm and column_sum use others

// C (m, n) = op(A) · op(B) + bias.
void product(Device& device, int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, bool trans_a,
             const float* b, int64_t ldb, bool trans_b, const float* bias, float* c, int64_t ldc,
             bool accumulate) {
  allmrec_gemm_args g = {};
  g.m = m, g.n = n, g.k = k;
  g.a = a, g.lda = lda, g.trans_a = trans_a;
  g.b = b, g.ldb = ldb, g.trans_b = trans_b;
  g.c = c, g.ldc = ldc, g.bias = bias, g.alpha = 1.0f, g.accumulate = accumulate;
  gemm(device, g);
}

}  // namespace

void gru(Device& device, const allmrec_gru_args& a) {
  const int64_t h = a.hidden, s = a.steps;
  if (a.batch == 0 || h == 0 || s == 0) return;
  float* gates = static_cast<float*>(  // (B, 3H): h · W_hhᵀ + b_hh
      device.shared_scratch(kSlot, static_cast<size_t>(a.batch * 3 * h) * sizeof(float)));
  for (int64_t step = 0; step < s; ++step) {
    const float* previous = step == 0 ? a.h0 : a.out + (step - 1) * h;
    const int64_t ld = step == 0 ? h : s * h;
    product(device, a.batch, 3 * h, h, previous, ld, false, a.w_hh, h, true, a.b_hh, gates, 3 * h, false);
    device.pool.parallel_for(a.batch, 4096 / h + 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t b = begin; b < end; ++b) {
        const float* gx = a.gates_x + (b * s + step) * 3 * h;  // (3H)
        const float* gh = gates + b * 3 * h;
        const float* before = previous + b * ld;
        float* out = a.out + (b * s + step) * h;
        float* saved = a.saved ? a.saved + (b * s + step) * 4 * h : nullptr;
        sweep(h, [&](int64_t i, auto lanes) {
          const Vec r = sigmoid(get(gx + i, lanes) + get(gh + i, lanes));
          const Vec z = sigmoid(get(gx + h + i, lanes) + get(gh + h + i, lanes));
          const Vec hn = get(gh + 2 * h + i, lanes);
          const Vec n = tanh(get(gx + 2 * h + i, lanes) + r * hn);
          put(out + i, (1.0f - z) * n + z * get(before + i, lanes), lanes);
          if (saved) {
            put(saved + i, r, lanes);
            put(saved + h + i, z, lanes);
            put(saved + 2 * h + i, n, lanes);
            put(saved + 3 * h + i, hn, lanes);
          }
        });
      }
    });
  }
}

void gru_backward(Device& device, const allmrec_gru_backward_args& args) {
  const allmrec_gru_args& a = args.forward;
  const int64_t h = a.hidden, s = a.steps, tokens = a.batch * s;
  if (a.batch == 0 || h == 0) return;
  // d_gates (B, S, 3H) of h · W_hhᵀ + b_hh; before (B, S, H), the state each step began with; carry (B, H).
  float* d_gates = static_cast<float*>(
      device.shared_scratch(kSlot, static_cast<size_t>(tokens * 4 * h + a.batch * h) * sizeof(float)));
  float* before = d_gates + tokens * 3 * h;
  float* carry = args.d_h0 ? args.d_h0 : before + tokens * h;
  const size_t state_bytes = static_cast<size_t>(a.batch * h) * sizeof(float);
  if (args.d_hn)
    std::memcpy(carry, args.d_hn, state_bytes);
  else
    std::memset(carry, 0, state_bytes);
  if (s == 0) return;

  for (int64_t step = s - 1; step >= 0; --step) {
    device.pool.parallel_for(a.batch, 4096 / h + 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t b = begin; b < end; ++b) {
        const int64_t t = b * s + step;
        const float* previous = step == 0 ? a.h0 + b * h : a.out + (t - 1) * h;
        const float* saved = a.saved + t * 4 * h;
        const float* d_out = args.d_out + t * h;
        float* dx = args.d_gates_x + t * 3 * h;
        float* dh = d_gates + t * 3 * h;
        float* state = carry + b * h;
        std::memcpy(before + t * h, previous, static_cast<size_t>(h) * sizeof(float));
        sweep(h, [&](int64_t i, auto lanes) {
          const Vec r = get(saved + i, lanes), z = get(saved + h + i, lanes);
          const Vec n = get(saved + 2 * h + i, lanes), hn = get(saved + 3 * h + i, lanes);
          const Vec d = get(state + i, lanes) + get(d_out + i, lanes);
          const Vec dn = d * (1.0f - z) * (1.0f - n * n);
          const Vec dz = d * (get(previous + i, lanes) - n) * z * (1.0f - z);
          const Vec dr = dn * hn * r * (1.0f - r);
          put(dx + i, dr, lanes);
          put(dx + h + i, dz, lanes);
          put(dx + 2 * h + i, dn, lanes);
          put(dh + i, dr, lanes);
          put(dh + h + i, dz, lanes);
          put(dh + 2 * h + i, dn * r, lanes);
          put(state + i, d * z, lanes);
        });
      }
    });
    product(device, a.batch, h, 3 * h, d_gates + step * 3 * h, s * 3 * h, false, a.w_hh, h, false, nullptr,
            carry, h, true);
  }
  if (args.d_w_hh)
    product(device, 3 * h, h, tokens, d_gates, 3 * h, true, before, h, false, nullptr, args.d_w_hh, h, true);
  if (args.d_b_hh) column_sum(device, {tokens, 3 * h, d_gates, 3 * h, args.d_b_hh, 1, ALLMREC_F32});
}

}  // namespace allmrec::cpu::ALLMREC_ISA
