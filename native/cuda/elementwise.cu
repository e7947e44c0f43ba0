// The ops that work element by element: activation and its backward, add, mul, dropout, cast, copy_2d,
// random, fill, advance. Bound by bytes: one read of each input, one write. Idea: a thread owns groups of 8
// consecutive elements (two 16-byte loads of float32, one of halves), as many as a counter of Philox serves,
// and has several groups in flight: all loads first, then arithmetic, then stores. Groups are dealt over the
// grid, so small arrays spread over all multiprocessors. An element is read by the thread that writes it,
// before it is written: outputs may be inputs. Expected on an H200: 80–90 % of the copy bandwidth from some
// 10 MB on, 2–3 µs a launch below 1 MB. Not yet measured on hardware.

#include "ops.h"
#include "row_copy.h"
#include "values.h"

namespace allmrec::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kGroup = 8;  // elements
constexpr int kBlocksPerProcessor = 8;

// An operation gives y from a, and from b where it has two inputs; `State` is what the elements of a group
// share.
struct OneInput {
  static constexpr bool kTwo = false;
  struct State {};
  __device__ __forceinline__ State begin(int64_t) const { return {}; }
};
struct TwoInputs : OneInput {
  static constexpr bool kTwo = true;
};

template <typename In, typename Out>
struct Operands {
  int64_t n;
  const In* a;
  const In* b;
  Out* y;
  bool accumulate;
  bool vectors;  // every pointer is 16-byte aligned
};

// Groups first, first + stride, …: K of them, all whole.
template <int K, typename In, typename Out, typename Op>
__device__ __forceinline__ void whole_groups(const Operands<In, Out>& o, const Op& op, int64_t first,
                                             int64_t stride) {
  float a[K][kGroup], b[K][kGroup], before[K][kGroup];
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const int64_t i = (first + k * stride) * kGroup;
    load_values<kGroup>(o.a + i, a[k]);
    if (Op::kTwo) load_values<kGroup>(o.b + i, b[k]);
    if (o.accumulate) load_values<kGroup>(o.y + i, before[k]);
  }
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const typename Op::State state = op.begin(first + k * stride);
#pragma unroll
    for (int j = 0; j < kGroup; ++j) {
      a[k][j] = op(state, j, a[k][j], Op::kTwo ? b[k][j] : 0.0f);
      if (o.accumulate) a[k][j] += before[k][j];
    }
    store_values<kGroup>(o.y + (first + k * stride) * kGroup, a[k]);
  }
}

template <typename In, typename Out, typename Op>
__device__ __forceinline__ void part_of_group(const Operands<In, Out>& o, const Op& op, int64_t group) {
  const typename Op::State state = op.begin(group);
#pragma unroll
  for (int j = 0; j < kGroup; ++j) {
    const int64_t i = group * kGroup + j;
    if (i >= o.n) continue;
    float y = op(state, j, to_float(o.a[i]), Op::kTwo ? to_float(o.b[i]) : 0.0f);
    if (o.accumulate) y += to_float(o.y[i]);
    o.y[i] = from_float<Out>(y);
  }
}

template <typename In, typename Out, typename Op>
__global__ void __launch_bounds__(kThreads, 2) map_kernel(Operands<In, Out> o, Op op) {
  constexpr int kInFlight = sizeof(In) == 4 || Op::kTwo ? 2 : 4;
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  const int64_t groups = (o.n + kGroup - 1) / kGroup, whole = o.vectors ? o.n / kGroup : 0;
  int64_t group = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  for (; group + (kInFlight - 1) * stride < whole; group += kInFlight * stride)
    whole_groups<kInFlight>(o, op, group, stride);
  for (; group < whole; group += stride) whole_groups<1>(o, op, group, stride);
  for (; group < groups; group += stride) part_of_group(o, op, group);
}

