#pragma once

// CUDA's arithmetic beyond <math.h>. The fast functions are the exact ones here: a kernel's tolerance has to
// leave room for the card's.

#include <assert.h>
#include <math.h>
#include <stdio.h>

#include <cmath>

#include "types.h"

namespace allmrec::emulator {

template <typename To, typename From>
inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "the same size");
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

inline float saturating(double low, double x, double high) {
  return static_cast<float>(x < low ? low : x > high ? high : x);
}

}  // namespace allmrec::emulator

// The C library declares functions of these names for itself.
#define __expf(x) ::expf(x)
#define __exp10f(x) ::exp2f(3.321928094887362f * (x))
#define __logf(x) ::logf(x)
#define __log2f(x) ::log2f(x)
#define __log10f(x) ::log10f(x)
#define __sinf(x) ::sinf(x)
#define __cosf(x) ::cosf(x)
#define __tanf(x) ::tanf(x)
#define __powf(x, y) ::powf(x, y)

inline float __fdividef(float x, float y) {
  return x / y;
}
inline float __fadd_rn(float x, float y) {
  return x + y;
}
inline float __fsub_rn(float x, float y) {
  return x - y;
}
inline float __fmul_rn(float x, float y) {
  return x * y;
}
inline float __fdiv_rn(float x, float y) {
  return x / y;
}
inline float __frcp_rn(float x) {
  return 1.0f / x;
}
inline float __fsqrt_rn(float x) {
  return sqrtf(x);
}
inline float __frsqrt_rn(float x) {
  return static_cast<float>(1.0 / sqrt(static_cast<double>(x)));
}
inline float __fmaf_rn(float x, float y, float z) {
  return fmaf(x, y, z);
}
inline float __saturatef(float x) {
  return x > 0 ? (x < 1 ? x : 1.0f) : 0.0f;
}  // NaN gives 0
inline float rsqrtf(float x) {
  return __frsqrt_rn(x);
}
inline double rsqrt(double x) {
  return 1.0 / sqrt(x);
}
inline float normcdff(float x) {
  return 0.5f * erfcf(-0.70710678118654752f * x);
}
inline float rnorm3df(float x, float y, float z) {
  return rsqrtf(x * x + y * y + z * z);
}

inline unsigned __float_as_uint(float x) {
  return allmrec::emulator::bit_cast<unsigned>(x);
}
inline int __float_as_int(float x) {
  return allmrec::emulator::bit_cast<int>(x);
}
inline float __uint_as_float(unsigned x) {
  return allmrec::emulator::bit_cast<float>(x);
}
inline float __int_as_float(int x) {
  return allmrec::emulator::bit_cast<float>(x);
}
inline long long __double_as_longlong(double x) {
  return allmrec::emulator::bit_cast<long long>(x);
}
inline double __longlong_as_double(long long x) {
  return allmrec::emulator::bit_cast<double>(x);
}
inline int __float2int_rn(float x) {
  return x != x                ? 0
         : x >= 2147483648.0f  ? 2147483647
         : x <= -2147483648.0f ? -2147483647 - 1
                               : static_cast<int>(nearbyintf(x));
}
inline int __float2int_rz(float x) {
  return x != x                ? 0
         : x >= 2147483648.0f  ? 2147483647
         : x <= -2147483648.0f ? -2147483647 - 1
                               : static_cast<int>(x);
}
inline int __float2int_rd(float x) {
  return __float2int_rz(floorf(x));
}
inline int __float2int_ru(float x) {
  return __float2int_rz(ceilf(x));
}
inline float __int2float_rn(int x) {
  return static_cast<float>(x);
}
inline float __uint2float_rn(unsigned x) {
  return static_cast<float>(x);
}

