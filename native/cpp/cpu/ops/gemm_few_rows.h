#pragma once

// The formats of gemm_few_rows.cpp: what B is stored as, and A laid out to meet it. Each has
//   kDepth      k of one step
//   kVectors    vectors of A for one of its rows and one step
//   Sum         what is added to; kBegins: it begins with begin_of, a sum over the steps of what was laid
//   out,
//               instead of zero
//   row_bytes   of B
//   scale_of    what rounds a row of A, and what its sums are multiplied by
//   lay_out     n (0 … kDepth) values of a row of A
//   load        B's part of a step, of n values; zero behind them where that matters
//   add         sum + that part times a row's

#include "gemm_int8.h"
#include "gemm_kernel.h"

namespace allmrec::cpu::ALLMREC_ISA {
namespace {

// A row of B.
struct Row {
  const char* values;
  const char* scales;  // of the row's groups
};

// F32, F16, BF16 in float32 arithmetic.
template <int32_t Dtype>
struct Floats {
  static constexpr int64_t kDepth = kLanes;
  static constexpr int kVectors = 1;
  static constexpr bool kBegins = false;
  using Sum = Vec;
  using Part = Vec;
  static int64_t row_bytes(int64_t k) { return k * size_of(Dtype); }
  static RowScale scale_of(const float*, int64_t) { return {1.0f, 1.0f}; }
  static void lay_out(const float* a, int64_t n, float, float* to) { store(to, load_n(a, n)); }
  ALLMREC_INLINE Part load(const Row& row, int64_t step, int64_t n) {
    return load_as_float(row.values, step * kDepth, Dtype, n);
  }
  ALLMREC_INLINE Sum add(Sum sum, const Part& b, const float* a) {
    return fma(b, cpu::ALLMREC_ISA::load(a), sum);
  }
};

// Bytes as floats; the scale of the row comes last.
struct Int8AsFloats {
  static constexpr int64_t kDepth = kLanes;
  static constexpr int kVectors = 1;
  static constexpr bool kBegins = false;
  using Sum = Vec;
  using Part = Vec;
  static int64_t row_bytes(int64_t k) { return k; }
  static RowScale scale_of(const float*, int64_t) { return {1.0f, 1.0f}; }
  static void lay_out(const float* a, int64_t n, float, float* to) { store(to, load_n(a, n)); }
  ALLMREC_INLINE Part load(const Row& row, int64_t step, int64_t n) {
    typedef int8_t Bytes __attribute__((vector_size(ALLMREC_LANES)));
    Bytes q{};
    std::memcpy(&q, row.values + step * kDepth, n >= kLanes ? kLanes : static_cast<size_t>(n));
    return __builtin_convertvector(q, Vec);
  }
  ALLMREC_INLINE Sum add(Sum sum, const Part& b, const float* a) {
    return fma(b, cpu::ALLMREC_ISA::load(a), sum);
  }
};

// A group a step, as floats with their scale.
struct Int4AsFloats {
  static constexpr int64_t kDepth = kGroup;
  static constexpr int kVectors = kGroup / kLanes;
  static constexpr bool kBegins = false;
  using Sum = Vec;
  struct Part {
    Vec x[kVectors];
  };
  static int64_t row_bytes(int64_t k) { return k / 2; }
  static RowScale scale_of(const float*, int64_t) { return {1.0f, 1.0f}; }
  static void lay_out(const float* a, int64_t n, float, float* to) {
    for (int v = 0; v < kVectors; ++v) store(to + v * kLanes, load_n(a + v * kLanes, n - v * kLanes));
  }
  ALLMREC_INLINE Part load(const Row& row, int64_t step, int64_t) {
    typedef uint8_t Bytes __attribute__((vector_size(ALLMREC_LANES)));
    uint16_t scale_bits;
    std::memcpy(&scale_bits, row.scales + 2 * step, 2);
    const float scale = f16_to_float(scale_bits);
    Part part;
#pragma GCC unroll 4
    for (int v = 0; v < kVectors / 2; ++v) {
      Bytes q;
      std::memcpy(&q, row.values + step * (kGroup / 2) + v * kLanes, sizeof q);
      const IVec both = __builtin_convertvector(q, IVec);
      part.x[v] = to_float((both & 15) - 8) * scale;
      part.x[v + kVectors / 2] = to_float((both >> 4) - 8) * scale;
    }
    return part;
  }
  ALLMREC_INLINE Sum add(Sum sum, const Part& b, const float* a) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sum = fma(b.x[v], cpu::ALLMREC_ISA::load(a + v * kLanes), sum);
    return sum;
  }
};

#if ALLMREC_LANES == 16

ALLMREC_INLINE __mmask32 words(int64_t n) {
  return static_cast<__mmask32>(n >= 32 ? 0xffffffffu : n <= 0 ? 0u : (1u << n) - 1u);
}
ALLMREC_INLINE Vec load_words(const char* p, int64_t n) {
  return _mm512_castsi512_ps(n >= 32 ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi16(words(n), p));
}

// BF16 in float32 arithmetic, 32 at a time: those of even places and those of odd ones.
struct Bf16AsFloats {
  static constexpr int64_t kDepth = 32;
  static constexpr int kVectors = 2;
  static constexpr bool kBegins = false;
  using Sum = Vec;
  struct Part {
    Vec even, odd;
  };
  static int64_t row_bytes(int64_t k) { return 2 * k; }
  static RowScale scale_of(const float*, int64_t) { return {1.0f, 1.0f}; }
  static void lay_out(const float* a, int64_t n, float, float* to) {
    const __m512i places = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const Vec x = load_n(a, n), y = load_n(a + kLanes, n - kLanes);
    store(to, _mm512_permutex2var_ps(x, places, y));
    store(to + kLanes, _mm512_permutex2var_ps(x, _mm512_add_epi32(places, _mm512_set1_epi32(1)), y));
  }
  ALLMREC_INLINE Part load(const Row& row, int64_t step, int64_t n) {
    const IVec pairs = as_int(load_words(row.values + 2 * step * kDepth, n));
    return {as_float(pairs << 16), as_float(pairs & static_cast<int32_t>(0xffff0000u))};
  }
  ALLMREC_INLINE Sum add(Sum sum, const Part& b, const float* a) {
    sum = fma(b.even, cpu::ALLMREC_ISA::load(a), sum);
    return fma(b.odd, cpu::ALLMREC_ISA::load(a + kLanes), sum);
  }
};

// BF16, A rounded to it.
struct Bf16Pairs {
  static constexpr int64_t kDepth = 32;
  static constexpr int kVectors = 1;
  static constexpr bool kBegins = false;
  using Sum = Vec;
  using Part = Vec;
  static int64_t row_bytes(int64_t k) { return 2 * k; }
  static RowScale scale_of(const float*, int64_t) { return {1.0f, 1.0f}; }
  static void lay_out(const float* a, int64_t n, float, float* to) {
    store(to, round_to_bf16(load_n(a, n), load_n(a + kLanes, n - kLanes)));
  }
  static void lay_out(const uint16_t* a, int64_t n, float, float* to) {
    store(to, load_words(reinterpret_cast<const char*>(a), n));
  }
  ALLMREC_INLINE Part load(const Row& row, int64_t step, int64_t n) {
    return load_words(row.values + 2 * step * kDepth, n);
  }
  ALLMREC_INLINE Sum add(Sum sum, const Part& b, const float* a) {
    return dot_bf16(cpu::ALLMREC_ISA::load(a), b, sum);
  }
};

// 64 values of A as signed bytes.
ALLMREC_INLINE __m512i to_bytes(const float* a, int64_t n, float inverse) {
  alignas(64) int8_t q[64];
  for (int v = 0; v < 4; ++v) {
    const IVec whole = round_to_int(load_n(a + v * kLanes, n - v * kLanes) * inverse);
    _mm_store_si128(reinterpret_cast<__m128i*>(q + v * kLanes), _mm512_cvtepi32_epi8((__m512i)whole));
  }
  return _mm512_load_si512(q);
}

// I8, A rounded to it. The instruction wants one side unsigned: B's is b + 128, and the sums begin with
// −128 · Σ a.
struct Int8Quads {
  static constexpr int64_t kDepth = 64;
  static constexpr int kVectors = 1;
  static constexpr bool kBegins = true;
  using Sum = IVec;
  struct Part {
    IVec b;
  };
  static int64_t row_bytes(int64_t k) { return k; }
  static RowScale scale_of(const float* a, int64_t k) { return row_scale(a, k); }
  static void lay_out(const float* a, int64_t n, float inverse, float* to) {
    store_i(reinterpret_cast<int32_t*>(to), (IVec)to_bytes(a, n, inverse));
  }
  ALLMREC_INLINE Sum begin_of(Sum begin, const float* a) {
    return begin - dot_bytes(broadcast_i(static_cast<int32_t>(0x80808080u)),
                             load_i(reinterpret_cast<const int32_t*>(a)), IVec{});
  }
  ALLMREC_INLINE Part load(const Row& row, int64_t step, int64_t n) {
    const char* p = row.values + step * kDepth;
    const __m512i q = n >= 64 ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi8((uint64_t{1} << n) - 1, p);
    return {(IVec)q ^ static_cast<int32_t>(0x80808080u)};
  }
  ALLMREC_INLINE Sum add(Sum sum, const Part& b, const float* a) {
    return dot_bytes(b.b, load_i(reinterpret_cast<const int32_t*>(a)), sum);
  }
};

// I4, A rounded to int8: four groups a step, the low halves of all four and then the high ones, each group in
// the four lanes of a quarter. B's nibbles are b + 8; the sums begin with −8 · Σ a.
struct Int4Quads {
  static constexpr int64_t kDepth = 4 * kGroup;
  static constexpr int kVectors = 3;
  static constexpr bool kBegins = false;
  using Sum = Vec;
  struct Part {
    IVec low, high;
    Vec scale;
  };
  static int64_t row_bytes(int64_t k) { return k / 2; }
  static RowScale scale_of(const float* a, int64_t k) { return row_scale(a, k); }
  static void lay_out(const float* a, int64_t n, float inverse, float* to) {
    const __m512i x = to_bytes(a, n, inverse), y = to_bytes(a + 64, n - 64, inverse);
    const __m512i lows = _mm512_setr_epi64(0, 1, 4, 5, 8, 9, 12, 13);
    const IVec low = (IVec)_mm512_permutex2var_epi64(x, lows, y);
    const IVec high = (IVec)_mm512_permutex2var_epi64(x, _mm512_add_epi64(lows, _mm512_set1_epi64(2)), y);
    int32_t* q = reinterpret_cast<int32_t*>(to);
    store_i(q, low);
    store_i(q + kLanes, high);
    const IVec eights = broadcast_i(0x08080808);
    store_i(q + 2 * kLanes, -dot_bytes(eights, low, dot_bytes(eights, high, IVec{})));
  }
  ALLMREC_INLINE Part load(const Row& row, int64_t step, int64_t n) {
    const char* p = row.values + step * (kDepth / 2);
    const char* s = row.scales + step * 8;
    const bool whole = n >= kDepth;
    const __m512i q = whole ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi8((uint64_t{1} << n / 2) - 1, p);
    const __m128i halves = whole ? _mm_loadl_epi64(reinterpret_cast<const __m128i*>(s))
                                 : _mm_maskz_loadu_epi16(static_cast<__mmask8>((1u << n / kGroup) - 1), s);
    const __m512i group = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    const __m512i four_bits = _mm512_set1_epi8(15);
    return {(IVec)_mm512_and_si512(q, four_bits), (IVec)_mm512_and_si512(_mm512_srli_epi16(q, 4), four_bits),
            _mm512_permutexvar_ps(group, _mm512_castps128_ps512(_mm_cvtph_ps(halves)))};
  }
  ALLMREC_INLINE Sum add(Sum sum, const Part& b, const float* a) {
    const int32_t* q = reinterpret_cast<const int32_t*>(a);
    const IVec whole =
        dot_bytes(b.high, load_i(q + kLanes), dot_bytes(b.low, load_i(q), load_i(q + 2 * kLanes)));
    return fma(to_float(whole), b.scale, sum);
  }
};

#endif

}  // namespace
}  // namespace allmrec::cpu::ALLMREC_ISA
