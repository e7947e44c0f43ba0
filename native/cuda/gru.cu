// gru, gru_backward: one recurrent layer over a padded batch.
//
// Bound by latency: S steps that wait for each other, each a product of a few rows with W_hh and a handful of
// elementary functions. Up to 128 units one launch carries the whole sequence: a block has 1 to 6 sequences
// and 3 · H threads, and each thread keeps its row of W_hh (backwards: its third of a column) in registers,
// which are larger than shared memory and are read without waiting; only the state (backwards: the gradients
// of the gates) goes through shared memory, as broadcasts. Thread (p, i) makes gate p of unit i, then, after
// a barrier, finishes unit i of sequences p, p + 3: two barriers a step. What a step needs from global memory
// is fetched a step ahead. Above 128 units each step is a matrix product and one pass over the gates. The
// gradients of W_hh and b_hh are one matrix product and one column sum over all steps at the end, from the
// gates' gradients and the states before each step, which the steps leave in scratch memory.
// Expected for H = 64: 0.25 µs a step up to 130 sequences, forward or backward; not yet measured on hardware.

#include <type_traits>

#include "numeric.h"
#include "ops.h"

namespace allmrec::cuda {
namespace {

constexpr int kGates = 3;
constexpr int kPass = 256;  // threads of the passes over gates

__device__ __forceinline__ float logistic(float x) {
  return 1.0f / (1.0f + expf(-x));
}

// One unit of one step. gx and gh: its three gates from x and from h.
struct Gates {
  float r, z, n, hn;
  __device__ __forceinline__ Gates(const float (&gx)[kGates], const float (&gh)[kGates])
      : r(logistic(gx[0] + gh[0])), z(logistic(gx[1] + gh[1])), n(tanhf(gx[2] + r * gh[2])), hn(gh[2]) {}
  __device__ __forceinline__ float state(float before) const { return (1.0f - z) * n + z * before; }
};

// Writes a unit's result and what the backward needs; token = b · S + step.
__device__ __forceinline__ void put_unit(const allmrec_gru_args& a, int64_t token, int64_t i, const Gates& g,
                                         float state) {
  a.out[token * a.hidden + i] = state;
  if (!a.saved) return;
  float* saved = a.saved + token * 4 * a.hidden + i;
  saved[0] = g.r;
  saved[a.hidden] = g.z;
  saved[2 * a.hidden] = g.n;
  saved[3 * a.hidden] = g.hn;
}

// What the backward of one unit of one step reads.
struct UnitInputs {
  float r, z, n, hn, before, d_out;
};

__device__ __forceinline__ UnitInputs unit_inputs(const allmrec_gru_backward_args& args, int64_t b,
                                                  int64_t step, int64_t i) {
  const allmrec_gru_args& a = args.forward;
  const int64_t token = b * a.steps + step;
  const float* saved = a.saved + token * 4 * a.hidden + i;
  return {saved[0],
          saved[a.hidden],
          saved[2 * a.hidden],
          saved[3 * a.hidden],
          step == 0 ? a.h0[b * a.hidden + i] : a.out[(token - 1) * a.hidden + i],
          args.d_out[token * a.hidden + i]};
}

// Gradients of a unit's gates; d is that of its new state. Writes them, and what the gradient of W_hh needs:
// those of h · W_hhᵀ + b_hh to d_gates, the state before to before. Returns the former in dh.
__device__ __forceinline__ void unit_backward(const allmrec_gru_backward_args& args, int64_t token, int64_t i,
                                              const UnitInputs& u, float d, float* d_gates, float* before,
                                              float (&dh)[kGates]) {
  const int64_t h = args.forward.hidden;
  const float dn = d * (1.0f - u.z) * (1.0f - u.n * u.n);
  dh[0] = dn * u.hn * u.r * (1.0f - u.r);
  dh[1] = d * (u.before - u.n) * u.z * (1.0f - u.z);
  dh[2] = dn * u.r;
  float* dx = args.d_gates_x + token * kGates * h + i;
  dx[0] = dh[0];
  dx[h] = dh[1];
  dx[2 * h] = dn;
  if (!d_gates) return;
  float* to = d_gates + token * kGates * h + i;
  to[0] = dh[0];
  to[h] = dh[1];
  to[2 * h] = dh[2];
  before[token * h + i] = u.before;
}

// Σ_j x[j] · w[j], x in shared memory, the same for all lanes of a warp.
template <int Width, int Sequences>
__device__ __forceinline__ void dot_all(const float* x, int distance, const float (&w)[Width],
                                        float (&sum)[Sequences]) {
#pragma unroll
  for (int s = 0; s < Sequences; ++s) sum[s] = 0.0f;
#pragma unroll
  for (int j = 0; j < Width; j += 4) {
#pragma unroll
    for (int s = 0; s < Sequences; ++s) {
      const Vector<float> v = load_vector(x + s * distance + j);
#pragma unroll
      for (int e = 0; e < 4; ++e) sum[s] += v.value[e] * w[j + e];
    }
  }
}

// Width: units rounded up to 32, 64 or 128. Threads: (p, i), p < 3, i < Width.
template <int Width, int Sequences>
__global__ void __launch_bounds__(kGates* Width) gru_kernel(const allmrec_gru_args a) {
  constexpr int kMine = (Sequences + kGates - 1) / kGates;  // sequences a thread finishes
  __shared__ __align__(16) float state[Sequences][Width];
  __shared__ float gates[Sequences][kGates][Width];
  const int p = static_cast<int>(threadIdx.x) / Width, i = static_cast<int>(threadIdx.x) % Width;
  const int hidden = static_cast<int>(a.hidden);
  const int64_t b0 = static_cast<int64_t>(blockIdx.x) * Sequences;
  const bool unit = i < hidden;

  // Units that are not there take the last one's weights: nobody reads what they make of them.
  float w[Width];
  const float* row = a.w_hh + (static_cast<int64_t>(p) * hidden + (unit ? i : hidden - 1)) * hidden;
#pragma unroll
  for (int j = 0; j < Width; ++j) w[j] = j < hidden ? row[j] : 0.0f;
  const float bias = unit && a.b_hh ? a.b_hh[p * hidden + i] : 0.0f;

  // Of the sequences this thread finishes: s = p + 3 · m.
  const auto has = [&](int m) { return unit && p + kGates * m < Sequences && b0 + p + kGates * m < a.batch; };
  float mine[kMine], gx[kMine][kGates] = {};
#pragma unroll
  for (int m = 0; m < kMine; ++m) {
    const int s = p + kGates * m;
    mine[m] = has(m) ? a.h0[(b0 + s) * hidden + i] : 0.0f;
    if (s < Sequences) state[s][i] = mine[m];
  }
  __syncthreads();
  for (int64_t step = 0; step < a.steps; ++step) {
#pragma unroll
    for (int m = 0; m < kMine; ++m) {
      if (!has(m)) continue;
      const float* from = a.gates_x + ((b0 + p + kGates * m) * a.steps + step) * kGates * hidden + i;
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) gx[m][gate] = from[gate * hidden];
    }
    float sum[Sequences];
    dot_all(&state[0][0], Width, w, sum);
#pragma unroll
    for (int s = 0; s < Sequences; ++s) gates[s][p][i] = sum[s] + bias;
    __syncthreads();
#pragma unroll
    for (int m = 0; m < kMine; ++m) {
      const int s = p + kGates * m < Sequences ? p + kGates * m : 0;
      const float gh[kGates] = {gates[s][0][i], gates[s][1][i], gates[s][2][i]};
      const Gates g(gx[m], gh);  // outside of the condition, whose nesting with tanh's costs registers
      if (!has(m)) continue;
      mine[m] = g.state(mine[m]);
      put_unit(a, (b0 + s) * a.steps + step, i, g, mine[m]);
      state[s][i] = mine[m];
    }
    __syncthreads();
  }
}

template <int Width, int Sequences>
__global__ void __launch_bounds__(kGates* Width)
    gru_backward_kernel(const allmrec_gru_backward_args args, float* d_gates, float* before) {
  constexpr int kMine = (Sequences + kGates - 1) / kGates;
  __shared__ __align__(16) float d_gate[kGates][Sequences][Width];
  __shared__ float part[Sequences][kGates][Width];
  const allmrec_gru_args& a = args.forward;
  const int p = static_cast<int>(threadIdx.x) / Width, i = static_cast<int>(threadIdx.x) % Width;
  const int hidden = static_cast<int>(a.hidden);
  const int64_t b0 = static_cast<int64_t>(blockIdx.x) * Sequences;
  const bool unit = i < hidden;

  float w[Width];  // of gate p's units j to unit i of the state
  const float* column = a.w_hh + static_cast<int64_t>(p) * hidden * hidden + (unit ? i : hidden - 1);
#pragma unroll
  for (int j = 0; j < Width; ++j) {
    w[j] = j < hidden ? *column : 0.0f;
    column += hidden;
  }

  const auto has = [&](int m) { return unit && p + kGates * m < Sequences && b0 + p + kGates * m < a.batch; };
  float carry[kMine];
  UnitInputs next[kMine];
#pragma unroll
  for (int m = 0; m < kMine; ++m) {
    const int64_t b = b0 + p + kGates * m;
    carry[m] = has(m) && args.d_hn ? args.d_hn[b * hidden + i] : 0.0f;
    if (has(m)) next[m] = unit_inputs(args, b, a.steps - 1, i);
  }
  for (int64_t step = a.steps - 1; step >= 0; --step) {
#pragma unroll
    for (int m = 0; m < kMine; ++m) {
      const int s = p + kGates * m;
      if (s >= Sequences) continue;
      float dh[kGates] = {0.0f, 0.0f, 0.0f};  // units that are not there must not leave NaN in a sum
      if (has(m)) {
        const int64_t b = b0 + s;
        const UnitInputs u = next[m];
        if (step > 0) next[m] = unit_inputs(args, b, step - 1, i);
        const float d = carry[m] + u.d_out;
        unit_backward(args, b * a.steps + step, i, u, d, d_gates, before, dh);
        carry[m] = d * u.z;
      }
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) d_gate[gate][s][i] = dh[gate];
    }
    __syncthreads();
    float sum[Sequences];
    dot_all(&d_gate[p][0][0], Width, w, sum);
#pragma unroll
    for (int s = 0; s < Sequences; ++s) part[s][p][i] = sum[s];
    __syncthreads();
#pragma unroll
    for (int m = 0; m < kMine; ++m) {
      const int s = p + kGates * m;
      if (has(m)) carry[m] += part[s][0][i] + part[s][1][i] + part[s][2][i];
    }
  }
#pragma unroll
  for (int m = 0; m < kMine; ++m) {
    if (has(m) && args.d_h0) args.d_h0[(b0 + p + kGates * m) * hidden + i] = carry[m];
  }
}

