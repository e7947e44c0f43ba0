#pragma once

// What element-wise kernels share: loops over rows that need not be a multiple of the vector's width, the
// elementary functions (relative error about 1e-7; NaN in, NaN out), and Philox bits in bulk for dropout.

#include "../backend/backend.h"
#include "../core/philox.h"
#include "vec.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace allmrec::cpu::ALLMREC_ISA {
namespace {

// --- Loops
// ------------------------------------------------------------------------------------------------------- A
// kernel's body is written once and instantiated for whole vectors and for the last, partial one.

struct Whole {};
struct Part {
  int64_t count;  // 1 … kLanes − 1
};

ALLMREC_INLINE Vec get(const float* p, Whole) {
  return load(p);
}
ALLMREC_INLINE Vec get(const float* p, Part part) {
  return load_n(p, part.count);
}
ALLMREC_INLINE void put(float* p, Vec v, Whole) {
  store(p, v);
}
ALLMREC_INLINE void put(float* p, Vec v, Part part) {
  store_n(p, v, part.count);
}
// Zeroes the lanes that do not exist, before they enter a sum.
ALLMREC_INLINE Vec keep(Vec v, Whole) {
  return v;
}
ALLMREC_INLINE Vec keep(Vec v, Part part) {
  return blend(iota() < static_cast<int32_t>(part.count), v, zero());
}

// The same with another value than zero.
ALLMREC_INLINE Vec keep_or(Vec v, float, Whole) {
  return v;
}
ALLMREC_INLINE Vec keep_or(Vec v, float other, Part part) {
  return blend(iota() < static_cast<int32_t>(part.count), v, broadcast(other));
}

// body(i, lanes) for every vector of [0, n).
template <typename Body>
ALLMREC_INLINE void sweep(int64_t n, Body&& body) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, Whole{});
  if (i < n) body(i, Part{n - i});
}

// Sum of term(i, lanes) over [0, n). Four accumulators hide the latency of the addition; the order is fixed
// by n.
template <typename Term>
ALLMREC_INLINE float sum_over(int64_t n, Term&& term) {
  Vec s0 = zero(), s1 = zero(), s2 = zero(), s3 = zero();
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    s0 += term(i, Whole{});
    s1 += term(i + kLanes, Whole{});
    s2 += term(i + 2 * kLanes, Whole{});
    s3 += term(i + 3 * kLanes, Whole{});
  }
  for (; i + kLanes <= n; i += kLanes) s0 += term(i, Whole{});
  if (i < n) s1 += keep(term(i, Part{n - i}), Part{n - i});
  return horizontal_sum((s0 + s1) + (s2 + s3));
}

// The same in float64, for losses and norms: lanes are summed in float32 over runs of 1,024 elements only.
template <typename Term>
ALLMREC_INLINE double sum_over_double(int64_t n, Term&& term) {
  constexpr int64_t kRun = 1024;
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kRun)
    total += sum_over(n - begin < kRun ? n - begin : kRun,
                      [&](int64_t i, auto lanes) { return term(begin + i, lanes); });
  return total;
}

// --- Elementary functions
// ----------------------------------------------------------------------------------------

ALLMREC_INLINE Vec copy_sign(Vec magnitude, Vec sign) {
  return as_float((as_int(magnitude) & 0x7fffffff) | (as_int(sign) & static_cast<int32_t>(0x80000000u)));
}

// e^x = 2^n · e^r, |r| <= ln 2 / 2; e^r by Cephes' polynomial of degree 7. Overflows to infinity, underflows
// gradually.
ALLMREC_INLINE Vec exp(Vec x) {
  // min and max give their second argument when one is NaN, so NaN passes.
  x = max(broadcast(-104.0f), min(broadcast(89.0f), x));
  const Vec n = round(x * 1.44269504088896341f);
  Vec r = fma(n, broadcast(-0.693359375f), x);  // ln 2 in two parts; the first product is exact
  r = fma(n, broadcast(2.12194440e-4f), r);
  Vec p = fma(broadcast(1.9875691500e-4f), r, broadcast(1.3981999507e-3f));
  p = fma(p, r, broadcast(8.3334519073e-3f));
  p = fma(p, r, broadcast(4.1665795894e-2f));
  p = fma(p, r, broadcast(1.6666665459e-1f));
  p = fma(p, r, broadcast(5.0000001201e-1f));
  const Vec y = fma(p, r * r, r) + 1.0f;
#if ALLMREC_LANES == 16
  return _mm512_scalef_ps(y, n);
#else
  const IVec exponent = round_to_int(n);  // −150 … 128: in two steps, each a normal power of two
  const IVec half = exponent >> 1;
  return y * as_float((half + 127) << 23) * as_float((exponent - half + 127) << 23);
#endif
}

