#pragma once

// What the products with 8-bit arithmetic share: how a row of A is rounded, and how rows of I8 and I4 become
// bytes.

#include "dtype.h"

namespace allmrec::cpu::ALLMREC_ISA {
namespace {

// Sums of products of bytes stay below 2^31 up to this k.
constexpr int64_t kMaxByteK = int64_t{1} << 16;

// A row's values are about q · scale, q = round(x · inverse) in −127 … 127. NaN and infinities make the scale
// NaN, and so the whole row of C.
struct RowScale {
  float scale, inverse;
};

#if ALLMREC_LANES == 16

inline RowScale row_scale(const float* a, int64_t k) {
  Vec largest = zero(), odd = zero();
  for (int64_t p = 0; p < k; p += kLanes) {
    const Vec x = load_n(a + p, k - p);
    largest = max(largest, abs(x));
    odd = fma(x, zero(), odd);
  }
  const float top = horizontal_max(largest), nan = horizontal_sum(odd);
  if (nan != 0.0f) return {nan, 0.0f};
  if (top < 1e-30f) return {0.0f, 0.0f};  // 127 / top must be finite
  return {top / 127.0f, 127.0f / top};
}

// n (0 … 64) quants of a row from element k0 on (of I4 a multiple of 64), as signed bytes in order, zeros
// behind them; cols: the row's length.
template <int32_t Dtype>
ALLMREC_INLINE __m512i load_quants(const void* quants, int64_t cols, int64_t row, int64_t k0, int64_t n) {
  if (Dtype == ALLMREC_I8) {
    const int8_t* q = static_cast<const int8_t*>(quants) + row * cols + k0;
    return n >= 64 ? _mm512_loadu_si512(q) : _mm512_maskz_loadu_epi8((uint64_t{1} << n) - 1, q);
  }
  const uint8_t* q = static_cast<const uint8_t*>(quants) + (row * cols + k0) / 2;
  const __m256i four_bits = _mm256_set1_epi8(15);
  const __m256i both = n >= 64 ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q))
                               : _mm256_maskz_loadu_epi8((uint32_t{1} << n / 2) - 1, q);
  const __m256i low = _mm256_and_si256(both, four_bits);
  const __m256i high = _mm256_and_si256(_mm256_srli_epi16(both, 4), four_bits);
  // Each group's low halves, then its high ones.
  const __m512i order = _mm512_setr_epi64(0, 1, 4, 5, 2, 3, 6, 7);
  const __m512i halves = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  const __m512i signed_bytes = _mm512_sub_epi8(_mm512_permutexvar_epi64(order, halves), _mm512_set1_epi8(8));
  return n >= 64 ? signed_bytes : _mm512_maskz_mov_epi8((uint64_t{1} << n) - 1, signed_bytes);
}

#endif

}  // namespace
}  // namespace allmrec::cpu::ALLMREC_ISA
