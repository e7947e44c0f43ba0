// bce, mse: the loss and its gradients in one pass.
//
// Bound by bytes: bce reads the logits (targets, weights) and writes their gradient, mse reads two arrays and
// writes up to two. Losses are summed in float64, per thread in a fixed stride, then over the block: the
// order depends on the length and the grid alone. Up to kOneBlock elements are one launch of one block, as in
// a training step of a small recommender, which is bound by launches; above, blocks leave partial sums and a
// second launch adds them in order. Not yet measured on hardware.

#include "numeric.h"
#include "ops.h"

namespace allmrec::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kOneBlockThreads = 1024;
constexpr int64_t kOneBlock = 16384;  // elements: four vectors a thread

struct Bce {
  const float* logits;
  const float* targets;  // or null: `target`
  const float* weights;  // or null: ones
  float* d_logits;       // or null
  float target, scale;

  bool aligned() const {
    return aligned_16(logits) && aligned_16(targets) && aligned_16(weights) && aligned_16(d_logits);
  }

  // The loss of Count elements from i on; their gradients are written.
  template <int Count>
  __device__ __forceinline__ double at(int64_t i) const {
    float x[Count], y[Count], w[Count], d[Count];
    get<Count>(logits + i, x);
    for (int j = 0; j < Count; ++j) y[j] = target, w[j] = 1.0f;
    if (targets) get<Count>(targets + i, y);
    if (weights) get<Count>(weights + i, w);
    double sum = 0.0;
    for (int j = 0; j < Count; ++j) {
      const float e = expf(-fabsf(x[j]));  // never overflows; gives both softplus and the sigmoid
      d[j] = scale * w[j] * ((x[j] >= 0.0f ? 1.0f : e) / (1.0f + e) - y[j]);
      sum += static_cast<double>(w[j] * (fmaxf(x[j], 0.0f) - x[j] * y[j] + log1pf(e)));
    }
    if (d_logits) put<Count>(d_logits + i, d);
    return sum;
  }

  template <int Count>
  static __device__ __forceinline__ void get(const float* p, float (&v)[Count]) {
    if constexpr (Count == 4) {
      const Vector<float> four = load_vector(p);
      for (int j = 0; j < Count; ++j) v[j] = four.value[j];
    } else {
      v[0] = *p;
    }
  }
  template <int Count>
  static __device__ __forceinline__ void put(float* p, const float (&v)[Count]) {
    if constexpr (Count == 4) {
      store_vector(p, Vector<float>{{v[0], v[1], v[2], v[3]}});
    } else {
      *p = v[0];
    }
  }
};

struct Mse {
  const float* a;
  const float* b;
  float* da;    // or null
  float* db;    // or null
  float slope;  // 2 · scale
  int32_t accumulate_a, accumulate_b;

  bool aligned() const { return aligned_16(a) && aligned_16(b) && aligned_16(da) && aligned_16(db); }

  template <int Count>
  __device__ __forceinline__ double at(int64_t i) const {
    float x[Count], y[Count];
    Bce::get<Count>(a + i, x);
    Bce::get<Count>(b + i, y);
    double sum = 0.0;
    for (int j = 0; j < Count; ++j) {
      x[j] -= y[j];
      sum += static_cast<double>(x[j] * x[j]);
    }
    if (da) add<Count>(da + i, slope, x, accumulate_a);
    if (db) add<Count>(db + i, -slope, x, accumulate_b);
    return sum;
  }

  template <int Count>
  static __device__ __forceinline__ void add(float* to, float factor, const float (&x)[Count],
                                             int32_t accumulate) {
    float d[Count];
    for (int j = 0; j < Count; ++j) d[j] = 0.0f;
    if (accumulate) Bce::get<Count>(to, d);
    for (int j = 0; j < Count; ++j) d[j] += factor * x[j];
    Bce::put<Count>(to, d);
  }
};

// loss[0] (+)= total, by one thread.
__device__ __forceinline__ void put_loss(float* loss, double total, int32_t accumulate) {
  if (loss) *loss = static_cast<float>(accumulate ? static_cast<double>(*loss) + total : total);
}

// partial null: there is one block, which has the loss.
template <typename Loss>
__global__ void __launch_bounds__(kOneBlockThreads)
    loss_kernel(Loss terms, int64_t n, bool vectors, double* partial, float scale, float* loss,
                int32_t accumulate) {
  __shared__ double shared[kWarp];
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t whole = vectors ? n / 4 : 0;
  double sum = 0.0;
#pragma unroll 2
  for (int64_t v = first; v < whole; v += stride) sum += terms.template at<4>(4 * v);
  for (int64_t i = 4 * whole + first; i < n; i += stride) sum += terms.template at<1>(i);
  sum = block_sum(sum, shared);
  if (threadIdx.x != 0) return;
  if (partial)
    partial[blockIdx.x] = sum;
  else
    put_loss(loss, sum * scale, accumulate);
}

__global__ void loss_sum_kernel(const double* partial, int count, float scale, float* loss,
                                int32_t accumulate) {
  __shared__ double shared[kWarp];
  double sum = 0.0;
  for (int i = threadIdx.x; i < count; i += blockDim.x) sum += partial[i];
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) put_loss(loss, sum * scale, accumulate);
}

template <typename Loss>
void run(Context& context, const Loss& terms, int64_t n, float scale, float* loss, int32_t accumulate) {
  const bool vectors = terms.aligned();
  if (n <= kOneBlock) {
    const int threads = n <= 4 * kThreads ? kThreads : kOneBlockThreads;
    launch(loss_kernel<Loss>, 1, threads, 0, context.stream, terms, n, vectors, nullptr, scale, loss,
           accumulate);
    return;
  }
  const int64_t wanted = divide_up(n, 8 * kThreads), most = 8 * static_cast<int64_t>(context.sm_count);
  const int blocks = static_cast<int>(wanted < most ? wanted : most);
  const Scratch partial(context, static_cast<size_t>(blocks) * sizeof(double));
  launch(loss_kernel<Loss>, blocks, kThreads, 0, context.stream, terms, n, vectors, partial.as<double>(),
         scale, loss, accumulate);
  launch(loss_sum_kernel, 1, kThreads, 0, context.stream, partial.as<double>(), blocks, scale, loss,
         accumulate);
}

}  // namespace

void bce(Context& context, const allmrec_bce_args& a) {
  run(context, Bce{a.logits, a.targets, a.weights, a.d_logits, a.target, a.scale}, a.n, a.scale, a.loss,
      a.accumulate_loss);
}

void mse(Context& context, const allmrec_mse_args& a) {
  run(context, Mse{a.a, a.b, a.da, a.db, 2.0f * a.scale, a.accumulate_a, a.accumulate_b}, a.n, a.scale,
      a.loss, a.accumulate_loss);
}

}  // namespace allmrec::cuda
