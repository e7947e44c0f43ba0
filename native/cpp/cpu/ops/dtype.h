#pragma once

// Rows of any storage dtype as float32 and back. The formats are described at the top of backend.h.

#include "../../backend/backend.h"
#include "../vec_math.h"

namespace allmrec::cpu::ALLMREC_ISA {
namespace {

// Bytes of one element; F32, F16 and BF16 only.
ALLMREC_INLINE int64_t size_of(int32_t dtype) {
  return dtype == ALLMREC_F32 ? 4 : 2;
}

ALLMREC_INLINE bool is_quantized(int32_t dtype) {
  return dtype == ALLMREC_I8 || dtype == ALLMREC_I4;
}

template <int32_t Dtype>
ALLMREC_INLINE Vec get_as(const void* p, int64_t i, Whole) {
  if (Dtype == ALLMREC_F32) return load(static_cast<const float*>(p) + i);
  const uint16_t* half = static_cast<const uint16_t*>(p) + i;
  return Dtype == ALLMREC_F16 ? load_f16(half) : load_bf16(half);
}
template <int32_t Dtype>
ALLMREC_INLINE Vec get_as(const void* p, int64_t i, Part part) {
  if (Dtype == ALLMREC_F32) return load_n(static_cast<const float*>(p) + i, part.count);
  const uint16_t* half = static_cast<const uint16_t*>(p) + i;
  return Dtype == ALLMREC_F16 ? load_f16_n(half, part.count) : load_bf16_n(half, part.count);
}
template <int32_t Dtype>
ALLMREC_INLINE void put_as(void* p, int64_t i, Vec v, Whole) {
  if (Dtype == ALLMREC_F32) return store(static_cast<float*>(p) + i, v);
  uint16_t* half = static_cast<uint16_t*>(p) + i;
  return Dtype == ALLMREC_F16 ? store_f16(half, v) : store_bf16(half, v);
}
template <int32_t Dtype>
ALLMREC_INLINE void put_as(void* p, int64_t i, Vec v, Part part) {
  if (Dtype == ALLMREC_F32) return store_n(static_cast<float*>(p) + i, v, part.count);
  uint16_t* half = static_cast<uint16_t*>(p) + i;
  return Dtype == ALLMREC_F16 ? store_f16_n(half, v, part.count) : store_bf16_n(half, v, part.count);
}

template <int32_t From, int32_t To>
inline void convert_between(const void* x, void* y, int64_t n) {
  sweep(n, [&](int64_t i, auto lanes) { put_as<To>(y, i, get_as<From>(x, i, lanes), lanes); });
}

// n elements of x to the dtype of y; F32, F16 and BF16.
inline void convert(const void* x, int32_t x_dtype, void* y, int32_t y_dtype, int64_t n) {
  if (x_dtype == y_dtype) {
    if (n > 0) std::memmove(y, x, static_cast<size_t>(n * size_of(x_dtype)));
  } else if (x_dtype == ALLMREC_F32) {
    y_dtype == ALLMREC_F16 ? convert_between<ALLMREC_F32, ALLMREC_F16>(x, y, n)
                           : convert_between<ALLMREC_F32, ALLMREC_BF16>(x, y, n);
  } else if (x_dtype == ALLMREC_F16) {
    y_dtype == ALLMREC_F32 ? convert_between<ALLMREC_F16, ALLMREC_F32>(x, y, n)
                           : convert_between<ALLMREC_F16, ALLMREC_BF16>(x, y, n);
  } else {
    y_dtype == ALLMREC_F32 ? convert_between<ALLMREC_BF16, ALLMREC_F32>(x, y, n)
                           : convert_between<ALLMREC_BF16, ALLMREC_F16>(x, y, n);
  }
}

constexpr int64_t kGroup = 32;  // elements of an I4 group

// Elements begin … begin + n − 1 of a row of I8 or I4 quants with rows of `cols` elements. Of I4 `to` is
// given whole groups: begin is rounded down to one and n up, so `to` needs 2 · kGroup floats more than n.
// Returns where element `begin` lies in it.
inline const float* dequantize(const void* quants, const void* scales, int32_t dtype, int64_t cols,
                               int64_t row, int64_t begin, int64_t n, float* to) {
  if (dtype == ALLMREC_I8) {
    const int8_t* q = static_cast<const int8_t*>(quants) + row * cols + begin;
    const float scale = static_cast<const float*>(scales)[row];
    for (int64_t i = 0; i < n; ++i) to[i] = static_cast<float>(q[i]) * scale;
    return to;
  }
  const int64_t groups = cols / kGroup, first = begin / kGroup, last = (begin + n + kGroup - 1) / kGroup;
  float* out = to;
  for (int64_t group = first; group < last; ++group, out += kGroup) {
    const uint8_t* q = static_cast<const uint8_t*>(quants) + (row * groups + group) * (kGroup / 2);
    const float scale = f16_to_float(static_cast<const uint16_t*>(scales)[row * groups + group]);
    for (int j = 0; j < kGroup / 2; ++j) {
      out[j] = static_cast<float>((q[j] & 15) - 8) * scale;
      out[j + kGroup / 2] = static_cast<float>((q[j] >> 4) - 8) * scale;
    }
  }
  return to + (begin - first * kGroup);
}

}  // namespace
}  // namespace allmrec::cpu::ALLMREC_ISA
