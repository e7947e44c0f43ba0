// quantize: rows of weights to int8 (one scale a row) or int4 (one scale per 32). Bound by memory: one read
// of x, and a second one from the cache. A scale of zero (a row or group of zeros) gives quants of zero. An
// int4 quant is chosen against the scale as it is stored, in 16 bits.
#include "dtype.h"
#include "ops.h"

namespace allmrec::cpu::ALLMREC_ISA {
namespace {

constexpr int64_t kGrain = 1 << 14;  // elements per task

// Nearest integer, ties to even, kept in [low, high].
ALLMREC_INLINE Vec quants_of(Vec x, Vec scale, float low, float high) {
  const Vec q = round(x / scale);
  return blend(scale == 0.0f, zero(), max(broadcast(low), min(broadcast(high), q)));
}

void quantize_i8(const float* x, int64_t cols, int8_t* quants, float* scale) {
  Vec largest = zero();
  sweep(cols, [&](int64_t i, auto lanes) { largest = max(largest, abs(get(x + i, lanes))); });
  *scale = horizontal_max(largest) / 127.0f;
  const Vec by = broadcast(*scale);
  sweep(cols, [&](int64_t i, auto lanes) {
    int32_t q[kLanes];
    store_i(q, to_int(quants_of(get(x + i, lanes), by, -127.0f, 127.0f)));
    const int64_t n = cols - i < kLanes ? cols - i : kLanes;
    for (int64_t j = 0; j < n; ++j) quants[i + j] = static_cast<int8_t>(q[j]);
  });
}

// One group.
void quantize_i4(const float* x, uint8_t* quants, uint16_t* scale) {
  float largest = 0.0f;  // in magnitude, with its sign; of equals the first
  for (int64_t i = 0; i < kGroup; ++i)
    largest = __builtin_fabsf(x[i]) > __builtin_fabsf(largest) ? x[i] : largest;
  *scale = float_to_f16(largest / -8.0f);
  const Vec by = broadcast(f16_to_float(*scale));
  int32_t q[kGroup];
  for (int64_t i = 0; i < kGroup; i += kLanes)
    store_i(q + i, to_int(quants_of(load(x + i), by, -8.0f, 7.0f)));
  for (int64_t j = 0; j < kGroup / 2; ++j)
    quants[j] = static_cast<uint8_t>((q[j] + 8) | (q[j + kGroup / 2] + 8) << 4);
}

}  // namespace

void quantize(Device& device, const allmrec_quantize_args& a) {
  if (a.cols == 0) {
    if (a.dtype == ALLMREC_I8)
      for (int64_t row = 0; row < a.rows; ++row) static_cast<float*>(a.scales)[row] = 0.0f;
    return;
  }
  device.pool.parallel_for(a.rows, kGrain / a.cols + 1, [&](int64_t begin, int64_t end, int thread) {
    float* wide = a.x_dtype == ALLMREC_F32
                      ? nullptr
                      : static_cast<float*>(device.scratch(thread, 0, static_cast<size_t>(a.cols) * 4));
    for (int64_t row = begin; row < end; ++row) {
      const float* x = f32(a.x) + row * a.cols;
      if (wide) {
        convert(static_cast<const uint16_t*>(a.x) + row * a.cols, a.x_dtype, wide, ALLMREC_F32, a.cols);
        x = wide;
      }
      if (a.dtype == ALLMREC_I8) {
        quantize_i8(x, a.cols, static_cast<int8_t*>(a.quants) + row * a.cols,
                    static_cast<float*>(a.scales) + row);
        continue;
      }
      const int64_t groups = a.cols / kGroup;
      for (int64_t group = row * groups; group < (row + 1) * groups; ++group) {
        quantize_i4(x + (group - row * groups) * kGroup,
                    static_cast<uint8_t*>(a.quants) + group * (kGroup / 2),
                    static_cast<uint16_t*>(a.scales) + group);
      }
    }
  });
}

}  // namespace allmrec::cpu::ALLMREC_ISA