// 2^x for x <= 127, relative error 8e-8: 2^n by the exponent, 2^r, |r| <= ½, by a minimax polynomial with the
// constant 1. −∞ gives 0.
ALLMREC_INLINE Vec exp2(Vec x) {
  x = max(broadcast(-150.0f), x);  // NaN, the second argument, passes
  const Vec n = round(x);
  const Vec r = x - n;
  Vec p = fma(broadcast(1.5353361947e-4f), r, broadcast(1.3398874404e-3f));
  p = fma(p, r, broadcast(9.6184373574e-3f));
  p = fma(p, r, broadcast(5.5503324712e-2f));
  p = fma(p, r, broadcast(2.4022647914e-1f));
  p = fma(p, r, broadcast(6.9314720286e-1f));
  const Vec y = fma(p, r, broadcast(1.0f));
#if ALLMREC_LANES == 16
  return _mm512_scalef_ps(y, n);
#else
  const IVec exponent = round_to_int(n);  // in two steps, each a normal power of two
  const IVec half = exponent >> 1;
  return y * as_float((half + 127) << 23) * as_float((exponent - half + 127) << 23);
#endif
}

// ln x: x = m · 2^e, m in [√½, √2), Cephes' polynomial in m − 1.
ALLMREC_INLINE Vec log(Vec x) {
  const IVec tiny = x < 1.17549435e-38f;
  const Vec scaled = blend(tiny, x * 8388608.0f, x);  // subnormals · 2^23
  const IVec bits = as_int(scaled) - 0x3f3504f3;      // exponent counted from √½
  const Vec e = to_float((bits >> 23) - (tiny & 23));
  const Vec f = as_float((bits & 0x007fffff) + 0x3f3504f3) - 1.0f;
  Vec p = fma(broadcast(7.0376836292e-2f), f, broadcast(-1.1514610310e-1f));
  p = fma(p, f, broadcast(1.1676998740e-1f));
  p = fma(p, f, broadcast(-1.2420140846e-1f));
  p = fma(p, f, broadcast(1.4249322787e-1f));
  p = fma(p, f, broadcast(-1.6668057665e-1f));
  p = fma(p, f, broadcast(2.0000714765e-1f));
  p = fma(p, f, broadcast(-2.4999993993e-1f));
  p = fma(p, f, broadcast(3.3333331174e-1f));
  const Vec square = f * f;
  Vec y = p * f * square;
  y = fma(e, broadcast(-2.12194440e-4f), y);
  y = fma(square, broadcast(-0.5f), y);
  y = fma(e, broadcast(0.693359375f), f + y);
  const Vec infinity = broadcast(__builtin_inff());
  y = blend(x == infinity, infinity, y);
  y = blend(x == 0.0f, -infinity, y);
  return blend(x >= 0.0f, y, broadcast(__builtin_nanf("")));  // negative or NaN
}

// ln(1 + x) for 0 <= x <= 1: the rounding of 1 + x is put right to first order.
ALLMREC_INLINE Vec log1p_unit(Vec x) {
  const Vec u = 1.0f + x;
  return log(u) + (x - (u - 1.0f)) / u;
}

ALLMREC_INLINE Vec sigmoid(Vec x) {
  return 1.0f / (1.0f + exp(-x));
}

// Odd polynomial below 0.625, 1 − 2 / (e^2|x| + 1) above (Cephes).
ALLMREC_INLINE Vec tanh(Vec x) {
  const Vec a = abs(x);
  const Vec z = x * x;
  Vec p = fma(broadcast(-5.70498872745e-3f), z, broadcast(2.06390887954e-2f));
  p = fma(p, z, broadcast(-5.37397155531e-2f));
  p = fma(p, z, broadcast(1.33314422036e-1f));
  p = fma(p, z, broadcast(-3.33332819422e-1f));
  const Vec small = fma(p * z, x, x);
  const Vec large = copy_sign(1.0f - 2.0f / (exp(a + a) + 1.0f), x);
  return blend(a < 0.625f, small, large);
}

// Juffa's two ranges, 1 ulp each: x · P(x²) below 0.93, 1 − e^{Q(|x|)} above.
ALLMREC_INLINE Vec erf(Vec x) {
  const Vec t = abs(x);
  const Vec s = x * x;
  Vec q = fma(broadcast(-1.72853470e-5f), t, broadcast(3.83197126e-4f));
  const Vec u = fma(broadcast(-3.88396438e-3f), t, broadcast(2.42546219e-2f));
  q = fma(q, s, u);
  q = fma(q, t, broadcast(-1.06777877e-1f));
  q = fma(q, t, broadcast(-6.34846687e-1f));
  q = fma(q, t, broadcast(-1.28717512e-1f));
  q = fma(q, t, -t);
  // Beyond 4 erf is 1 in float32 and Q, a polynomial, no longer goes to −∞.
  const Vec large = copy_sign(1.0f - exp(blend(t > 4.0f, -s, q)), x);
  Vec p = fma(broadcast(-5.96761703e-4f), s, broadcast(4.99119423e-3f));
  p = fma(p, s, broadcast(-2.67681349e-2f));
  p = fma(p, s, broadcast(1.12819925e-1f));
  p = fma(p, s, broadcast(-3.76125336e-1f));
  p = fma(p, s, broadcast(1.28379166e-1f));
  return blend(t > 0.927734375f, large, fma(p, x, x));
}

