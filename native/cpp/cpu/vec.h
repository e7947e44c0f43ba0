#pragma once

// A vector of floats as wide as the instruction set this file is compiled for: 16 lanes (AVX-512), 8 (AVX2)
// or 4 (anything with GCC/Clang vector extensions: SSE2, NEON). Arithmetic uses the plain operators + − * /
// and comparisons, which give an IVec of 0 / −1 for `blend`; here is what the operators cannot say.
// Everything lives in an anonymous namespace inside the set's own, so that no function compiled for a wide
// set is ever picked by the linker for a narrow one.

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__) || defined(__AVX512F__)
#if defined(__GNUC__) && \
    !defined(__clang__)  // GCC 12 takes its own _mm512_undefined_ps for an uninitialised read
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#endif

#if defined(__aarch64__)
#include <arm_neon.h>
#endif

#ifndef ALLMREC_ISA
#error "compile kernels with -DALLMREC_ISA=generic|avx2|avx512"
#endif

namespace allmrec::cpu::ALLMREC_ISA {
namespace {

#if defined(__AVX512F__)
#define ALLMREC_LANES 16
#elif defined(__AVX2__)
#define ALLMREC_LANES 8
#else
#define ALLMREC_LANES 4
#endif

constexpr int kLanes = ALLMREC_LANES;

typedef float Vec __attribute__((vector_size(4 * ALLMREC_LANES)));
typedef int32_t IVec __attribute__((vector_size(4 * ALLMREC_LANES)));
typedef uint32_t UVec __attribute__((vector_size(4 * ALLMREC_LANES)));
// For unaligned memory accesses of any type.
typedef float VecU __attribute__((vector_size(4 * ALLMREC_LANES), aligned(4), may_alias));
typedef int32_t IVecU __attribute__((vector_size(4 * ALLMREC_LANES), aligned(4), may_alias));

#define ALLMREC_INLINE static inline __attribute__((always_inline, unused))

ALLMREC_INLINE Vec broadcast(float x) {
  return x - Vec{};
}
ALLMREC_INLINE IVec broadcast_i(int32_t x) {
  return x - IVec{};
}
ALLMREC_INLINE Vec zero() {
  return Vec{};
}

ALLMREC_INLINE Vec load(const float* p) {
  return *reinterpret_cast<const VecU*>(p);
}
ALLMREC_INLINE void store(float* p, Vec v) {
  *reinterpret_cast<VecU*>(p) = v;
}
ALLMREC_INLINE IVec load_i(const int32_t* p) {
  return *reinterpret_cast<const IVecU*>(p);
}
ALLMREC_INLINE void store_i(int32_t* p, IVec v) {
  *reinterpret_cast<IVecU*>(p) = v;
}

// Bits unchanged; and values converted (to_int truncates, round_to_int takes the nearest, ties to even).
ALLMREC_INLINE IVec as_int(Vec v) {
  return reinterpret_cast<IVec>(v);
}
ALLMREC_INLINE Vec as_float(IVec v) {
  return reinterpret_cast<Vec>(v);
}
ALLMREC_INLINE Vec to_float(IVec v) {
  return __builtin_convertvector(v, Vec);
}
ALLMREC_INLINE IVec to_int(Vec v) {
  return __builtin_convertvector(v, IVec);
}

// 0, 1, 2, …
ALLMREC_INLINE IVec iota() {
  IVec v{};
  for (int i = 0; i < kLanes; ++i) v[i] = i;
  return v;
}

// mask ? a : b, lane by lane, mask from a comparison.
ALLMREC_INLINE Vec blend(IVec mask, Vec a, Vec b) {
  return mask ? a : b;
}
ALLMREC_INLINE IVec blend(IVec mask, IVec a, IVec b) {
  return mask ? a : b;
}

ALLMREC_INLINE Vec abs(Vec v) {
  return as_float(as_int(v) & 0x7fffffff);
}

#if ALLMREC_LANES == 16

ALLMREC_INLINE __mmask16 first_lanes(int64_t n) {
  return static_cast<__mmask16>(n >= 16 ? 0xffffu : n <= 0 ? 0u : (1u << n) - 1u);
}
// The first n lanes (any n; none below 1, all from kLanes on); the others are zero and not touched in memory.
ALLMREC_INLINE Vec load_n(const float* p, int64_t n) {
  return _mm512_maskz_loadu_ps(first_lanes(n), p);
}
ALLMREC_INLINE void store_n(float* p, Vec v, int64_t n) {
  _mm512_mask_storeu_ps(p, first_lanes(n), v);
}
ALLMREC_INLINE IVec load_i_n(const int32_t* p, int64_t n) {
  return (IVec)_mm512_maskz_loadu_epi32(first_lanes(n), p);
}
ALLMREC_INLINE Vec fma(Vec a, Vec b, Vec c) {
  return _mm512_fmadd_ps(a, b, c);
}
ALLMREC_INLINE Vec max(Vec a, Vec b) {
  return _mm512_max_ps(a, b);
}
ALLMREC_INLINE Vec min(Vec a, Vec b) {
  return _mm512_min_ps(a, b);
}
ALLMREC_INLINE Vec sqrt(Vec a) {
  return _mm512_sqrt_ps(a);
}
ALLMREC_INLINE Vec round(Vec a) {
  return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
ALLMREC_INLINE IVec round_to_int(Vec a) {
  return (IVec)_mm512_cvtps_epi32(a);
}
ALLMREC_INLINE Vec load_f16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
ALLMREC_INLINE Vec load_bf16(const uint16_t* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

#elif ALLMREC_LANES == 8

ALLMREC_INLINE __m256i first_lanes(int64_t n) {
  const int32_t count = static_cast<int32_t>(n > 8 ? 8 : n);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
ALLMREC_INLINE Vec load_n(const float* p, int64_t n) {
  return _mm256_maskload_ps(p, first_lanes(n));
}
ALLMREC_INLINE void store_n(float* p, Vec v, int64_t n) {
  _mm256_maskstore_ps(p, first_lanes(n), v);
}
ALLMREC_INLINE IVec load_i_n(const int32_t* p, int64_t n) {
  return (IVec)_mm256_maskload_epi32(reinterpret_cast<const int*>(p), first_lanes(n));
}
ALLMREC_INLINE Vec fma(Vec a, Vec b, Vec c) {
  return _mm256_fmadd_ps(a, b, c);
}
ALLMREC_INLINE Vec max(Vec a, Vec b) {
  return _mm256_max_ps(a, b);
}
ALLMREC_INLINE Vec min(Vec a, Vec b) {
  return _mm256_min_ps(a, b);
}
ALLMREC_INLINE Vec sqrt(Vec a) {
  return _mm256_sqrt_ps(a);
}
ALLMREC_INLINE Vec round(Vec a) {
  return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
ALLMREC_INLINE IVec round_to_int(Vec a) {
  return (IVec)_mm256_cvtps_epi32(a);
}
ALLMREC_INLINE Vec load_f16(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
ALLMREC_INLINE Vec load_bf16(const uint16_t* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

#else

ALLMREC_INLINE Vec load_n(const float* p, int64_t n) {
  Vec v{};
  for (int i = 0; i < kLanes && i < n; ++i) v[i] = p[i];
  return v;
}
ALLMREC_INLINE void store_n(float* p, Vec v, int64_t n) {
  for (int i = 0; i < kLanes && i < n; ++i) p[i] = v[i];
}
ALLMREC_INLINE IVec load_i_n(const int32_t* p, int64_t n) {
  IVec v{};
  for (int i = 0; i < kLanes && i < n; ++i) v[i] = p[i];
  return v;
}
#if defined(__aarch64__)
// Said outright: what the compiler makes of a · b + c depends on what stands around it.
ALLMREC_INLINE Vec fma(Vec a, Vec b, Vec c) {
  return vfmaq_f32(c, a, b);
}
#else
ALLMREC_INLINE Vec fma(Vec a, Vec b, Vec c) {
  return a * b + c;
}
#endif
ALLMREC_INLINE Vec max(Vec a, Vec b) {
  return a > b ? a : b;
}
ALLMREC_INLINE Vec min(Vec a, Vec b) {
  return a < b ? a : b;
}
ALLMREC_INLINE Vec sqrt(Vec a) {
  for (int i = 0; i < kLanes; ++i) a[i] = __builtin_sqrtf(a[i]);
  return a;
}
// Adding and taking away 1.5 · 2^23 leaves the nearest integer, below 2^22; larger values are integers to
// callers.
ALLMREC_INLINE Vec round(Vec a) {
  const Vec magic = broadcast(12582912.0f);
  return blend(abs(a) < 4194304.0f, (a + magic) - magic, a);
}
ALLMREC_INLINE IVec round_to_int(Vec a) {
  return to_int(round(a));
}

#endif

// One value of a half or a bfloat16 given by its bits.
ALLMREC_INLINE float bf16_to_float(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}
ALLMREC_INLINE float f16_to_float(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t magnitude = bits & 0x7fffu;
  uint32_t wide;
  float value;
  if (magnitude >= 0x7c00u) {  // infinity, NaN
    wide = sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13);
  } else if (magnitude >= 0x400u) {
    wide = sign | ((magnitude << 13) + 0x38000000u);
  } else {  // subnormal: an integer times 2^-24
    value = static_cast<float>(magnitude) * 5.9604644775390625e-8f;
    return sign ? -value : value;
  }
  std::memcpy(&value, &wide, 4);
  return value;
}

#if ALLMREC_LANES == 4
ALLMREC_INLINE Vec load_f16(const uint16_t* p) {
  Vec v{};
  for (int i = 0; i < kLanes; ++i) v[i] = f16_to_float(p[i]);
  return v;
}
ALLMREC_INLINE Vec load_bf16(const uint16_t* p) {
  IVec v{};
  for (int i = 0; i < kLanes; ++i) v[i] = static_cast<int32_t>(static_cast<uint32_t>(p[i]) << 16);
  return as_float(v);
}
#endif

#if ALLMREC_LANES == 16
ALLMREC_INLINE Vec load_f16_n(const uint16_t* p, int64_t n) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(n), p));
}
ALLMREC_INLINE Vec load_bf16_n(const uint16_t* p, int64_t n) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first_lanes(n), p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
#else
ALLMREC_INLINE Vec load_f16_n(const uint16_t* p, int64_t n) {
  uint16_t bits[kLanes] = {};
  if (n > kLanes) n = kLanes;
  if (n > 0) std::memcpy(bits, p, static_cast<size_t>(n) * 2);
  return load_f16(bits);
}
ALLMREC_INLINE Vec load_bf16_n(const uint16_t* p, int64_t n) {
  uint16_t bits[kLanes] = {};
  if (n > kLanes) n = kLanes;
  if (n > 0) std::memcpy(bits, p, static_cast<size_t>(n) * 2);
  return load_bf16(bits);
}
#endif

// Rounded to nearest even; NaN stays a quiet NaN.
ALLMREC_INLINE uint16_t float_to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
ALLMREC_INLINE uint16_t float_to_f16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  uint32_t rounded;
  if (magnitude > 0x7f800000u) {
    rounded = 0x7e00u | (magnitude >> 13 & 0x3ffu);
  } else if (magnitude >= 0x477ff000u) {  // 65520 and up is infinity
    rounded = 0x7c00u;
  } else if (magnitude < 0x33000000u) {  // below half of 2^-24
    rounded = 0;
  } else {
    // A subnormal half counts units of 2^-24.
    const bool subnormal = magnitude < 0x38800000u;
    const uint32_t significand = subnormal ? (magnitude & 0x7fffffu) | 0x800000u : magnitude - (112u << 23);
    const uint32_t shift = subnormal ? 126u - (magnitude >> 23) : 13u;
    rounded = (significand + (1u << (shift - 1)) - 1 + (significand >> shift & 1u)) >> shift;
  }
  return static_cast<uint16_t>(sign | rounded);
}

#if ALLMREC_LANES == 16
ALLMREC_INLINE void store_f16(uint16_t* p, Vec v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#elif ALLMREC_LANES == 8
ALLMREC_INLINE void store_f16(uint16_t* p, Vec v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#else
ALLMREC_INLINE void store_f16(uint16_t* p, Vec v) {
  for (int i = 0; i < kLanes; ++i) p[i] = float_to_f16(v[i]);
}
#endif
ALLMREC_INLINE void store_bf16(uint16_t* p, Vec v) {
  typedef uint16_t Halves __attribute__((vector_size(2 * ALLMREC_LANES)));
  const UVec bits = reinterpret_cast<UVec>(v);
  const UVec rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  const UVec quiet = bits >> 16 | 0x40u;
  const Halves halves = __builtin_convertvector(v != v ? quiet : rounded, Halves);
  std::memcpy(p, &halves, sizeof halves);
}
ALLMREC_INLINE void store_f16_n(uint16_t* p, Vec v, int64_t n) {
  uint16_t bits[kLanes];
  store_f16(bits, v);
  if (n > 0) std::memcpy(p, bits, static_cast<size_t>(n < kLanes ? n : kLanes) * 2);
}
ALLMREC_INLINE void store_bf16_n(uint16_t* p, Vec v, int64_t n) {
  uint16_t bits[kLanes];
  store_bf16(bits, v);
  if (n > 0) std::memcpy(p, bits, static_cast<size_t>(n < kLanes ? n : kLanes) * 2);
}

#if ALLMREC_LANES == 16
// Instructions that not every processor with the set has: ask Kernels::extras first. They are written out so
// that the files stay compiled for those without.
typedef float HalfVec __attribute__((vector_size(32)));

// c + the products of two pairs of bfloat16 in each 32-bit lane.
ALLMREC_INLINE Vec dot_bf16(Vec a, Vec b, Vec c) {
  __asm__("vdpbf16ps %2, %1, %0" : "+v"(c) : "v"(a), "v"(b));
  return c;
}
ALLMREC_INLINE HalfVec dot_bf16(HalfVec a, HalfVec b, HalfVec c) {
  __asm__("vdpbf16ps %2, %1, %0" : "+v"(c) : "v"(a), "v"(b));
  return c;
}
// 32 bfloat16: the lanes of low, then those of high.
ALLMREC_INLINE Vec round_to_bf16(Vec low, Vec high) {
  Vec both;
  __asm__("vcvtne2ps2bf16 %2, %1, %0" : "=v"(both) : "v"(high), "v"(low));
  return both;
}
// c + the products of four unsigned bytes of a with four signed ones of b in each 32-bit lane.
ALLMREC_INLINE IVec dot_bytes(IVec a, IVec b, IVec c) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(c) : "v"(a), "v"(b));
  return c;
}
#endif

// The kernels' activations are float32: half ones are widened before (half_adapter.h).
ALLMREC_INLINE const float* f32(const void* p) {
  return static_cast<const float*>(p);
}
ALLMREC_INLINE float* f32(void* p) {
  return static_cast<float*>(p);
}

// Over the lanes of one vector, always in the same tree: the upper half onto the lower.
#if ALLMREC_LANES == 16
ALLMREC_INLINE float horizontal_sum(Vec v) {
  return _mm512_reduce_add_ps(v);
}
ALLMREC_INLINE float horizontal_max(Vec v) {
  return _mm512_reduce_max_ps(v);
}
#else
#if ALLMREC_LANES == 8
typedef float Quad __attribute__((vector_size(16)));
ALLMREC_INLINE Quad lower_half(Vec v) {
  return _mm256_castps256_ps128(v);
}
ALLMREC_INLINE Quad upper_half(Vec v) {
  return _mm256_extractf128_ps(v, 1);
}
ALLMREC_INLINE Quad fold_sum(Vec v) {
  return lower_half(v) + upper_half(v);
}
ALLMREC_INLINE Quad fold_max(Vec v) {
  return _mm_max_ps(lower_half(v), upper_half(v));
}
#else
ALLMREC_INLINE Vec fold_sum(Vec v) {
  return v;
}
ALLMREC_INLINE Vec fold_max(Vec v) {
  return v;
}
#endif
ALLMREC_INLINE float horizontal_sum(Vec v) {
  const auto q = fold_sum(v);
  return (q[0] + q[2]) + (q[1] + q[3]);
}
ALLMREC_INLINE float horizontal_max(Vec v) {
  const auto q = fold_max(v);
  const float a = q[0] > q[2] ? q[0] : q[2];
  const float b = q[1] > q[3] ? q[1] : q[3];
  return a > b ? a : b;
}
#endif

}  // namespace
}  // namespace allmrec::cpu::ALLMREC_ISA
