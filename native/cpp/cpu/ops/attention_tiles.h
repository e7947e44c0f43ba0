#pragma once

// The products of attention for one head and one block of query rows, in float32 or in bfloat16 (AVX-512 with
// BF16, where the scores and weights are still float32 but what is multiplied is rounded).
//
// Both keep keys in panels of kNR columns, and take kMR query rows at a time. In bfloat16 a 32-bit word holds
// two neighbours of the summed dimension, so that one instruction multiplies and adds twice as much: a panel
// of keys has D / 2 rows of words, values are interleaved two keys at a time.

#include "attention_block.h"

namespace allmrec::cpu::ALLMREC_ISA {
namespace {

class FloatTiles {
 public:
  static int64_t floats(int64_t length, int64_t D) {
    return length * (D + round_up(D, kNR)) + kMR * q_stride(D) + 64;
  }
  FloatTiles(Carve& memory, int64_t length, int64_t D)
      : D_(D),
        length_(length),
        keys_(memory.take(length * D)),
        values_(memory.take(length * round_up(D, kNR))),
        q_(memory.take(kMR * q_stride(D) + kLanes)) {}

  // Keys and values of a run, once for all query rows; `dtype` is theirs.
  void pack(const void* k, int64_t ldk, const void* v, int64_t ldv, int32_t dtype, const Run& run) {
    pack_transposed(k, dtype, ldk, D_, run, keys_);
    value_rows_ = pack_rows(v, dtype, ldv, D_, run, length_, values_);
  }
  void take_rows(const float* q, int64_t ldq, int rows) { pack_a(q, ldq, false, D_, rows, q_stride(D_), q_); }
  // c (rows, keys of the run) = alpha · q · keysᵀ.
  void scores(int rows, const Run& run, float alpha, float* c, int64_t ldc) const {
    multiply_keys(q_, q_stride(D_), rows, D_, keys_, run, alpha, c, ldc);
  }
  // Weights as `values` reads them.
  void round_weights(float*, int64_t, int, const Run&) const {}
  // out (rows, D) = weights · values, or added to it.
  void values(const float* weights, int64_t stride, int rows, const Run& run, float* out, int64_t ldout,
              bool add) const {
    multiply_rows_of(weights + run.begin, stride, true, rows, run.end - run.begin, value_rows_, run.begin, D_,
                     out, ldout, add);
  }

 private:
  static int64_t q_stride(int64_t D) { return round_up(D, kLanes) + kLanes; }

  int64_t D_, length_;
  float* keys_;
  float* values_;
  float* q_;
  RowPanels value_rows_{};
};

#if ALLMREC_LANES == 16

#define ALLMREC_BF16_TARGET __attribute__((target("avx512bf16")))

// Whether products may be rounded to bfloat16 here.
inline bool computes_bf16() {
  static const bool has = __builtin_cpu_supports("avx512bf16");
  return has;
}

// rows × cols of c = alpha · a · b, or added to it; a: rows of k words (ByRow), or k rows of one word for
// each row of c; b: k rows of kNR words.
struct WordTile {
  int64_t k;
  const float* a;  // words; floats in type only
  int64_t a_stride;
  const float* b;
  int64_t b_stride;
  float* c;
  int64_t ldc;
  int rows, cols;
  float alpha;
  bool add;
};

template <int MR, int NV, bool ByRow>
ALLMREC_BF16_TARGET __attribute__((noinline)) void multiply_words(const WordTile& t) {
  __m512 acc[MR][NV];
#pragma GCC unroll 16
  for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) acc[r][v] = _mm512_setzero_ps();
  }
  const float* base[(MR + 2) / 3];
  for (int r = 0; r < MR; r += 3) {
    base[r / 3] = t.a + r * t.a_stride;
    __asm__("" : "+r"(base[r / 3]));
  }
  const float* a = t.a;
  const float* b = t.b;
  const int64_t k = t.k, a_stride = t.a_stride, b_stride = t.b_stride;
  for (int64_t p = 0; p < k; ++p, a += a_stride, b += b_stride) {
    __m512bh column[NV];
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) column[v] = (__m512bh)_mm512_loadu_ps(b + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r) {
      const __m512bh word = (__m512bh)_mm512_set1_ps(ByRow ? base[r / 3][r % 3 * a_stride + p] : a[r]);
#pragma GCC unroll 2
      for (int v = 0; v < NV; ++v) acc[r][v] = _mm512_dpbf16_ps(acc[r][v], word, column[v]);
    }
  }
  const __m512 alpha = _mm512_set1_ps(t.alpha);
#pragma GCC unroll 2
  for (int v = 0; v < NV; ++v) {
    const __mmask16 lanes = first_lanes(t.cols - v * kLanes);
    float* c = t.c + v * kLanes;
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r, c += t.ldc) {
      if (r == MR - 1 && t.rows < MR) break;
      __m512 x = _mm512_mul_ps(acc[r][v], alpha);
      if (t.add) x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(lanes, c));
      _mm512_mask_storeu_ps(c, lanes, x);
    }
  }
}