// One step of any width. gates (B, 3H) = h · W_hhᵀ + b_hh.
__global__ void __launch_bounds__(kPass)
    gru_step_kernel(const allmrec_gru_args a, const float* gates, int64_t step) {
  const int64_t e = static_cast<int64_t>(blockIdx.x) * kPass + threadIdx.x;
  if (e >= a.batch * a.hidden) return;
  const int64_t b = e / a.hidden, i = e % a.hidden, token = b * a.steps + step;
  const float* from_x = a.gates_x + token * kGates * a.hidden + i;
  const float* from_h = gates + b * kGates * a.hidden + i;
  const float gx[kGates] = {from_x[0], from_x[a.hidden], from_x[2 * a.hidden]};
  const float gh[kGates] = {from_h[0], from_h[a.hidden], from_h[2 * a.hidden]};
  const Gates g(gx, gh);
  put_unit(a, token, i, g, g.state(step == 0 ? a.h0[e] : a.out[(token - 1) * a.hidden + i]));
}

// carry (B, H): the gradient of the state after the step; becomes d · z, its part that does not go through
// W_hh.
__global__ void __launch_bounds__(kPass)
    gru_step_backward_kernel(const allmrec_gru_backward_args args, int64_t step, float* carry, float* d_gates,
                             float* before) {
  const allmrec_gru_args& a = args.forward;
  const int64_t e = static_cast<int64_t>(blockIdx.x) * kPass + threadIdx.x;
  if (e >= a.batch * a.hidden) return;
  const int64_t b = e / a.hidden, i = e % a.hidden;
  const UnitInputs u = unit_inputs(args, b, step, i);
  const bool last = step == a.steps - 1;
  const float d = (!last ? carry[e] : args.d_hn ? args.d_hn[e] : 0.0f) + u.d_out;
  float dh[kGates];
  unit_backward(args, b * a.steps + step, i, u, d, d_gates, before, dh);
  carry[e] = d * u.z;
}

