// quantize: rows of weights to I8 (one scale a row) or I4 (one scale per 32), the definitions of backend.h.
//
// Bound: the bytes of x; runs once per weight when a model is loaded. I8: a warp a row, which it reads twice,
// the second time from L2. I4: a warp a group, a lane an element. Division and rounding are IEEE, so the
// bytes are those of the CPU. Not yet measured on hardware.
#include <algorithm>

#include "numeric.h"
#include "ops.h"

namespace allmrec::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kGroup = 32;

// Magnitudes of floats compare as their bits do.
__device__ __forceinline__ unsigned magnitude_bits(float x) {
  return __float_as_uint(x) & 0x7fffffffu;
}
__device__ __forceinline__ unsigned warp_max(unsigned x) {
  for (int offset = 16; offset > 0; offset /= 2) x = max(x, __shfl_xor_sync(kAllLanes, x, offset));
  return x;
}

// Nearest integer, ties to even; zero under a scale of zero.
__device__ __forceinline__ int quant_of(float x, float scale, float low, float high) {
  if (scale == 0.0f) return 0;
  return __float2int_rn(fmaxf(low, fminf(high, rintf(__fdiv_rn(x, scale)))));
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    quantize_int8_kernel(int64_t rows, int64_t cols, const T* x, int8_t* quants, float* scales) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (row >= rows) return;
  x += row * cols, quants += row * cols;
  unsigned largest = 0;
#pragma unroll 4
  for (int64_t c = lane; c < cols; c += kWarp) largest = max(largest, magnitude_bits(to_float(x[c])));
  const float scale = __fdiv_rn(__uint_as_float(warp_max(largest)), 127.0f);
#pragma unroll 4
  for (int64_t c = lane; c < cols; c += kWarp)
    quants[c] = static_cast<int8_t>(quant_of(to_float(x[c]), scale, -127.0f, 127.0f));
  if (lane == 0) scales[row] = scale;
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    quantize_int4_kernel(int64_t groups, const T* x, uint8_t* quants, __half* scales) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int64_t group = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp; group < groups;
       group += int64_t{gridDim.x} * kWarps) {
    const float value = to_float(x[group * kGroup + lane]);
    // The largest in magnitude with its sign, of equals the first.
    const unsigned bits = magnitude_bits(value), largest = warp_max(bits);
    const unsigned equal = __ballot_sync(kAllLanes, bits == largest);
    const float first = __shfl_sync(kAllLanes, value, __ffs(static_cast<int>(equal)) - 1);
    const __half scale = from_float<__half>(largest == 0 ? -0.0f : __fdiv_rn(first, -8.0f));
    const int q = quant_of(value, to_float(scale), -8.0f, 7.0f) + 8;
    const int other = __shfl_down_sync(kAllLanes, q, 16);
    if (lane < 16) quants[group * 16 + lane] = static_cast<uint8_t>(q | other << 4);
    if (lane == 0) scales[group] = scale;
  }
}

}  // namespace

void quantize(Context& context, const allmrec_quantize_args& a) {
  by_storage(a.x_dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* x = static_cast<const T*>(a.x);
    if (a.dtype == ALLMREC_I8) {
      launch(quantize_int8_kernel<T>, dim3(static_cast<unsigned>(divide_up(a.rows, kWarps))), dim3(kThreads),
             0, context.stream, a.rows, a.cols, x, static_cast<int8_t*>(a.quants),
             static_cast<float*>(a.scales));
      return;
    }
    const int64_t groups = a.rows * (a.cols / kGroup);
    const int64_t blocks = std::min<int64_t>(divide_up(groups, kWarps), 64 * int64_t{context.sm_count});
    launch(quantize_int4_kernel<T>, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0, context.stream,
           groups, x, static_cast<uint8_t*>(a.quants), static_cast<__half*>(a.scales));
  });
}

}  // namespace allmrec::cuda
