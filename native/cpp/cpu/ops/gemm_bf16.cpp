// The product with both operands in bfloat16: what is float32 is rounded while it is packed, sums stay
// float32. A unit is a pair of neighbouring k, and one instruction multiplies 16 pairs and adds both products
// to 16 sums: twice the rate of float32 arithmetic. gemm_driver.h has the idea and the order of the sums.
//
// Bound: the dot instruction's rate, 234 GFLOP/s per Zen 4 core.
#include "gemm.h"

#include "gemm_driver.h"

namespace allmrec::cpu::ALLMREC_ISA {

#if ALLMREC_LANES == 16

namespace {

struct Bf16Pairs {
  static constexpr int kPerUnit = 2;
  ALLMREC_INLINE Vec multiply_add(Vec a, Vec b, Vec c) { return dot_bf16(a, b, c); }
  ALLMREC_INLINE HalfVec multiply_add(HalfVec a, HalfVec b, HalfVec c) { return dot_bf16(a, b, c); }
};

// 16 words each: even lanes of words from `low`, odd ones from `high`.
ALLMREC_INLINE Vec interleave(__m256i low, __m256i high) {
  const __m512i odd = _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16);
  return _mm512_castsi512_ps(_mm512_or_si512(_mm512_cvtepu16_epi32(low), odd));
}

ALLMREC_INLINE __mmask16 words(int64_t n) {
  return first_lanes(n);
}
ALLMREC_INLINE __mmask32 words32(int64_t n) {
  return static_cast<__mmask32>(n >= 32 ? 0xffffffffu : n <= 0 ? 0u : (1u << n) - 1u);
}

// n (0 … 32) neighbouring elements as 16 pairs, zeros behind them.
template <int32_t Dtype>
ALLMREC_INLINE Vec load_pairs(const void* base, int64_t index, int64_t n) {
  if (Dtype == ALLMREC_BF16) {
    const uint16_t* p = static_cast<const uint16_t*>(base) + index;
    return _mm512_castsi512_ps(n >= 32 ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi16(words32(n), p));
  }
  const float* p = static_cast<const float*>(base) + index;
  return n >= 32 ? round_to_bf16(load(p), load(p + 16)) : round_to_bf16(load_n(p, n), load_n(p + 16, n - 16));
}

// n (0 … 16) elements of one row as words.
template <int32_t Dtype>
ALLMREC_INLINE __m256i load_words(const void* base, int64_t index, int64_t n) {
  if (Dtype == ALLMREC_BF16)
    return _mm256_maskz_loadu_epi16(words(n), static_cast<const uint16_t*>(base) + index);
  const Vec x = load_n(static_cast<const float*>(base) + index, n);
  return _mm512_castsi512_si256(_mm512_castps_si512(round_to_bf16(x, zero())));
}

// Elements index … index + n − 1 of a row and of the next one, in pairs; a missing row is zero.
template <int32_t Dtype>
ALLMREC_INLINE Vec load_two_rows(const void* base, int64_t index, int64_t ld, bool both, int64_t n) {
  return interleave(load_words<Dtype>(base, index, n),
                    both ? load_words<Dtype>(base, index + ld, n) : _mm256_setzero_si256());
}

template <int32_t Dtype>
void pack_pairs_b(const allmrec_gemm_args& g, int64_t k0, int64_t k, int64_t j0, int64_t cols, float* to) {
  if (!g.trans_b) {
    for (int64_t p = 0; p < k; p += 2, to += kNR) {
      for (int64_t v = 0; v < kNV; ++v) {
        store(to + v * kLanes, load_two_rows<Dtype>(g.b, (k0 + p) * g.ldb + j0 + v * kLanes, g.ldb, p + 1 < k,
                                                    cols - v * kLanes));
      }
    }
    return;
  }
  for (int64_t v = 0; v < kNV; ++v) {
    const int64_t n = cols - v * kLanes;
    for (int64_t p = 0; p < k; p += 2 * kLanes) {
      const int64_t depth = k - p;
      Vec x[kLanes];
#pragma GCC unroll 16
      for (int64_t j = 0; j < kLanes; ++j) {
        x[j] = j < n ? load_pairs<Dtype>(g.b, (j0 + v * kLanes + j) * g.ldb + k0 + p, depth) : zero();
      }
      transpose(x);
      float* out = to + p / 2 * kNR + v * kLanes;
#pragma GCC unroll 16
      for (int64_t d = 0; d < kLanes; ++d) {
        if (2 * d < depth) store(out + d * kNR, x[d]);
      }
    }
  }
}

template <int32_t Dtype>
void pack_pairs_a(const allmrec_gemm_args& g, int64_t i, int rows, int64_t k0, int64_t k, int64_t stride,
                  float* to) {
  if (g.trans_a) {
    for (int64_t p = 0; p < k; p += 2, to += kMR)  // 16 lanes are stored: the last four are written over
      store(to, load_two_rows<Dtype>(g.a, (k0 + p) * g.lda + i, g.lda, p + 1 < k, rows));
    return;
  }
  const int padded = (rows + 1) / 2 * 2;
  for (int r = 0; r < padded; ++r) {
    for (int64_t p = 0; p < k; p += 2 * kLanes) {
      store(to + r * stride + p / 2,
            r < rows ? load_pairs<Dtype>(g.a, (i + r) * g.lda + k0 + p, k - p) : zero());
    }
  }
}

struct Bfloat16 {
  using Units = Bf16Pairs;
  static void pack_b(const allmrec_gemm_args& g, int64_t k0, int64_t k, int64_t j0, int64_t cols, float* to) {
    g.b_dtype == ALLMREC_BF16 ? pack_pairs_b<ALLMREC_BF16>(g, k0, k, j0, cols, to)
                              : pack_pairs_b<ALLMREC_F32>(g, k0, k, j0, cols, to);
  }
  static bool b_in_place(const allmrec_gemm_args&) { return false; }
  static void pack_a(const allmrec_gemm_args& g, int64_t i, int rows, int64_t k0, int64_t k, int64_t stride,
                     float* to) {
    g.a_dtype == ALLMREC_BF16 ? pack_pairs_a<ALLMREC_BF16>(g, i, rows, k0, k, stride, to)
                              : pack_pairs_a<ALLMREC_F32>(g, i, rows, k0, k, stride, to);
  }
  static bool a_in_place(const allmrec_gemm_args&, int64_t) { return false; }
};

bool rounds_to_bf16(int32_t dtype) {
  return dtype == ALLMREC_F32 || dtype == ALLMREC_BF16;
}

}  // namespace

bool gemm_bf16(Device& device, const allmrec_gemm_args& g) {
  if (!(device.kernels->extras & kDotBf16) || g.compute_dtype != ALLMREC_BF16) return false;
  if (!rounds_to_bf16(g.a_dtype) || !rounds_to_bf16(g.b_dtype)) return false;
  Product<Bfloat16>::run(device, g);
  return true;
}

#else

bool gemm_bf16(Device&, const allmrec_gemm_args&) {
  return false;
}

#endif

}  // namespace allmrec::cpu::ALLMREC_ISA