unsigned blocks_for(const Context& context, int64_t threads) {
  const int64_t most = int64_t{context.sm_count} * kBlocksPerProcessor;
  const int64_t wanted = divide_up(threads, kThreads);
  return static_cast<unsigned>(wanted < most ? wanted : most);
}

// y (+)= op(a, b).
template <typename In, typename Out, typename Op>
void map(Context& context, int64_t n, const void* a, const void* b, void* y, bool accumulate, Op op) {
  const bool vectors = aligned_16(a) && aligned_16(b) && aligned_16(y);
  const Operands<In, Out> o = {
      n, static_cast<const In*>(a), static_cast<const In*>(b), static_cast<Out*>(y), accumulate, vectors};
  launch(map_kernel<In, Out, Op>, blocks_for(context, divide_up(n, kGroup)), kThreads, 0, context.stream, o,
         op);
}

// ---- activations ----

constexpr float kLeakySlope = 0.01f;
constexpr float kSqrtHalf = 0.70710678118654752f;
constexpr float kInverseSqrtTwoPi = 0.39894228040143268f;
constexpr float kGeluTanhScale = 0.79788456080286536f;  // √(2/π)
constexpr float kGeluTanhCubic = 0.044715f;

__device__ __forceinline__ float sigmoid(float x) {
  return 1.0f / (1.0f + expf(-x));
}
// ½ (1 + tanh u) = σ(2u), which keeps the digits of the negative tail.
__device__ __forceinline__ float gelu_tanh_gate(float x) {
  return sigmoid(2.0f * kGeluTanhScale * (x + kGeluTanhCubic * x * x * x));
}

// Comparisons are written so that NaN stays NaN.
template <int32_t Kind>
struct Activation : OneInput {
  __device__ __forceinline__ float operator()(State, int, float x, float) const {
    if (Kind == ALLMREC_ACT_RELU) return x <= 0.0f ? 0.0f : x;
    if (Kind == ALLMREC_ACT_LEAKY_RELU) return x > 0.0f ? x : x * kLeakySlope;
    if (Kind == ALLMREC_ACT_GELU) return 0.5f * x * (1.0f + erff(x * kSqrtHalf));
    if (Kind == ALLMREC_ACT_GELU_TANH) return x * gelu_tanh_gate(x);
    if (Kind == ALLMREC_ACT_SIGMOID) return sigmoid(x);
    if (Kind == ALLMREC_ACT_TANH) return tanhf(x);
    return x;
  }
};

// `saved` is the input or the output, as backend.h says for each kind.
template <int32_t Kind>
struct ActivationBackward : TwoInputs {
  __device__ __forceinline__ float operator()(State, int, float dy, float saved) const {
    if (Kind == ALLMREC_ACT_RELU) return saved <= 0.0f ? 0.0f : dy;
    if (Kind == ALLMREC_ACT_LEAKY_RELU) return saved > 0.0f ? dy : dy * kLeakySlope;
    if (Kind == ALLMREC_ACT_GELU) {
      const float density = kInverseSqrtTwoPi * expf(-0.5f * saved * saved);
      return dy * (0.5f * (1.0f + erff(saved * kSqrtHalf)) + saved * density);
    }
    if (Kind == ALLMREC_ACT_GELU_TANH) {
      const float gate = gelu_tanh_gate(saved);
      const float inner = 2.0f * kGeluTanhScale * (1.0f + 3.0f * kGeluTanhCubic * saved * saved);
      return dy * (gate + saved * gate * (1.0f - gate) * inner);
    }
    if (Kind == ALLMREC_ACT_SIGMOID) return dy * saved * (1.0f - saved);
    if (Kind == ALLMREC_ACT_TANH) return dy * (1.0f - saved * saved);
    return dy;
  }
};

