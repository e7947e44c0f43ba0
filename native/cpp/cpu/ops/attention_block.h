#pragma once

// What the two directions of attention share: which keys a block of query rows sees, the operands packed for
// the register tiles of the matrix product, and the padding key's score.

#include <algorithm>
#include <cmath>

#include "../vec_math.h"
#include "dtype.h"
#include "gemm_kernel.h"

namespace allmrec::cpu::ALLMREC_ISA {
namespace {

// Weights are powers of two: scores are multiplied by log2 e on their way out of the product.
constexpr float kLog2E = 1.44269504088896341f, kLn2 = 0.69314718055994531f;

inline int64_t round_up(int64_t n, int64_t step) {
  return (n + step - 1) / step * step;
}

// Keys begin … end − 1; begin is a multiple of a panel's kNR keys.
struct Run {
  int64_t begin, end;
};

// The keys that query rows t0 … t1 − 1 see, as at most two runs with no panel in common.
struct Runs {
  Runs(const allmrec_attention_args& a, int64_t t0, int64_t t1) {
    int64_t prefix = 0, low = INT64_MAX, high = 0;
    for (int64_t t = t0; t < t1; ++t) {
      if (a.prefix) prefix = std::max<int64_t>(prefix, a.prefix[t]);
      if (a.own_end[t] <= a.own_begin[t]) continue;
      low = std::min<int64_t>(low, a.own_begin[t]);
      high = std::max<int64_t>(high, a.own_end[t]);
    }
    if (prefix > 0) run[count++] = {0, prefix};
    if (high == 0) return;
    low = low / kNR * kNR;
    if (count == 1 && low < round_up(prefix, kNR)) {
      run[0].end = std::max(prefix, high);
    } else {
      run[count++] = {low, high};
    }
  }
  const Run* begin() const { return run; }
  const Run* end() const { return run + count; }
  int64_t last() const { return count > 0 ? run[count - 1].end : 0; }  // the runs ascend

  Run run[2];
  int count = 0;
};

// The keys of one query row.
struct RowKeys {
  RowKeys(const allmrec_attention_args& a, int64_t t)
      : prefix(a.prefix ? a.prefix[t] : 0), own_begin(a.own_begin[t]), own_end(a.own_end[t]) {}
  int64_t end() const { return own_end > own_begin ? std::max(prefix, own_end) : prefix; }
  // All bits set in the lanes of keys j, j + 1, … that the row sees.
  inline __attribute__((always_inline)) IVec visible(int64_t j) const {
    const IVec key = iota() + static_cast<int32_t>(j);
    return (key < static_cast<int32_t>(prefix)) |
           ((key >= static_cast<int32_t>(own_begin)) & (key < static_cast<int32_t>(own_end)));
  }
  // body(begin, end, previous) for the parts of `run` that the row sees, in order; `previous` is the end of
  // the part before, or the run's beginning. Returns the last end.
  template <typename Body>
  inline __attribute__((always_inline)) int64_t each_part(const Run& run, Body&& body) const {
    int64_t done = run.begin;
    const Run parts[2] = {{0, prefix}, {own_begin, own_end}};
    for (const Run& part : parts) {
      const int64_t begin = std::max(part.begin, done), end = std::min(part.end, run.end);
      if (begin >= end) continue;
      body(begin, end, done);
      done = end;
    }
    return done;
  }
  int64_t prefix, own_begin, own_end;
};

inline int64_t first_element(const allmrec_attention_args& a, int64_t t, int64_t h) {
  return (t * a.heads + h) * a.drop_columns;
}

// The random bits of a tile of query rows, padding and keys, made in one go: a row of 50 elements alone would
// use seven counters of the 16 that are computed at once.
class DropoutRows {
 public:
  // Floats of memory for tiles of kMR rows with up to `elements` each.
  static int64_t floats(const allmrec_attention_args& a, int64_t elements) {
    return a.dropout.p > 0.0f ? kMR * words(std::max(elements, together(a) ? a.drop_columns : 0)) : 0;
  }

