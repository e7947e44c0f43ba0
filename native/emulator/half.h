#pragma once

// 16-bit floats: conversions only. Kernels compute in float32.

#include "types.h"

namespace allmrec::emulator {

uint16_t half_from_float(float value);  // to nearest even
float half_to_float(uint16_t bits);

inline uint16_t bfloat16_from_float(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  // As the card does: every NaN becomes the one NaN 0x7fff.
  if (value != value) return 0x7fff;
  const uint32_t odd = bits >> 16 & 1;
  return static_cast<uint16_t>((bits + 0x7fff + odd) >> 16);
}
inline float bfloat16_to_float(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  __builtin_memcpy(&value, &wide, sizeof value);
  return value;
}

}  // namespace allmrec::emulator

inline float __half2float(__half x) {
  return allmrec::emulator::half_to_float(x.bits);
}
inline __half __float2half_rn(float x) {
  return {allmrec::emulator::half_from_float(x)};
}
inline __half __float2half(float x) {
  return __float2half_rn(x);
}
inline unsigned short __half_as_ushort(__half x) {
  return x.bits;
}
inline short __half_as_short(__half x) {
  return static_cast<short>(x.bits);
}
inline __half __ushort_as_half(unsigned short x) {
  return {x};
}
inline __half __short_as_half(short x) {
  return {static_cast<uint16_t>(x)};
}
inline __half2 __halves2half2(__half low, __half high) {
  return {low, high};
}
inline __half2 __floats2half2_rn(float low, float high) {
  return {__float2half_rn(low), __float2half_rn(high)};
}
inline __half2 __float22half2_rn(float2 x) {
  return __floats2half2_rn(x.x, x.y);
}
inline __half2 __float2half2_rn(float x) {
  return __floats2half2_rn(x, x);
}
inline float2 __half22float2(__half2 x) {
  return {__half2float(x.x), __half2float(x.y)};
}
inline float __low2float(__half2 x) {
  return __half2float(x.x);
}
inline float __high2float(__half2 x) {
  return __half2float(x.y);
}
inline __half __low2half(__half2 x) {
  return x.x;
}
inline __half __high2half(__half2 x) {
  return x.y;
}

inline float __bfloat162float(__nv_bfloat16 x) {
  return allmrec::emulator::bfloat16_to_float(x.bits);
}
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  return {allmrec::emulator::bfloat16_from_float(x)};
}
inline __nv_bfloat16 __float2bfloat16(float x) {
  return __float2bfloat16_rn(x);
}
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) {
  return x.bits;
}
inline short __bfloat16_as_short(__nv_bfloat16 x) {
  return static_cast<short>(x.bits);
}
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short x) {
  return {x};
}
inline __nv_bfloat16 __short_as_bfloat16(short x) {
  return {static_cast<uint16_t>(x)};
}
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 low, __nv_bfloat16 high) {
  return {low, high};
}
inline __nv_bfloat162 __floats2bfloat162_rn(float low, float high) {
  return {__float2bfloat16_rn(low), __float2bfloat16_rn(high)};
}
inline __nv_bfloat162 __float22bfloat162_rn(float2 x) {
  return __floats2bfloat162_rn(x.x, x.y);
}
inline float2 __bfloat1622float2(__nv_bfloat162 x) {
  return {__bfloat162float(x.x), __bfloat162float(x.y)};
}
inline float __low2float(__nv_bfloat162 x) {
  return __bfloat162float(x.x);
}
inline float __high2float(__nv_bfloat162 x) {
  return __bfloat162float(x.y);
}