// sin and cos of 2πu, 0 <= u < 1: the quadrant is taken off exactly, before the multiplication by π.
ALLMREC_INLINE void sin_cos_turns(Vec u, Vec& sine, Vec& cosine) {
  const Vec quadrant = round(u * 4.0f);
  const Vec t = (u - quadrant * 0.25f) * 6.28318530717958648f;  // −π/4 … π/4
  const Vec z = t * t;
  Vec s = fma(broadcast(-1.9515295891e-4f), z, broadcast(8.3321608736e-3f));
  s = fma(s, z, broadcast(-1.6666654611e-1f));
  s = fma(s * z, t, t);
  Vec c = fma(broadcast(2.443315711809948e-5f), z, broadcast(-1.388731625493765e-3f));
  c = fma(c, z, broadcast(4.166664568298827e-2f));
  c = fma(c, z * z, 1.0f - 0.5f * z);
  const IVec q = round_to_int(quadrant);
  const IVec odd = (q & 1) != 0;
  const Vec sine_magnitude = blend(odd, c, s), cosine_magnitude = blend(odd, s, c);
  sine = blend((q & 2) != 0, -sine_magnitude, sine_magnitude);
  cosine = blend(((q + 1) & 2) != 0, -cosine_magnitude, cosine_magnitude);
}

// --- Philox in bulk
// ---------------------------------------------------------------------------------------------- Each 64-bit
// lane holds one 32-bit word of one counter: the widening multiplication reads the low halves only, so the
// high halves may hold anything until the end. Two vectors go side by side to hide the multiplication's
// latency.

typedef uint64_t LongVec __attribute__((vector_size(4 * ALLMREC_LANES)));
typedef uint64_t LongVecU __attribute__((vector_size(4 * ALLMREC_LANES), aligned(4), may_alias));

constexpr int kPhiloxWays = 2;
constexpr int64_t kPhiloxGroup = kPhiloxWays * kLanes / 2;  // counters at once

ALLMREC_INLINE LongVec multiply_low_halves(LongVec a, uint32_t b) {
  const LongVec factor = static_cast<uint64_t>(b) - LongVec{};
#if ALLMREC_LANES == 16
  return (LongVec)_mm512_mul_epu32((__m512i)a, (__m512i)factor);
#elif ALLMREC_LANES == 8
  return (LongVec)_mm256_mul_epu32((__m256i)a, (__m256i)factor);
#elif defined(__SSE2__)
  return (LongVec)_mm_mul_epu32((__m128i)a, (__m128i)factor);
#else
  return (a & 0xffffffffu) * factor;
#endif
}

// The words (4 per counter) of the kPhiloxGroup counters in c0.
ALLMREC_INLINE void philox_group(uint64_t seed, uint64_t stream, LongVec (&c0)[kPhiloxWays],
                                 uint32_t* words) {
  LongVec c1[kPhiloxWays], c2[kPhiloxWays], c3[kPhiloxWays];
  for (int w = 0; w < kPhiloxWays; ++w) {
    c1[w] = c0[w] >> 32;
    c2[w] = stream - LongVec{};
    c3[w] = c2[w] >> 32;
  }
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    for (int w = 0; w < kPhiloxWays; ++w) {
      const LongVec p0 = multiply_low_halves(c0[w], kPhiloxMultiplier0);
      const LongVec p1 = multiply_low_halves(c2[w], kPhiloxMultiplier1);
      c0[w] = (p1 >> 32) ^ c1[w] ^ static_cast<uint64_t>(k0);
      c1[w] = p1;
      c2[w] = (p0 >> 32) ^ c3[w] ^ static_cast<uint64_t>(k1);
      c3[w] = p0;
    }
    k0 += kPhiloxWeyl0;
    k1 += kPhiloxWeyl1;
  }
  for (int w = 0; w < kPhiloxWays; ++w) {
    const LongVec low = (c0[w] & 0xffffffffu) | (c1[w] << 32);   // words 0, 1 of each counter
    const LongVec high = (c2[w] & 0xffffffffu) | (c3[w] << 32);  // words 2, 3
#if ALLMREC_LANES == 16
    const LongVec a = __builtin_shufflevector(low, high, 0, 8, 1, 9, 2, 10, 3, 11);
    const LongVec b = __builtin_shufflevector(low, high, 4, 12, 5, 13, 6, 14, 7, 15);
#elif ALLMREC_LANES == 8
    const LongVec a = __builtin_shufflevector(low, high, 0, 4, 1, 5);
    const LongVec b = __builtin_shufflevector(low, high, 2, 6, 3, 7);
#else
    const LongVec a = __builtin_shufflevector(low, high, 0, 2);
    const LongVec b = __builtin_shufflevector(low, high, 1, 3);
#endif
    uint32_t* to = words + w * 2 * kLanes;
    *reinterpret_cast<LongVecU*>(to) = a;
    *reinterpret_cast<LongVecU*>(to + kLanes) = b;
  }
}