  DropoutRows(const allmrec_attention_args& a, float* memory)
      : a_(a),
        words_(reinterpret_cast<uint32_t*>(memory)),
        threshold_(static_cast<int32_t>(dropout_threshold(a.dropout.p))),
        scale_(dropout_scale(a.dropout.p)) {}

  void use(float* memory) { words_ = reinterpret_cast<uint32_t*>(memory); }
  bool any() const { return a_.dropout.p > 0.0f; }

  // Rows t … t + rows − 1 of head h, `elements` each.
  void fill(int64_t t, int64_t h, int rows, int64_t elements) {
    if (!any()) return;
    const int64_t first = first_element(a_, t, h);
    if (together(a_)) {
      const int64_t n = (rows - 1) * a_.drop_columns + elements;
      philox_fill(a_.dropout.seed, a_.dropout.stream, static_cast<uint64_t>(first / 8),
                  (first % 8 + n + 7) / 8, words_);
      for (int r = 0; r < rows; ++r)
        row_[r] = reinterpret_cast<const uint16_t*>(words_) + first % 8 + r * a_.drop_columns;
    } else {
      const int64_t step = a_.heads * a_.drop_columns;  // from row to row
      const bool aligned = first % 8 == 0 && step % 8 == 0;
      const int64_t each = (elements + (aligned ? 7 : 14)) / 8;
      philox_fill_runs(
          a_.dropout.seed, a_.dropout.stream, rows, each,
          [&](int64_t r) { return static_cast<uint64_t>((first + r * step) / 8); }, words_);
      for (int r = 0; r < rows; ++r)
        row_[r] = reinterpret_cast<const uint16_t*>(words_ + r * each * 4) + (first + r * step) % 8;
    }
    __asm__ volatile("" ::"r"(words_) : "memory");  // the words are read back as another type
  }

  // body(i, factor, lanes) over [0, n): the factors of elements first, first + 1, … of the tile's row r.
  template <typename Body>
  inline __attribute__((always_inline)) void sweep_row(int r, int64_t first, int64_t n, Body&& body) const {
    if (!any()) {
      const Vec one = broadcast(1.0f);
      return sweep(n, [&](int64_t i, auto lanes) { body(i, one, lanes); });
    }
    const uint16_t* bits = row_[r] + first;
    const Vec scale = broadcast(scale_);
    sweep(n, [&](int64_t i, auto lanes) {
      body(i, blend(load_u16(bits + i) >= threshold_, scale, zero()), lanes);
    });
  }

 private:
  // With one head the rows' elements follow each other.
  static bool together(const allmrec_attention_args& a) { return a.heads == 1 && a.drop_columns <= 256; }
  static int64_t words(int64_t elements) { return round_up((elements + 14) / 8, kPhiloxGroup) * 4 + kLanes; }

  const allmrec_attention_args& a_;
  uint32_t* words_;
  int32_t threshold_;
  float scale_;
  const uint16_t* row_[kMR];
};

// The padding of sequence s as query row t of head h sees it.
struct Padding {
  Padding(const allmrec_attention_args& a, int64_t s, int64_t h)
      : count(a.pad_k ? a.pad_count[s] : 0),
        k(a.pad_k + (count > 0 ? h * a.head_dim : 0)),
        v(a.pad_v + (count > 0 ? h * a.head_dim : 0)),
        log_count(count > 0 ? std::log(static_cast<float>(count)) : 0.0f) {}

  float score(const allmrec_attention_args& a, const float* q) const {
    if (count == 0) return -INFINITY;
    return a.scale * sum_over(a.head_dim, [&](int64_t i, auto n) { return get(q + i, n) * get(k + i, n); }) +
           log_count;
  }
  // The mean factor dropout gives its keys, given the bits of the row: kept / count / (1 − p).
  float factor(const DropoutRows& dropout, int r) const {
    if (!dropout.any() || count == 0) return 1.0f;
    Vec sum = zero();
    dropout.sweep_row(r, 0, count, [&](int64_t, Vec factor, auto lanes) { sum += keep(factor, lanes); });
    return horizontal_sum(sum) / static_cast<float>(count);
  }