__global__ void __launch_bounds__(kPass) gru_last_state_kernel(const float* d_hn, float* d_h0, int64_t n) {
  const int64_t e = static_cast<int64_t>(blockIdx.x) * kPass + threadIdx.x;
  if (e < n) d_h0[e] = d_hn ? d_hn[e] : 0.0f;
}

// C (m, n) (+)= op(A) · op(B) + bias.
void product(Context& context, int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, bool trans_a,
             const float* b, int64_t ldb, bool trans_b, const float* bias, float* c, int64_t ldc,
             bool accumulate) {
  allmrec_gemm_args g = {};
  g.m = m, g.n = n, g.k = k;
  g.a = a, g.lda = lda, g.trans_a = trans_a;
  g.b = b, g.ldb = ldb, g.trans_b = trans_b;
  g.c = c, g.ldc = ldc, g.bias = bias, g.alpha = 1.0f, g.accumulate = accumulate;
  gemm(context, g);
}

template <int Sequences, typename Fn>
void by_width(int64_t hidden, Fn&& fn) {
  if (hidden <= 32)
    fn(std::integral_constant<int, 32>{}, std::integral_constant<int, Sequences>{});
  else if (hidden <= 64)
    fn(std::integral_constant<int, 64>{}, std::integral_constant<int, Sequences>{});
  else  // more sequences beside 128 weights do not fit the registers
    fn(std::integral_constant<int, 128>{}, std::integral_constant < int, Sequences<2 ? Sequences : 2>{});
}

