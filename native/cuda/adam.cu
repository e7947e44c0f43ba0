// adam: the step over all parameters in one pass.
//
// Bound by bytes: four reads and three writes per parameter, four with zero_grad. The tensors are cut into
// chunks of kChunk parameters numbered through; a block finds its tensor by bisection. The table of tensors
// travels as the kernel's argument (constant memory, no copy to wait for and none to keep alive), which holds
// kTensors of them: a recommender is one launch, a sentence encoder two. Each thread has eight 16-byte loads
// in flight. Expected to reach 85–90 % of bandwidth; not yet measured on hardware.

#include <cmath>

#include "numeric.h"
#include "ops.h"

namespace allmrec::cuda {
namespace {

constexpr int kThreads = 256, kVectors = 2;
constexpr int64_t kChunk = kThreads * kVectors * 4;
constexpr int kTensors = 64;

struct Step {
  float grad_scale, weight_decay, take1, beta2, take2;  // take = 1 − beta
  float step_size;                                      // lr / (1 − beta1^step)
  float inverse_root;                                   // 1 / √(1 − beta2^step)
  float eps;
};

struct Table {
  allmrec_adam_tensor tensors[kTensors];
  uint32_t first_chunk[kTensors + 1];
  int32_t count;
};
static_assert(sizeof(Table) + sizeof(Step) <= 4000, "kernel arguments have 4 KB");

__device__ __forceinline__ void update(const Step& s, float& p, float g, float& m, float& v) {
  g = g * s.grad_scale + p * s.weight_decay;
  m += (g - m) * s.take1;
  v = v * s.beta2 + g * g * s.take2;
  p -= s.step_size * m / (sqrtf(v) * s.inverse_root + s.eps);
}

template <bool ZeroGrad>
__global__ void __launch_bounds__(kThreads) adam_kernel(const Table table, const Step step) {
  int low = 0, high = table.count - 1;  // the last tensor whose first chunk is not behind this one
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (table.first_chunk[middle] <= blockIdx.x)
      low = middle;
    else
      high = middle - 1;
  }
  const int64_t begin = static_cast<int64_t>(blockIdx.x - table.first_chunk[low]) * kChunk;
  const int64_t left = table.tensors[low].n - begin;
  const int n = static_cast<int>(left < kChunk ? left : kChunk);
  float* p = table.tensors[low].param + begin;
  float* g = table.tensors[low].grad + begin;
  float* m = table.tensors[low].m + begin;
  float* v = table.tensors[low].v + begin;
  const uintptr_t addresses = reinterpret_cast<uintptr_t>(p) | reinterpret_cast<uintptr_t>(g) |
                              reinterpret_cast<uintptr_t>(m) | reinterpret_cast<uintptr_t>(v);
  const int whole = addresses % 16 == 0 ? n / 4 : 0;
  const int thread = static_cast<int>(threadIdx.x);

  Vector<float> param[kVectors], grad[kVectors], first[kVectors], second[kVectors];
#pragma unroll
  for (int u = 0; u < kVectors; ++u) {
    const int i = u * kThreads + thread;
    if (i >= whole) continue;
    param[u] = load_vector(p + 4 * i);
    grad[u] = load_vector(g + 4 * i);
    first[u] = load_vector(m + 4 * i);
    second[u] = load_vector(v + 4 * i);
  }
#pragma unroll
  for (int u = 0; u < kVectors; ++u) {
    const int i = u * kThreads + thread;
    if (i >= whole) continue;
    for (int j = 0; j < 4; ++j)
      update(step, param[u].value[j], grad[u].value[j], first[u].value[j], second[u].value[j]);
    store_vector(m + 4 * i, first[u]);
    store_vector(v + 4 * i, second[u]);
    store_vector(p + 4 * i, param[u]);
    if (ZeroGrad) store_vector(g + 4 * i, Vector<float>{{0.0f, 0.0f, 0.0f, 0.0f}});
  }
  for (int i = 4 * whole + thread; i < n; i += kThreads) {
    float p_i = p[i], m_i = m[i], v_i = v[i];
    update(step, p_i, g[i], m_i, v_i);
    m[i] = m_i;
    v[i] = v_i;
    p[i] = p_i;
    if (ZeroGrad) g[i] = 0.0f;
  }
}

}  // namespace

void adam(Context& context, const allmrec_adam_args& a) {
  const double correction1 = 1.0 - std::pow(static_cast<double>(a.beta1), static_cast<double>(a.step));
  const double correction2 = 1.0 - std::pow(static_cast<double>(a.beta2), static_cast<double>(a.step));
  const Step step = {a.grad_scale,
                     a.weight_decay,
                     static_cast<float>(1.0 - static_cast<double>(a.beta1)),
                     a.beta2,
                     static_cast<float>(1.0 - static_cast<double>(a.beta2)),
                     static_cast<float>(a.lr / correction1),
                     static_cast<float>(1.0 / std::sqrt(correction2)),
                     a.eps};
  for (int64_t next = 0; next < a.count;) {
    Table table = {};
    for (; next < a.count && table.count < kTensors; ++next) {
      const allmrec_adam_tensor& t = a.tensors[next];
      if (t.n == 0) continue;
      table.tensors[table.count] = t;
      table.first_chunk[table.count + 1] =
          table.first_chunk[table.count] + static_cast<uint32_t>(divide_up(t.n, kChunk));
      ++table.count;
    }
    const dim3 grid(table.first_chunk[table.count]);
    launch(a.zero_grad ? adam_kernel<true> : adam_kernel<false>, grid, kThreads, 0, context.stream, table,
           step);
  }
}

}  // namespace allmrec::cuda
