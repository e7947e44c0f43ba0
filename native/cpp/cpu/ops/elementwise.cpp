// add, mul, copy_2d and cast: bound by memory, one pass. Each vector is read whole before it is written, so
// an output may be any of the inputs.
#include "../vec_math.h"
#include "ops.h"

namespace allmrec::cpu::ALLMREC_ISA {
namespace {

constexpr int64_t kGrain = 1 << 14;

ALLMREC_INLINE Vec get_bf16(const uint16_t* p, Whole) {
  return load_bf16(p);
}
ALLMREC_INLINE Vec get_bf16(const uint16_t* p, Part part) {
  return load_bf16_n(p, part.count);
}
ALLMREC_INLINE Vec get_f16(const uint16_t* p, Whole) {
  return load_f16(p);
}
ALLMREC_INLINE Vec get_f16(const uint16_t* p, Part part) {
  return load_f16_n(p, part.count);
}

}  // namespace

void add(Device& device, const allmrec_add_args& a) {
  device.pool.parallel_for(a.n, kGrain, [&](int64_t begin, int64_t end, int) {
    const float* x = a.a + begin;
    float* y = a.y + begin;
    if (a.b) {
      const float* b = a.b + begin;
      sweep(end - begin, [&](int64_t i, auto lanes) {
        Vec sum = get(x + i, lanes) * a.alpha + get(b + i, lanes) * a.beta;
        if (a.accumulate) sum += get(y + i, lanes);
        put(y + i, sum, lanes);
      });
    } else {
      sweep(end - begin, [&](int64_t i, auto lanes) {
        Vec sum = get(x + i, lanes) * a.alpha;
        if (a.accumulate) sum += get(y + i, lanes);
        put(y + i, sum, lanes);
      });
    }
  });
}

void mul(Device& device, const allmrec_mul_args& a) {
  device.pool.parallel_for(a.n, kGrain, [&](int64_t begin, int64_t end, int) {
    sweep(end - begin, [&](int64_t j, auto lanes) {
      const int64_t i = begin + j;
      Vec product = get(a.a + i, lanes) * get(a.b + i, lanes);
      if (a.accumulate) product += get(a.y + i, lanes);
      put(a.y + i, product, lanes);
    });
  });
}

void copy_2d(Device& device, const allmrec_copy_2d_args& a) {
  if (a.cols == 0) return;
  device.pool.parallel_for(a.rows, kGrain / a.cols + 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const float* x = a.x + row * a.ldx;
      float* y = a.y + row * a.ldy;
      sweep(a.cols, [&](int64_t i, auto lanes) {
        Vec value = get(x + i, lanes);
        if (a.accumulate) value += get(y + i, lanes);
        put(y + i, value, lanes);
      });
    }
  });
}

void cast(Device& device, const allmrec_cast_args& a) {
  const uint16_t* half = static_cast<const uint16_t*>(a.x);
  const float* single = static_cast<const float*>(a.x);
  device.pool.parallel_for(a.n, kGrain, [&](int64_t begin, int64_t end, int) {
    float* y = a.y + begin;
    if (a.x_dtype == ALLMREC_F16)
      sweep(end - begin, [&](int64_t i, auto lanes) { put(y + i, get_f16(half + begin + i, lanes), lanes); });
    else if (a.x_dtype == ALLMREC_BF16)
      sweep(end - begin,
            [&](int64_t i, auto lanes) { put(y + i, get_bf16(half + begin + i, lanes), lanes); });
    else
      sweep(end - begin, [&](int64_t i, auto lanes) { put(y + i, get(single + begin + i, lanes), lanes); });
  });
}

}  // namespace allmrec::cpu::ALLMREC_ISA