inline int __popc(unsigned x) {
  return __builtin_popcount(x);
}
inline int __popcll(unsigned long long x) {
  return __builtin_popcountll(x);
}
inline int __ffs(int x) {
  return __builtin_ffs(x);
}
inline int __ffsll(long long x) {
  return __builtin_ffsll(x);
}
inline int __clz(int x) {
  return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x));
}
inline int __clzll(long long x) {
  return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x));
}
inline unsigned __brev(unsigned x) {
  x = (x >> 1 & 0x55555555u) | (x & 0x55555555u) << 1;
  x = (x >> 2 & 0x33333333u) | (x & 0x33333333u) << 2;
  x = (x >> 4 & 0x0f0f0f0fu) | (x & 0x0f0f0f0fu) << 4;
  return __builtin_bswap32(x);
}
inline unsigned __umulhi(unsigned x, unsigned y) {
  return static_cast<unsigned>(static_cast<uint64_t>(x) * y >> 32);
}
inline int __mulhi(int x, int y) {
  return static_cast<int>(static_cast<int64_t>(x) * y >> 32);
}
inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<unsigned long long>(static_cast<Wide>(x) * y >> 64);
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>(((static_cast<uint64_t>(high) << 32 | low) << (shift & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((static_cast<uint64_t>(high) << 32 | low) >> (shift & 31));
}
// Byte i of the result is the byte of y:x that nibble i of the selector names; the nibble's top bit spreads
// that byte's sign instead.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t both = static_cast<uint64_t>(y) << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned nibble = selector >> (4 * i) & 15;
    unsigned byte = static_cast<unsigned>(both >> (8 * (nibble & 7))) & 255;
    if (nibble & 8) byte = byte & 128 ? 255 : 0;
    result |= byte << (8 * i);
  }
  return result;
}
inline int __dp4a(int a, int b, int c) {
  uint32_t sum = static_cast<uint32_t>(c);  // wraps, as the instruction does
  for (int i = 0; i < 4; ++i) {
    const auto x = static_cast<signed char>(a >> (8 * i)), y = static_cast<signed char>(b >> (8 * i));
    sum += static_cast<uint32_t>(x * y);
  }
  return static_cast<int>(sum);
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  for (int i = 0; i < 4; ++i) c += (a >> (8 * i) & 255) * (b >> (8 * i) & 255);
  return c;
}

#define ALLMREC_EMULATOR_MIN_MAX(T, A, B)                                                 \
  inline T min(A a, B b) {                                                                \
    return static_cast<T>(b) < static_cast<T>(a) ? static_cast<T>(b) : static_cast<T>(a); \
  }                                                                                       \
  inline T max(A a, B b) {                                                                \
    return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(b) : static_cast<T>(a); \
  }
ALLMREC_EMULATOR_MIN_MAX(int, int, int)
ALLMREC_EMULATOR_MIN_MAX(unsigned, unsigned, unsigned)
ALLMREC_EMULATOR_MIN_MAX(unsigned, int, unsigned)
ALLMREC_EMULATOR_MIN_MAX(unsigned, unsigned, int)
ALLMREC_EMULATOR_MIN_MAX(long, long, long)
ALLMREC_EMULATOR_MIN_MAX(unsigned long, unsigned long, unsigned long)
ALLMREC_EMULATOR_MIN_MAX(unsigned long, long, unsigned long)
ALLMREC_EMULATOR_MIN_MAX(unsigned long, unsigned long, long)
ALLMREC_EMULATOR_MIN_MAX(long long, long long, long long)
ALLMREC_EMULATOR_MIN_MAX(unsigned long long, unsigned long long, unsigned long long)
#undef ALLMREC_EMULATOR_MIN_MAX
// One NaN gives the other argument, as fmin and fmax do.
inline float min(float a, float b) {
  return fminf(a, b);
}
inline float max(float a, float b) {
  return fmaxf(a, b);
}
inline double min(double a, double b) {
  return fmin(a, b);
}
inline double max(double a, double b) {
  return fmax(a, b);
}
inline double min(float a, double b) {
  return fmin(static_cast<double>(a), b);
}
inline double max(float a, double b) {
  return fmax(static_cast<double>(a), b);
}
inline double min(double a, float b) {
  return fmin(a, static_cast<double>(b));
}
inline double max(double a, float b) {
  return fmax(a, static_cast<double>(b));
}
