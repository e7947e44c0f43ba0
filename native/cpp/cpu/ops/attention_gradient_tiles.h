#pragma once

// The five products of attention's backward for one head, in float32 or in bfloat16 (attention_tiles.h).
//
// Scores and dP = dO · Vᵀ are taken for kMR query rows at a time, as is dQ = dS · K; dK = dSᵀ · Q and dV = Pᵀ
// · dO for a block of query rows. dS and P are float32 rows, `stride` apart, one for each query row of the
// block.

#include "attention_tiles.h"

namespace allmrec::cpu::ALLMREC_ISA {
namespace {

// Query rows and the gradients of their outputs, from the block's first row on.
struct QueryRows {
  const float* q;
  int64_t ldq;
  const float* g;
  int64_t ldg;
};

class FloatGradientTiles {
 public:
  static int64_t floats(int64_t padded, int64_t D, int64_t block, int64_t) {
    const int64_t width = round_up(D, kNR);
    return padded * (2 * D + width) + 2 * block * width + 2 * (kMR * row_stride(D) + kLanes) + 256;
  }
  // padded: keys, a multiple of kNR; block: query rows, a multiple of kMR.
  FloatGradientTiles(Carve& memory, int64_t padded, int64_t D, int64_t block, int64_t stride)
      : D_(D), padded_(padded), block_(block), stride_(stride) {
    const int64_t width = round_up(D, kNR);
    k_transposed_ = memory.take(padded * D);
    v_transposed_ = memory.take(padded * D);
    k_rows_ = memory.take(padded * width);
    q_rows_ = memory.take(block * width);
    g_rows_ = memory.take(block * width);
    q_ = memory.take(kMR * row_stride(D) + kLanes);
    g_ = memory.take(kMR * row_stride(D) + kLanes);
  }

  void pack_keys(const float* k, int64_t ldk, const float* v, int64_t ldv, const Run& run) {
    pack_transposed(k, ALLMREC_F32, ldk, D_, run, k_transposed_);
    pack_transposed(v, ALLMREC_F32, ldv, D_, run, v_transposed_);
    key_panels_ = pack_rows(k, ALLMREC_F32, ldk, D_, run, padded_, k_rows_);
  }
  void take_rows(const QueryRows& x, int rows) {
    pack_a(x.q, x.ldq, false, D_, rows, row_stride(D_), q_);
    pack_a(x.g, x.ldg, false, D_, rows, row_stride(D_), g_);
  }
  void scores(int rows, const Run& run, float alpha, float* c) const {
    multiply_keys(q_, row_stride(D_), rows, D_, k_transposed_, run, alpha, c, stride_);
  }
  void d_weights(int rows, const Run& run, float* c) const {
    multiply_keys(g_, row_stride(D_), rows, D_, v_transposed_, run, 1.0f, c, stride_);
  }
  void dq(const float* ds, int rows, const Run& run, float* out, int64_t ld, bool add) {
    multiply_rows_of(ds + run.begin, stride_, true, rows, run.end - run.begin, key_panels_, run.begin, D_,
                     out, ld, add);
  }
  void take_block(const QueryRows& x, int64_t rows, const float* ds, const float* p, const Runs&) {
    ds_ = ds, p_ = p;
    query_panels_ = pack_rows(x.q, ALLMREC_F32, x.ldq, D_, {0, rows}, block_, q_rows_);
    gradient_panels_ = pack_rows(x.g, ALLMREC_F32, x.ldg, D_, {0, rows}, block_, g_rows_);
  }
  // Of `keys` keys from j on, over rows r0 … r1 − 1 of the block.
  void dk(int64_t j, int keys, int64_t r0, int64_t r1, float* to, int64_t ld, bool add) const {
    multiply_rows_of(ds_ + r0 * stride_ + j, stride_, false, keys, r1 - r0, query_panels_, r0, D_, to, ld,
                     add);
  }
  void dv(int64_t j, int keys, int64_t r0, int64_t r1, float* to, int64_t ld, bool add) const {
    multiply_rows_of(p_ + r0 * stride_ + j, stride_, false, keys, r1 - r0, gradient_panels_, r0, D_, to, ld,
                     add);
  }

 private:
  static int64_t row_stride(int64_t D) { return round_up(D, kLanes) + kLanes; }