// Calls fn(width, sequences) with the kernel to take: few sequences a block while the card has room for more
// blocks, since a step takes longer with each.
template <typename Fn>
void by_shape(const Context& context, const allmrec_gru_args& a, Fn&& fn) {
  if (a.batch <= 2 * context.sm_count)
    by_width<1>(a.hidden, fn);
  else if (a.batch <= 12 * context.sm_count)
    by_width<3>(a.hidden, fn);
  else
    by_width<6>(a.hidden, fn);
}

unsigned pass_blocks(const allmrec_gru_args& a) {
  return static_cast<unsigned>(divide_up(a.batch * a.hidden, kPass));
}

constexpr int64_t kWidest = 128;

}  // namespace

void gru(Context& context, const allmrec_gru_args& a) {
  if (a.batch == 0 || a.steps == 0 || a.hidden == 0) return;
  if (a.hidden <= kWidest) {
    by_shape(context, a, [&](auto width, auto sequences) {
      launch(gru_kernel<width(), sequences()>, static_cast<unsigned>(divide_up(a.batch, sequences())),
             kGates * width(), 0, context.stream, a);
    });
    return;
  }
  const Scratch gates(context, static_cast<size_t>(a.batch * kGates * a.hidden) * sizeof(float));
  for (int64_t step = 0; step < a.steps; ++step) {
    const float* before = step == 0 ? a.h0 : a.out + (step - 1) * a.hidden;
    product(context, a.batch, kGates * a.hidden, a.hidden, before, step == 0 ? a.hidden : a.steps * a.hidden,
            false, a.w_hh, a.hidden, true, a.b_hh, gates.as<float>(), kGates * a.hidden, false);
    launch(gru_step_kernel, pass_blocks(a), kPass, 0, context.stream, a, gates.as<float>(), step);
  }
}

void gru_backward(Context& context, const allmrec_gru_backward_args& args) {
  const allmrec_gru_args& a = args.forward;
  const int64_t h = a.hidden, tokens = a.batch * a.steps;
  if (a.batch == 0 || h == 0) return;
  if (a.steps == 0) {
    if (args.d_h0)
      launch(gru_last_state_kernel, pass_blocks(a), kPass, 0, context.stream, args.d_hn, args.d_h0,
             a.batch * h);
    return;
  }
  const bool stepwise = h > kWidest, keep = stepwise || args.d_w_hh || args.d_b_hh;
  const Scratch d_gates_memory(context, keep ? static_cast<size_t>(tokens * kGates * h) * sizeof(float) : 0);
  const Scratch before_memory(context, keep ? static_cast<size_t>(tokens * h) * sizeof(float) : 0);
  float* d_gates = keep ? d_gates_memory.as<float>() : nullptr;
  float* before = before_memory.as<float>();
  if (!stepwise) {
    by_shape(context, a, [&](auto width, auto sequences) {
      launch(gru_backward_kernel<width(), sequences()>,
             static_cast<unsigned>(divide_up(a.batch, sequences())), kGates * width(), 0, context.stream,
             args, d_gates, before);
    });
  } else {
    const Scratch carry_memory(context, args.d_h0 ? 0 : static_cast<size_t>(a.batch * h) * sizeof(float));
    float* carry = args.d_h0 ? args.d_h0 : carry_memory.as<float>();
    for (int64_t step = a.steps - 1; step >= 0; --step) {
      launch(gru_step_backward_kernel, pass_blocks(a), kPass, 0, context.stream, args, step, carry, d_gates,
             before);
      product(context, a.batch, h, kGates * h, d_gates + step * kGates * h, a.steps * kGates * h, false,
              a.w_hh, h, false, nullptr, carry, h, true);
    }
  }
  if (args.d_w_hh)
    product(context, kGates * h, h, tokens, d_gates, kGates * h, true, before, h, false, nullptr, args.d_w_hh,
            h, true);
  if (args.d_b_hh)
    column_sum(context, {tokens, kGates * h, d_gates, kGates * h, args.d_b_hh, 1, ALLMREC_F32});
}

}  // namespace allmrec::cuda