template <int32_t Kind>
struct KindOf {
  static constexpr int32_t value = Kind;
};
template <typename Fn>
void by_kind(int32_t kind, Fn&& fn) {
  if (kind == ALLMREC_ACT_NONE) fn(KindOf<ALLMREC_ACT_NONE>{});
  if (kind == ALLMREC_ACT_RELU) fn(KindOf<ALLMREC_ACT_RELU>{});
  if (kind == ALLMREC_ACT_LEAKY_RELU) fn(KindOf<ALLMREC_ACT_LEAKY_RELU>{});
  if (kind == ALLMREC_ACT_GELU) fn(KindOf<ALLMREC_ACT_GELU>{});
  if (kind == ALLMREC_ACT_GELU_TANH) fn(KindOf<ALLMREC_ACT_GELU_TANH>{});
  if (kind == ALLMREC_ACT_SIGMOID) fn(KindOf<ALLMREC_ACT_SIGMOID>{});
  if (kind == ALLMREC_ACT_TANH) fn(KindOf<ALLMREC_ACT_TANH>{});
}

// ---- sums and products ----

struct Scaled : OneInput {
  float alpha;
  explicit Scaled(float factor) : alpha(factor) {}
  __device__ __forceinline__ float operator()(State, int, float a, float) const { return alpha * a; }
};
struct ScaledSum : TwoInputs {
  float alpha, beta;
  ScaledSum(float of_a, float of_b) : alpha(of_a), beta(of_b) {}
  __device__ __forceinline__ float operator()(State, int, float a, float b) const {
    return alpha * a + beta * b;
  }
};
struct Product : TwoInputs {
  __device__ __forceinline__ float operator()(State, int, float a, float b) const { return a * b; }
};
struct Same : OneInput {
  __device__ __forceinline__ float operator()(State, int, float a, float) const { return a; }
};

// ---- dropout ----

struct Factors {
  float value[kGroup];
};
// A dropped element is multiplied by zero: NaN and infinity show.
template <bool Residual>
struct Drop {
  static constexpr bool kTwo = Residual;
  using State = Factors;
  Dropout dropout;
  __device__ __forceinline__ State begin(int64_t group) const {
    State state;
    dropout_factors<kGroup>(dropout, static_cast<uint64_t>(group) * kGroup, state.value);
    return state;
  }
  __device__ __forceinline__ float operator()(const State& state, int j, float x, float residual) const {
    const float y = x * state.value[j];
    return Residual ? y + residual : y;
  }
};

// ---- random, fill, advance ----

constexpr float kUnit = 5.9604644775390625e-8f;  // 2^-24
constexpr float kTwoPi = 6.28318530717958648f;

// sin 2πt and cos 2πt for t in [0, 1): the CPU's polynomials (vec_math.h). The nearest quarter turn is taken
// off exactly, so that they see at most π/4; sinf would bring a path for huge arguments, and a stack, along.
__device__ __forceinline__ void sin_cos_turns(float t, float& sine, float& cosine) {
  const int quarter = static_cast<int>(t * 4.0f + 0.5f);  // 0 … 4
  const float x = kTwoPi * (t - 0.25f * static_cast<float>(quarter)), z = x * x;
  float s = fmaf(-1.9515295891e-4f, z, 8.3321608736e-3f);
  s = fmaf(s, z, -1.6666654611e-1f);
  s = fmaf(s * z, x, x);
  float c = fmaf(2.443315711809948e-5f, z, -1.388731625493765e-3f);
  c = fmaf(c, z, 4.166664568298827e-2f);
  c = fmaf(c, z * z, 1.0f - 0.5f * z);
  sine = quarter % 2 == 1 ? c : s;
  cosine = quarter % 2 == 1 ? s : c;
  if (quarter & 2) sine = -sine;
  if ((quarter + 1) & 2) cosine = -cosine;
}