// As multiply_rows: rows in even counts, an odd tile has one more row of A to read.
template <int NV, bool ByRow>
void multiply_word_rows(const WordTile& t) {
  switch ((t.rows + 1) / 2) {
    case 1:
      return multiply_words<2, NV, ByRow>(t);
    case 2:
      return multiply_words<4, NV, ByRow>(t);
    case 3:
      return multiply_words<6, NV, ByRow>(t);
    case 4:
      return multiply_words<8, NV, ByRow>(t);
    case 5:
      return multiply_words<10, NV, ByRow>(t);
    case 6:
      return multiply_words<12, NV, ByRow>(t);
  }
}
template <bool ByRow>
void multiply_words(const WordTile& t) {
  t.cols <= kLanes ? multiply_word_rows<1, ByRow>(t) : multiply_word_rows<2, ByRow>(t);
}

// Up to 32 values of a storage dtype from element i on as 16 words; those that do not exist are zero.
ALLMREC_BF16_TARGET inline __m512i load_words(const void* x, int32_t dtype, int64_t i, int64_t n) {
  const int64_t more = n - kLanes;
  if (dtype == ALLMREC_BF16) {
    const __mmask32 mask = n >= 32 ? ~__mmask32{0} : (__mmask32{1} << n) - 1;
    return _mm512_maskz_loadu_epi16(mask, static_cast<const uint16_t*>(x) + i);
  }
  __m512 low, high;
  if (dtype == ALLMREC_F16) {
    const uint16_t* p = static_cast<const uint16_t*>(x) + i;
    low = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(n), p));
    high = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(more), p + kLanes));
  } else {
    const float* p = static_cast<const float*>(x) + i;
    low = _mm512_maskz_loadu_ps(first_lanes(n), p);
    high = _mm512_maskz_loadu_ps(first_lanes(more), p + kLanes);
  }
  return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

// Rows of n values each as rows of words, `stride` words apart; rows from `rows` to `padded` are zero.
ALLMREC_BF16_TARGET inline void pack_words(const float* x, int64_t ld, int64_t n, int rows, int padded,
                                           int64_t stride, float* to) {
  for (int r = 0; r < padded; ++r) {
    for (int64_t d = 0; d < n; d += 2 * kLanes) {
      const __m512i words = r < rows ? load_words(x, ALLMREC_F32, r * ld + d, n - d) : _mm512_setzero_si512();
      _mm512_storeu_si512(to + r * stride + d / 2, words);
    }
  }
}

// For each panel of kNR rows of x: (D + 1) / 2 rows of kNR words.
ALLMREC_BF16_TARGET inline void pack_word_panels(const void* x, int32_t dtype, int64_t ld, int64_t D, Run run,
                                                 float* to) {
  const int64_t words = (D + 1) / 2;
  for (int64_t j = run.begin; j < run.end; j += kLanes) {
    float* panel = to + j / kNR * kNR * words + j % kNR;
    for (int64_t d = 0; d < D; d += 2 * kLanes) {
      Vec x16[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) {
        x16[i] = j + i < run.end ? (Vec)load_words(x, dtype, (j + i) * ld + d, D - d) : zero();
      }
      transpose(x16);
      const int64_t depth = std::min<int64_t>(kLanes, words - d / 2);
      for (int64_t p = 0; p < depth; ++p) store(panel + (d / 2 + p) * kNR, x16[p]);
    }
  }
  // A last panel's second vector that no row has.
  if ((run.end - 1) % kNR < kLanes) {
    float* panel = to + (run.end - 1) / kNR * kNR * words + kLanes;
    for (int64_t p = 0; p < words; ++p) store(panel + p * kNR, zero());
  }
}

// Up to 16 elements of two rows: lane d is the word of column d of both; without a second row its half is
// zero.
ALLMREC_BF16_TARGET inline __m512i interleave(const void* x, int32_t dtype, int64_t first, int64_t second,
                                              int64_t n) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7,
                                         22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  n = std::min<int64_t>(n, kLanes);
  const __m512i low = load_words(x, dtype, first, n);
  const __m512i high = second >= 0 ? load_words(x, dtype, second, n) : _mm512_setzero_si512();
  return _mm512_permutexvar_epi16(order, _mm512_inserti64x4(low, _mm512_castsi512_si256(high), 1));
}

// Rows two at a time. For each panel of kNR columns `distance` rows of kNR words; rows 2i and 2i + 1 are row
// i. Rows that do not exist are zero.
ALLMREC_BF16_TARGET inline void pack_word_rows(const void* x, int32_t dtype, int64_t ld, int64_t D, Run run,
                                               int64_t distance, float* to) {
  for (int64_t j = run.begin; j < run.end; j += 2) {
    for (int64_t d = 0; d < D; d += kLanes) {
      const int64_t second = j + 1 < run.end ? (j + 1) * ld + d : -1;
      _mm512_storeu_si512(to + d / kNR * kNR * distance + j / 2 * kNR + d % kNR,
                          interleave(x, dtype, j * ld + d, second, D - d));
    }
  }
}

