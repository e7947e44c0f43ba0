// gather_rows, put_rows, scatter_add_rows and segment_mean: rows moved or added by index. Bound by memory.
#include "rows.h"
#include "dtype.h"

namespace allmrec::cpu::ALLMREC_ISA {
namespace {
constexpr int64_t kGrain = 1 << 13;  // elements per task
}

void gather_rows(Device& device, const allmrec_rows_args& a) {
  if (a.cols == 0) return;
  const int64_t size = size_of(a.dtype);
  device.pool.parallel_for(a.count, kGrain / a.cols + 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i)
      std::memcpy(static_cast<char*>(a.out) + i * a.ldout * size,
                  static_cast<const char*>(a.x) + a.rows[i] * a.ldx * size,
                  static_cast<size_t>(a.cols * size));
  });
}

void put_rows(Device& device, const allmrec_rows_args& a) {
  if (a.cols == 0) return;
  const int64_t size = size_of(a.dtype);
  device.pool.parallel_for(a.count, kGrain / a.cols + 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      if (a.rows[i] < 0) continue;
      std::memcpy(static_cast<char*>(a.out) + a.rows[i] * a.ldout * size,
                  static_cast<const char*>(a.x) + i * a.ldx * size, static_cast<size_t>(a.cols * size));
    }
  });
}

void scatter_add_rows(Device& device, const allmrec_rows_args& a) {
  if (a.cols == 0 || a.count == 0) return;
  int32_t last = 0;
  for (int64_t i = 0; i < a.count; ++i) last = a.rows[i] > last ? a.rows[i] : last;
  scatter_rows(
      device, a.count, a.cols, f32(a.x), a.ldx, 1.0f, int64_t{last} + 1, [&](int64_t i) { return a.rows[i]; },
      [&](int64_t i) { return f32(a.out) + a.rows[i] * a.ldout; });
}

void segment_mean(Device& device, const allmrec_segment_mean_args& a) {
  if (a.cols == 0) return;
  device.pool.parallel_for(a.segments, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t segment = begin; segment < end; ++segment) {
      const int64_t from = a.offsets[segment], to = a.offsets[segment + 1];
      const float inverse = to > from ? 1.0f / static_cast<float>(to - from) : 0.0f;
      float* out = f32(a.out) + segment * a.cols;
      sweep(a.cols, [&](int64_t i, auto lanes) {
        Vec sum = zero();
        for (int64_t row = from; row < to; ++row) sum += get(f32(a.x) + row * a.cols + i, lanes);
        sum *= inverse;
        if (a.accumulate) sum += get(out + i, lanes);
        put(out + i, sum, lanes);
      });
    }
  });
}

void segment_mean_backward(Device& device, const allmrec_segment_mean_args& a) {
  if (a.cols == 0) return;
  device.pool.parallel_for(a.segments, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t segment = begin; segment < end; ++segment) {
      const int64_t from = a.offsets[segment], to = a.offsets[segment + 1];
      if (to <= from) continue;
      const float inverse = 1.0f / static_cast<float>(to - from);
      const float* dy = f32(a.x) + segment * a.cols;
      for (int64_t row = from; row < to; ++row) {
        float* dx = f32(a.out) + row * a.cols;
        sweep(a.cols, [&](int64_t i, auto lanes) {
          Vec d = get(dy + i, lanes) * inverse;
          if (a.accumulate) d += get(dx + i, lanes);
          put(dx + i, d, lanes);
        });
      }
    }
  });
}

}  // namespace allmrec::cpu::ALLMREC_ISA