  int64_t D_, padded_, block_, stride_;
  float *k_transposed_, *v_transposed_, *k_rows_;  // packed for scores, dP and dQ
  float *q_rows_, *g_rows_;                        // packed for dK and dV, one block
  float *q_, *g_;                                  // kMR rows
  RowPanels key_panels_{}, query_panels_{}, gradient_panels_{};
  const float *ds_ = nullptr, *p_ = nullptr;
};

#if ALLMREC_LANES == 16

class Bfloat16GradientTiles {
 public:
  static int64_t floats(int64_t padded, int64_t D, int64_t block, int64_t stride) {
    const int64_t width = round_up(D, kNR);
    return padded * (2 * words(D) + width / 2) + block * (width + stride) + kMR * stride +
           2 * (kMR * row_stride(D) + kLanes) + 256;
  }
  Bfloat16GradientTiles(Carve& memory, int64_t padded, int64_t D, int64_t block, int64_t stride)
      : D_(D), padded_(padded), block_(block), stride_(stride) {
    const int64_t width = round_up(D, kNR);
    k_transposed_ = memory.take(padded * words(D));
    v_transposed_ = memory.take(padded * words(D));
    k_rows_ = memory.take(padded / 2 * width);
    q_rows_ = memory.take(block / 2 * width);
    g_rows_ = memory.take(block / 2 * width);
    ds_ = memory.take(block / 2 * stride);
    p_ = memory.take(block / 2 * stride);
    ds_rows_ = memory.take(kMR * stride);
    q_ = memory.take(kMR * row_stride(D) + kLanes);
    g_ = memory.take(kMR * row_stride(D) + kLanes);
  }

  void pack_keys(const float* k, int64_t ldk, const float* v, int64_t ldv, const Run& run) {
    pack_word_panels(k, ALLMREC_F32, ldk, D_, run, k_transposed_);
    pack_word_panels(v, ALLMREC_F32, ldv, D_, run, v_transposed_);
    pack_word_rows(k, ALLMREC_F32, ldk, D_, run, padded_ / 2, k_rows_);
  }
  void take_rows(const QueryRows& x, int rows) {
    const int even = (rows + 1) / 2 * 2;
    pack_words(x.q, x.ldq, D_, rows, even, row_stride(D_), q_);
    pack_words(x.g, x.ldg, D_, rows, even, row_stride(D_), g_);
  }
  void scores(int rows, const Run& run, float alpha, float* c) const {
    multiply_word_keys(q_, row_stride(D_), rows, words(D_), k_transposed_, run, alpha, c, stride_);
  }
  void d_weights(int rows, const Run& run, float* c) const {
    multiply_word_keys(g_, row_stride(D_), rows, words(D_), v_transposed_, run, 1.0f, c, stride_);
  }
  void dq(const float* ds, int rows, const Run& run, float* out, int64_t ld, bool add) {
    const int64_t keys = run.end - run.begin;
    pack_words(ds + run.begin, stride_, keys, rows, (rows + 1) / 2 * 2, stride_, ds_rows_);
    multiply_word_rows_of<true>(ds_rows_, stride_, rows, (keys + 1) / 2, k_rows_, padded_ / 2, run.begin / 2,
                                D_, out, ld, add);
  }
  void take_block(const QueryRows& x, int64_t rows, const float* ds, const float* p, const Runs& runs) {
    pack_word_rows(x.q, ALLMREC_F32, x.ldq, D_, {0, rows}, block_ / 2, q_rows_);
    pack_word_rows(x.g, ALLMREC_F32, x.ldg, D_, {0, rows}, block_ / 2, g_rows_);
    for (const Run& run : runs) {
      pack_word_columns(ds, stride_, rows, run, stride_, ds_);
      pack_word_columns(p, stride_, rows, run, stride_, p_);
    }
  }
  void dk(int64_t j, int keys, int64_t r0, int64_t r1, float* to, int64_t ld, bool add) const {
    of_keys(ds_, q_rows_, j, keys, r0, r1, to, ld, add);
  }
  void dv(int64_t j, int keys, int64_t r0, int64_t r1, float* to, int64_t ld, bool add) const {
    of_keys(p_, g_rows_, j, keys, r0, r1, to, ld, add);
  }

 private:
  static int64_t words(int64_t D) { return (D + 1) / 2; }
  static int64_t row_stride(int64_t D) { return round_up(words(D), kLanes) + kLanes; }

  // Rows are summed in pairs: a row beside r0 or r1 that sees none of the keys adds zeros.
  void of_keys(const float* x, const float* panels, int64_t j, int keys, int64_t r0, int64_t r1, float* to,
               int64_t ld, bool add) const {
    multiply_word_rows_of<false>(x + r0 / 2 * stride_ + j, stride_, keys, (r1 + 1) / 2 - r0 / 2, panels,
                                 block_ / 2, r0 / 2, D_, to, ld, add);
  }

  int64_t D_, padded_, block_, stride_;
  float *k_transposed_, *v_transposed_, *k_rows_;  // words, as all of these
  float *q_rows_, *g_rows_, *ds_, *p_;             // of one block, two rows in one
  float *ds_rows_, *q_, *g_;                       // kMR rows
};

#endif

}  // namespace
}  // namespace allmrec::cpu::ALLMREC_ISA