// Element e takes word e % 4 of counter e / 4; normals take pairs of words.
__global__ void __launch_bounds__(kThreads)
    random_kernel(int64_t n, uint64_t seed, uint64_t stream, bool normal, float a, float b, float* x,
                  bool vectors) {
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t group = int64_t{blockIdx.x} * kThreads + threadIdx.x; group * 4 < n; group += stride) {
    const PhiloxWords words = philox(seed, stream, static_cast<uint64_t>(group));
    float value[4];
    if (normal) {
#pragma unroll
      for (int i = 0; i < 4; i += 2) {
        const float u = static_cast<float>((words.word[i] >> 8) + 1) * kUnit;  // (0, 1]
        const float radius = sqrtf(-2.0f * logf(u));
        float sine, cosine;
        sin_cos_turns(static_cast<float>(words.word[i + 1] >> 8) * kUnit, sine, cosine);
        value[i] = a + b * (radius * cosine);
        value[i + 1] = a + b * (radius * sine);
      }
    } else {
      // Rounded after each operation, never fused: the bits are part of the contract.
#pragma unroll
      for (int i = 0; i < 4; ++i)
        value[i] = __fadd_rn(a, __fmul_rn(b - a, static_cast<float>(words.word[i] >> 8) * kUnit));
    }
    if (vectors && group * 4 + 4 <= n) {
      store_values<4>(x + group * 4, value);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (group * 4 + i < n) x[group * 4 + i] = value[i];
      }
    }
  }
}

__global__ void __launch_bounds__(kThreads) fill_kernel(int64_t n, float* x, float value, bool vectors) {
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  const int64_t first = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t whole = vectors ? n / 4 : 0;
  const float values[4] = {value, value, value, value};
  for (int64_t i = first; i < whole; i += stride) store_values<4>(x + 4 * i, values);
  for (int64_t i = whole * 4 + first; i < n; i += stride) x[i] = value;
}

__global__ void __launch_bounds__(kThreads) advance_kernel(int64_t n, int32_t* x, int32_t by) {
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n; i += stride) x[i] += by;
}

// A thread makes, or reads, a byte of bits at a time.
template <typename T>
__global__ void __launch_bounds__(kThreads) relu_bits_kernel(int64_t n, const T* x, uint8_t* bits) {
  const int64_t stride = int64_t{gridDim.x} * kThreads, groups = (n + kGroup - 1) / kGroup;
  for (int64_t group = int64_t{blockIdx.x} * kThreads + threadIdx.x; group < groups; group += stride) {
    unsigned byte = 0;
#pragma unroll
    for (int j = 0; j < kGroup; ++j) {
      const int64_t i = group * kGroup + j;
      if (i < n && !(to_float(x[i]) <= 0.0f)) byte |= 1u << j;
    }
    bits[group] = static_cast<uint8_t>(byte);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    relu_bits_backward_kernel(int64_t n, const T* dy, const uint8_t* bits, T* dx, bool accumulate) {
  const int64_t stride = int64_t{gridDim.x} * kThreads, groups = (n + kGroup - 1) / kGroup;
  for (int64_t group = int64_t{blockIdx.x} * kThreads + threadIdx.x; group < groups; group += stride) {
    const unsigned byte = bits[group];
#pragma unroll
    for (int j = 0; j < kGroup; ++j) {
      const int64_t i = group * kGroup + j;
      if (i >= n) continue;
      const float d = byte >> j & 1u ? to_float(dy[i]) : 0.0f;
      dx[i] = from_float<T>(accumulate ? to_float(dx[i]) + d : d);
    }
  }
}

}  // namespace

void activation(Context& context, const allmrec_activation_args& a) {
  if (a.kind == ALLMREC_ACT_RELU_BITS)
    return by_storage(a.dtype, [&](auto zero) {
      using T = decltype(zero);
      launch(relu_bits_kernel<T>, blocks_for(context, divide_up(a.n, kGroup)), kThreads, 0, context.stream,
             a.n, static_cast<const T*>(a.x), static_cast<uint8_t*>(a.y));
    });
  by_storage(a.dtype, [&](auto zero) {
    using T = decltype(zero);
    by_kind(a.kind, [&](auto kind) {
      map<T, T>(context, a.n, a.x, nullptr, a.y, false, Activation<decltype(kind)::value>{});
    });
  });
}

void activation_backward(Context& context, const allmrec_activation_backward_args& a) {
  if (a.kind == ALLMREC_ACT_RELU_BITS)
    return by_storage(a.dtype, [&](auto zero) {
      using T = decltype(zero);
      launch(relu_bits_backward_kernel<T>, blocks_for(context, divide_up(a.n, kGroup)), kThreads, 0,
             context.stream, a.n, static_cast<const T*>(a.dy), static_cast<const uint8_t*>(a.saved),
             static_cast<T*>(a.dx), a.accumulate != 0);
    });
  const void* saved = a.saved ? a.saved : a.dy;  // NONE needs none
  by_storage(a.dtype, [&](auto zero) {
    using T = decltype(zero);
    by_kind(a.kind, [&](auto kind) {
      map<T, T>(context, a.n, a.dy, saved, a.dx, a.accumulate != 0,
                ActivationBackward<decltype(kind)::value>{});
    });
  });
}

void add(Context& context, const allmrec_add_args& a) {
  by_storage(a.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (a.b)
      map<T, T>(context, a.n, a.a, a.b, a.y, a.accumulate != 0, ScaledSum(a.alpha, a.beta));
    else
      map<T, T>(context, a.n, a.a, nullptr, a.y, a.accumulate != 0, Scaled(a.alpha));
  });
}

