// Attention over packed sequences, forward.
//
// A task is one head of one sequence, for up to kChunk query rows. It packs the keys (transposed) and values
// its rows see, then takes kMR query rows at a time: the scores against all their keys in register tiles of
// the matrix product, one softmax over each row while it lies in the cache (no running maximum to correct),
// and the weights times the values. Panels of keys that none of the kMR rows sees are skipped, so causal
// attention costs its triangle only and a candidate only the prompt and itself. Up to kFewRows rows
// (decoding) nothing is packed: keys and values are read once. Bound: the multiply-add units; with one query
// row, reading the keys and values. Measured (a-llmrec-bench, one Zen 4 core): 600 causal rows of
// 12 × 64 7.8 ms, 60 % of the bound; 128 sequences of 50 rows of 1 × 50, with
// dropout, 0.9 ms.
#include "attention_block.h"
#include "gemm_dot.h"
#include "ops.h"

namespace allmrec::cpu::ALLMREC_ISA {

namespace {

constexpr int64_t kChunk = 192;
constexpr int64_t kFewRows = 3;

struct Task {
  const allmrec_attention_args& a;
  int64_t s, h, t0, t1;
  int64_t length() const { return a.kv_len[s]; }
  const float* q(int64_t t) const { return f32(a.q) + t * a.ldq + h * a.head_dim; }
  const float* k() const { return f32(a.k) + a.kv_start[s] * a.ldk + h * a.head_dim; }
  const float* v() const { return f32(a.v) + a.kv_start[s] * a.ldv + h * a.head_dim; }
  float* out(int64_t t) const { return f32(a.out) + t * a.ldout + h * a.head_dim; }
};

// One number for each of up to kMR rows, in whole vectors.
constexpr int64_t kRows = (kMR + kLanes - 1) / kLanes * kLanes;
struct Softmax {
  float padding[kRows];  // the padding's score, then its weight, not divided by the total
  float top[kRows];      // the highest score
  float total[kRows];    // of the weights exp(score − top), then its inverse, 0 for a row that sees nothing
};

float highest_score(const RowKeys& keys, const Runs& runs, const float* scores, float padding) {
  Vec highest = broadcast(padding);
  for (const Run& run : runs) {
    const int64_t end = std::min(run.end, keys.end());
    for (int64_t j = run.begin; j < end; j += kLanes) {
      highest = max(highest, blend(keys.visible(j), load(scores + j), broadcast(-INFINITY)));
    }
  }
  return horizontal_max(highest);
}

// A row's scores become exp(score − top), dropped out; returns their sum before dropout.
float weigh(const DropoutRows& dropout, int r, int64_t dropped_before, const RowKeys& keys, const Runs& runs,
            float* scores, float top) {
  Vec sum = zero();
  for (const Run& run : runs) {
    const int64_t end = std::max(run.begin, std::min(run.end, keys.end()));
    dropout.sweep_row(r, dropped_before + run.begin, end - run.begin, [&](int64_t i, Vec factor, auto) {
      float* p = scores + run.begin + i;  // rows have room for whole vectors
      const Vec weight = blend(keys.visible(run.begin + i), exp(load(p) - top), zero());
      sum += weight;
      store(p, weight * factor);
    });
    for (int64_t j = round_up(end, kLanes); j < run.end; j += kLanes) store(scores + j, zero());
  }
  return horizontal_sum(sum);
}

// Step by step over all rows: within a row each step waits for the one before, between rows nothing does.
void softmax(const Task& task, const Padding& padding, DropoutRows& dropout, int64_t t, int rows,
             const Runs& runs, float* scores, int64_t stride, Softmax& x) {
  const allmrec_attention_args& a = task.a;
  dropout.fill(t, task.h, rows, padding.count + runs.last());
  for (int r = 0; r < kRows; ++r) x.padding[r] = x.top[r] = -INFINITY, x.total[r] = 0.0f;
  for (int r = 0; r < rows; ++r) {
    x.padding[r] = padding.score(a, task.q(t + r));
    x.top[r] = highest_score(RowKeys(a, t + r), runs, scores + r * stride, x.padding[r]);
  }
  for (int r = 0; r < rows; ++r) {
    // With nothing visible every weight is masked; 0 only keeps −∞ − (−∞) out of the way.
    const float top = x.top[r] == -INFINITY ? 0.0f : x.top[r];
    x.total[r] = weigh(dropout, r, padding.count, RowKeys(a, t + r), runs, scores + r * stride, top);
  }
  float lse[kRows];
  for (int64_t r = 0; r < kRows; r += kLanes) {
    const Vec top = load(x.top + r);
    const IVec nothing = top == -INFINITY;
    const Vec weight = blend(nothing, zero(), exp(load(x.padding + r) - top));
    const Vec total = load(x.total + r) + weight;
    store(x.padding + r, weight);
    store(lse + r, blend(nothing, broadcast(-INFINITY), top + log(total)));
    store(x.total + r, blend(nothing, zero(), 1.0f / total));
  }
  for (int r = 0; r < rows; ++r) {
    if (a.lse) a.lse[(t + r) * a.heads + task.h] = lse[r];
    if (x.padding[r] != 0.0f) x.padding[r] *= padding.factor(dropout, r);
  }
}

void finish_row(const Task& task, const Padding& padding, int64_t t, float padding_weight,
                float inverse_total) {
  float* out = task.out(t);
  sweep(task.a.head_dim, [&](int64_t i, auto n) {
    Vec x = get(out + i, n);
    if (padding_weight != 0.0f) x = fma(broadcast(padding_weight), get(padding.v + i, n), x);
    put(out + i, x * inverse_total, n);
  });
}

void clear_rows(const Task& task, int64_t t0, int64_t t1) {
  for (int64_t t = t0; t < t1; ++t) std::fill_n(task.out(t), task.a.head_dim, 0.0f);
}

void attend(const Task& task, Device& device, int thread) {
  const allmrec_attention_args& a = task.a;
  const int64_t D = a.head_dim, width = round_up(D, kNR), length = round_up(task.length(), kNR);
  const int64_t stride = length + kLanes, q_stride = round_up(D, kLanes) + kLanes;
  const Padding padding(a, task.s, task.h);
  const int64_t bits = DropoutRows::floats(a, padding.count + length);
  const int64_t floats = length * (D + width) + kMR * (stride + q_stride) + bits + 192;
  Carve memory{static_cast<float*>(device.scratch(thread, 0, static_cast<size_t>(floats) * sizeof(float)))};
  float* keys = memory.take(length * D);
  float* values = memory.take(length * width);
  float* scores = memory.take(kMR * stride);
  float* q = memory.take(kMR * q_stride + kLanes);
  DropoutRows dropout(a, memory.take(bits));
  RowPanels value_rows{};
  for (const Run& run : Runs(a, task.t0, task.t1)) {
    pack_transposed(task.k(), a.ldk, D, run, keys);
    value_rows = pack_rows(task.v(), a.ldv, D, run, length, values);
  }
  for (int64_t t = task.t0; t < task.t1; t += kMR) {
    const int rows = static_cast<int>(std::min<int64_t>(kMR, task.t1 - t));
    const Runs runs(a, t, t + rows);
    pack_a(task.q(t), a.ldq, false, D, rows, q_stride, q);
    for (const Run& run : runs) multiply_keys(q, q_stride, rows, D, keys, run, a.scale, scores, stride);
    Softmax row;
    softmax(task, padding, dropout, t, rows, runs, scores, stride, row);
    if (runs.count == 0) clear_rows(task, t, t + rows);
    for (int i = 0; i < runs.count; ++i) {
      const Run& run = runs.run[i];
      multiply_rows_of(scores + run.begin, stride, true, rows, run.end - run.begin, value_rows, run.begin, D,
                       task.out(t), a.ldout, i > 0);
    }
    for (int r = 0; r < rows; ++r) finish_row(task, padding, t + r, row.padding[r], row.total[r]);
  }
}

// Decoding: dot products with the keys where they lie, then the values' rows added up where they lie.
void attend_few(const Task& task, Device& device, int thread) {
  const allmrec_attention_args& a = task.a;
  const int64_t D = a.head_dim, stride = round_up(task.length(), kNR) + kLanes;
  const int rows = static_cast<int>(task.t1 - task.t0);
  const Padding padding(a, task.s, task.h);
  const int64_t bits = DropoutRows::floats(a, padding.count + stride);
  float* scores = static_cast<float*>(
      device.scratch(thread, 0, static_cast<size_t>(kMR * stride + bits) * sizeof(float)));
  DropoutRows dropout(a, scores + kMR * stride);
  const Runs runs(a, task.t0, task.t1);
  for (int64_t t = 0; t < rows; t += kDotRows) {
    const int64_t count = std::min<int64_t>(kDotRows, rows - t);
    for (const Run& run : runs) {
      for (int64_t j = run.begin; j < run.end; j += kDotColumns) {
        float sums[kDotRows][kDotColumns];
        const int64_t columns = std::min<int64_t>(kDotColumns, run.end - j);
        int64_t row[kDotColumns];
        for (int64_t c = 0; c < kDotColumns; ++c) row[c] = (j + std::min(c, columns - 1)) * a.ldk;
        dot_rows_any<ALLMREC_F32>(count, task.q(task.t0 + t), a.ldq, task.k(), row, kDotColumns * a.ldk, D,
                                  sums);
        for (int64_t r = 0; r < count; ++r) {
          for (int64_t c = 0; c < columns; ++c) scores[(t + r) * stride + j + c] = a.scale * sums[r][c];
        }
      }
    }
  }
  Softmax row;
  softmax(task, padding, dropout, task.t0, rows, runs, scores, stride, row);
  for (int r = 0; r < rows; ++r) {
    const int64_t t = task.t0 + r;
    float* out = task.out(t);
    constexpr int kWide = 4;
    for (int64_t d = 0; d < D; d += kWide * kLanes) {
      Vec sum[kWide] = {};
      const int64_t left = D - d;
      for (const Run& run : runs) {
        const float* v = task.v() + run.begin * a.ldv + d;
        for (int64_t j = run.begin; j < run.end; ++j, v += a.ldv) {
          const Vec weight = broadcast(scores[r * stride + j]);
          if (left >= kWide * kLanes) {
            for (int w = 0; w < kWide; ++w) sum[w] = fma(weight, load(v + w * kLanes), sum[w]);
          } else {
            for (int w = 0; w < kWide; ++w)
              sum[w] = fma(weight, load_n(v + w * kLanes, left - w * kLanes), sum[w]);
          }
        }
      }
      for (int w = 0; w < kWide; ++w) store_n(out + d + w * kLanes, sum[w], left - w * kLanes);
    }
    finish_row(task, padding, t, row.padding[r], row.total[r]);
  }
}

}  // namespace

void attention(Device& device, const allmrec_attention_args& a) {
  if (a.heads == 0 || a.head_dim == 0 || a.num_sequences == 0) return;
  // Tasks before each sequence; a sequence's chunks of rows lie together.
  int64_t* first =
      static_cast<int64_t*>(device.shared_scratch(0, static_cast<size_t>(a.num_sequences + 1) * 8));
  first[0] = 0;
  for (int64_t s = 0; s < a.num_sequences; ++s) {
    first[s + 1] = first[s] + (a.q_offsets[s + 1] - a.q_offsets[s] + kChunk - 1) / kChunk;
  }
  device.pool.run(first[a.num_sequences] * a.heads, [&](int64_t number, int thread) {
    const int64_t chunk = number / a.heads;
    const int64_t s = std::upper_bound(first, first + a.num_sequences + 1, chunk) - first - 1;
    const int64_t t0 = a.q_offsets[s] + (chunk - first[s]) * kChunk;
    const Task task{a, s, number % a.heads, t0, std::min<int64_t>(t0 + kChunk, a.q_offsets[s + 1])};
    task.t1 - task.t0 <= kFewRows ? attend_few(task, device, thread) : attend(task, device, thread);
  });
}

}  // namespace allmrec::cpu::ALLMREC_ISA