// The words of counters first, first + 1, … Writes whole groups: words holds `count` rounded up to a multiple
// of kPhiloxGroup.
ALLMREC_INLINE void philox_fill(uint64_t seed, uint64_t stream, uint64_t first, int64_t count,
                                uint32_t* words) {
  LongVec lane{};
  for (int i = 0; i < kLanes / 2; ++i) lane[i] = static_cast<uint64_t>(i);
  for (int64_t done = 0; done < count; done += kPhiloxGroup) {
    LongVec c0[kPhiloxWays];
    for (int w = 0; w < kPhiloxWays; ++w)
      c0[w] = lane + (first + static_cast<uint64_t>(done + w * kLanes / 2));
    philox_group(seed, stream, c0, words + 4 * done);
  }
}

// The same of several runs of `each` counters, one behind the other: first(i) is run i's first counter. Short
// runs would leave most of a group unused.
template <typename First>
ALLMREC_INLINE void philox_fill_runs(uint64_t seed, uint64_t stream, int64_t runs, int64_t each,
                                     First&& first, uint32_t* words) {
  alignas(64) uint64_t counters[kPhiloxGroup] = {};
  int64_t used = 0;
  const auto flush = [&] {
    LongVec c0[kPhiloxWays];
    for (int w = 0; w < kPhiloxWays; ++w)
      c0[w] = *reinterpret_cast<const LongVecU*>(counters + w * kLanes / 2);
    philox_group(seed, stream, c0, words);
    words += 4 * kPhiloxGroup;
    used = 0;
  };
  for (int64_t i = 0; i < runs; ++i) {
    const uint64_t begin = first(i);
    for (int64_t j = 0; j < each; ++j) {
      counters[used++] = begin + static_cast<uint64_t>(j);
      if (used == kPhiloxGroup) flush();
    }
  }
  if (used > 0) flush();
}

// --- Dropout
// -----------------------------------------------------------------------------------------------------

ALLMREC_INLINE IVec load_u16(const uint16_t* p) {
#if ALLMREC_LANES == 16
  return (IVec)_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif ALLMREC_LANES == 8
  return (IVec)_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#elif defined(__SSE2__)
  const __m128i four = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return (IVec)_mm_unpacklo_epi16(four, _mm_setzero_si128());
#else
  IVec v{};
  for (int i = 0; i < kLanes; ++i) v[i] = p[i];
  return v;
#endif
}

// body(i, factor, lanes) over [0, n), where element `first` + i of the dropout has the factor 0 or 1 / (1 −
// p). Bits are made in blocks that stay in the L1 cache. Multiplying by the factor (not selecting) keeps NaN
// visible.
template <typename Body>
ALLMREC_INLINE void sweep_dropout(const allmrec_dropout& dropout, int64_t first, int64_t n, Body&& body) {
  if (!(dropout.p > 0.0f)) {
    const Vec one = broadcast(1.0f);
    sweep(n, [&](int64_t i, auto lanes) { body(i, one, lanes); });
    return;
  }
  constexpr int64_t kBlock = 1024;  // elements
  alignas(64) uint32_t words[kBlock / 2 + 4 * kPhiloxGroup + kLanes];
  const int32_t threshold = static_cast<int32_t>(dropout_threshold(dropout.p));
  const Vec scale = broadcast(dropout_scale(dropout.p));
  const int64_t offset = first % 8;  // the same for every block
  // Read as 16-bit elements, little-endian like every machine this runs on.
  const uint16_t* bits = reinterpret_cast<const uint16_t*>(words) + offset;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t size = n - begin < kBlock ? n - begin : kBlock;
    philox_fill(dropout.seed, dropout.stream, static_cast<uint64_t>((first + begin) / 8),
                (offset + size + 7) / 8, words);
    __asm__ volatile("" ::"r"(words) : "memory");  // the words are read back as another type
    sweep(size, [&](int64_t i, auto lanes) {
      body(begin + i, blend(load_u16(bits + i) >= threshold, scale, zero()), lanes);
    });
  }
}

}  // namespace
}  // namespace allmrec::cpu::ALLMREC_ISA