void mul(Context& context, const allmrec_mul_args& a) {
  map<float, float>(context, a.n, a.a, a.b, a.y, a.accumulate != 0, Product{});
}

void dropout(Context& context, const allmrec_dropout_args& a) {
  by_storage(a.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (a.residual)
      map<T, T>(context, a.n, a.x, a.residual, a.y, a.accumulate != 0, Drop<true>{dropout_of(a.dropout)});
    else
      map<T, T>(context, a.n, a.x, nullptr, a.y, a.accumulate != 0, Drop<false>{dropout_of(a.dropout)});
  });
}

void cast(Context& context, const allmrec_cast_args& a) {
  by_storage(a.x_dtype, [&](auto from) {
    by_storage(a.y_dtype, [&](auto to) {
      map<decltype(from), decltype(to)>(context, a.n, a.x, nullptr, a.y, false, Same{});
    });
  });
}

void copy_2d(Context& context, const allmrec_copy_2d_args& a) {
  const int64_t n = a.rows * a.cols;
  const bool dense = a.rows <= 1 || (a.ldx == a.cols && a.ldy == a.cols);
  if (a.accumulate && dense) {
    by_storage(a.dtype, [&](auto zero) {
      using T = decltype(zero);
      map<T, T>(context, n, a.x, nullptr, a.y, true, Same{});
    });
  } else if (a.accumulate) {
    add_rows(context, a.dtype, a.rows, a.cols, a.x, a.ldx, a.y, a.ldy);
  } else {
    const size_t element = a.dtype == ALLMREC_F32 ? 4 : 2;
    if (dense)
      copy_rows(context, element, n > 0, n, nullptr, nullptr, a.x, n, a.y, n);
    else
      copy_rows(context, element, a.rows, a.cols, nullptr, nullptr, a.x, a.ldx, a.y, a.ldy);
  }
}

void random(Context& context, const allmrec_random_args& a) {
  launch(random_kernel, blocks_for(context, divide_up(a.n, 4)), kThreads, 0, context.stream, a.n, a.seed,
         a.stream, a.normal != 0, a.a, a.b, a.x, aligned_16(a.x));
}

void fill(Context& context, float* x, int64_t n, float value) {
  launch(fill_kernel, blocks_for(context, divide_up(n, 4)), kThreads, 0, context.stream, n, x, value,
         aligned_16(x));
}

void advance(Context& context, const allmrec_advance_args& a) {
  launch(advance_kernel, blocks_for(context, a.n), kThreads, 0, context.stream, a.n, a.x, a.by);
}

}  // namespace allmrec::cuda
