// add, mul, copy_2d, advance, and cast with its conversions of rows between dtypes: bound by memory, one
// pass. Each vector is read whole before it is written, so an output may be any of the inputs.
#include "../vec_math.h"
#include "dtype.h"
#include "ops.h"

namespace allmrec::cpu::ALLMREC_ISA {
namespace {

constexpr int64_t kGrain = 1 << 14;

}  // namespace

void add(Device& device, const allmrec_add_args& a) {
  device.pool.parallel_for(a.n, kGrain, [&](int64_t begin, int64_t end, int) {
    const float* x = f32(a.a) + begin;
    float* y = f32(a.y) + begin;
    if (a.b) {
      const float* b = f32(a.b) + begin;
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
  const int64_t size = size_of(a.dtype);
  device.pool.parallel_for(a.rows, kGrain / a.cols + 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      if (!a.accumulate) {
        std::memmove(static_cast<char*>(a.y) + row * a.ldy * size,
                     static_cast<const char*>(a.x) + row * a.ldx * size, static_cast<size_t>(a.cols * size));
        continue;
      }
      const float* x = f32(a.x) + row * a.ldx;
      float* y = f32(a.y) + row * a.ldy;
      sweep(a.cols, [&](int64_t i, auto lanes) { put(y + i, get(x + i, lanes) + get(y + i, lanes), lanes); });
    }
  });
}

void cast(Device& device, const allmrec_cast_args& a) {
  device.pool.parallel_for(a.n, kGrain, [&](int64_t begin, int64_t end, int) {
    convert(static_cast<const char*>(a.x) + begin * size_of(a.x_dtype), a.x_dtype,
            static_cast<char*>(a.y) + begin * size_of(a.y_dtype), a.y_dtype, end - begin);
  });
}

void cast_rows(Device& device, const CastRows& a) {
  if (a.cols == 0) return;
  device.pool.parallel_for(a.rows, kGrain / a.cols + 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row)
      convert(static_cast<const char*>(a.x) + row * a.ldx * size_of(a.x_dtype), a.x_dtype,
              static_cast<char*>(a.y) + row * a.ldy * size_of(a.y_dtype), a.y_dtype, a.cols);
  });
}

void advance(Device& device, const allmrec_advance_args& a) {
  device.pool.parallel_for(a.n, kGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) a.x[i] += a.by;
  });
}

}  // namespace allmrec::cpu::ALLMREC_ISA