  int64_t count;
  const float* k;
  const float* v;
  float log_count;
};

// Rows of k or v, transposed: for each panel of kNR keys, D × kNR. `to` has room for all keys of the
// sequence. x is the first row's first element, of any storage dtype.
inline void pack_transposed(const void* x, int32_t dtype, int64_t ld, int64_t D, Run keys, float* to) {
  const auto pack = dtype == ALLMREC_F32   ? pack_panel<ALLMREC_F32>
                    : dtype == ALLMREC_F16 ? pack_panel<ALLMREC_F16>
                                           : pack_panel<ALLMREC_BF16>;
  for (int64_t j = keys.begin; j < keys.end; j += kNR)
    pack(x, ld, true, 0, D, j, std::min<int64_t>(kNR, keys.end - j), to + j * D);
}

// Rows as the right-hand side of a product: row i, column d is at data + i · row + d · column, d a multiple
// of kNR.
struct RowPanels {
  const float* data;
  int64_t row, column;
};

// For each panel of kNR columns of D rows × kNR, panels `distance` rows apart; or float32 rows that lie close
// together where they are.
inline RowPanels pack_rows(const void* x, int32_t dtype, int64_t ld, int64_t D, Run rows, int64_t distance,
                           float* to) {
  constexpr int64_t kClose = 512;
  if (kRowsOfB && dtype == ALLMREC_F32 && ld <= kClose) return {static_cast<const float*>(x), ld, 1};
  const auto pack = dtype == ALLMREC_F32   ? pack_panel<ALLMREC_F32>
                    : dtype == ALLMREC_F16 ? pack_panel<ALLMREC_F16>
                                           : pack_panel<ALLMREC_BF16>;
  for (int64_t d = 0; d < D; d += kNR) {
    pack(x, ld, false, rows.begin, rows.end - rows.begin, d, std::min<int64_t>(kNR, D - d),
         to + d * distance + rows.begin * kNR);
  }
  return {to, kNR, distance};
}

// c (rows, keys of the run) = alpha · a (rows, D) · transposed panels.
inline void multiply_keys(const float* a, int64_t a_stride, int rows, int64_t D, const float* panels,
                          Run keys, float alpha, float* c, int64_t ldc) {
  Epilogue e{};
  e.alpha = alpha;
  for (int64_t j = keys.begin; j < keys.end; j += kNR) {
    const int cols = static_cast<int>(std::min<int64_t>(kNR, keys.end - j));
    multiply({D, a, a_stride, panels + j * D, kNR, c + j, ldc, rows, cols}, e, true);
  }
}

// c (rows, D) = a (rows, k) · k rows of panels from `first` on, or added to it.
inline void multiply_rows_of(const float* a, int64_t a_stride, bool by_row, int rows, int64_t k,
                             const RowPanels& panels, int64_t first, int64_t D, float* c, int64_t ldc,
                             bool add) {
  Epilogue e{};
  e.alpha = 1.0f;
  e.add_c = add;
  for (int64_t d = 0; d < D; d += kNR) {
    const int cols = static_cast<int>(std::min<int64_t>(kNR, D - d));
    const float* b = panels.data + first * panels.row + d * panels.column;
    multiply({k, a, a_stride, b, panels.row, c + d, ldc, rows, cols}, e, by_row);
  }
}

// Scratch memory cut into vectors' multiples.
struct Carve {
  float* next;
  float* take(int64_t n) {
    float* p = next;
    next += round_up(n, 16);
    return p;
  }
};

}  // namespace
}  // namespace allmrec::cpu::ALLMREC_ISA