// The same as rows of `stride` words, of the columns of a run.
ALLMREC_BF16_TARGET inline void pack_word_columns(const float* x, int64_t ld, int64_t rows, Run columns,
                                                  int64_t stride, float* to) {
  for (int64_t i = 0; i < rows; i += 2) {
    for (int64_t j = columns.begin; j < columns.end; j += kLanes) {
      const int64_t second = i + 1 < rows ? (i + 1) * ld + j : -1;
      _mm512_storeu_si512(to + i / 2 * stride + j,
                          interleave(x, ALLMREC_F32, i * ld + j, second, columns.end - j));
    }
  }
}

// Floats begin … end − 1 of a row become bfloat16s in place: element j at 2j bytes, one zero behind the last.
ALLMREC_BF16_TARGET inline void round_in_place(float* row, int64_t begin, int64_t end) {
  uint16_t* to = reinterpret_cast<uint16_t*>(row);
  for (int64_t j = begin; j < end; j += 2 * kLanes) {  // the row has room for whole vectors
    const __m512i words = load_words(row, ALLMREC_F32, j, end - j);
    _mm512_storeu_si512(to + j, words);
  }
}

// c (rows, keys of the run) = alpha · a (rows of words) · panels of words.
inline void multiply_word_keys(const float* a, int64_t a_stride, int rows, int64_t words, const float* panels,
                               const Run& keys, float alpha, float* c, int64_t ldc) {
  for (int64_t j = keys.begin; j < keys.end; j += kNR) {
    const int cols = static_cast<int>(std::min<int64_t>(kNR, keys.end - j));
    multiply_words<true>({words, a, a_stride, panels + j * words, kNR, c + j, ldc, rows, cols, alpha, false});
  }
}

// c (rows, D) = a · k rows of the panels of pack_word_rows from `first` on, or added to it.
template <bool ByRow>
void multiply_word_rows_of(const float* a, int64_t a_stride, int rows, int64_t k, const float* panels,
                           int64_t distance, int64_t first, int64_t D, float* c, int64_t ldc, bool add) {
  for (int64_t d = 0; d < D; d += kNR) {
    const int cols = static_cast<int>(std::min<int64_t>(kNR, D - d));
    multiply_words<ByRow>(
        {k, a, a_stride, panels + d * distance + first * kNR, kNR, c + d, ldc, rows, cols, 1.0f, add});
  }
}

class Bfloat16Tiles {
 public:
  static int64_t floats(int64_t length, int64_t D) {
    return length * (words(D) + round_up(D, kNR) / 2) + kMR * q_stride(D) + 64;
  }
  Bfloat16Tiles(Carve& memory, int64_t length, int64_t D)
      : D_(D),
        length_(length),
        keys_(memory.take(length * words(D))),
        values_(memory.take(length / 2 * round_up(D, kNR))),
        q_(memory.take(kMR * q_stride(D) + kLanes)) {}

  void pack(const void* k, int64_t ldk, const void* v, int64_t ldv, int32_t dtype, const Run& run) {
    pack_word_panels(k, dtype, ldk, D_, run, keys_);
    pack_word_rows(v, dtype, ldv, D_, run, length_ / 2, values_);
  }
  void take_rows(const float* q, int64_t ldq, int rows) {
    pack_words(q, ldq, D_, rows, (rows + 1) / 2 * 2, q_stride(D_), q_);
  }
  void scores(int rows, const Run& run, float alpha, float* c, int64_t ldc) const {
    multiply_word_keys(q_, q_stride(D_), rows, words(D_), keys_, run, alpha, c, ldc);
  }
  void round_weights(float* weights, int64_t stride, int rows, const Run& run) const {
    for (int r = 0; r < rows; ++r) round_in_place(weights + r * stride, run.begin, run.end);
  }
  void values(const float* weights, int64_t stride, int rows, const Run& run, float* out, int64_t ldout,
              bool add) const {
    multiply_word_rows_of<true>(weights + run.begin / 2, stride, rows, (run.end - run.begin + 1) / 2, values_,
                                length_ / 2, run.begin / 2, D_, out, ldout, add);
  }

 private:
  static int64_t words(int64_t D) { return (D + 1) / 2; }
  static int64_t q_stride(int64_t D) { return round_up(words(D), kLanes) + kLanes; }

  int64_t D_, length_;  // keys, a multiple of kNR
  float* keys_;         // words, as all of these
  float* values_;
  float* q_;
};

#endif

}  // namespace
}  // namespace allmrec::cpu::ALLMREC_ISA
