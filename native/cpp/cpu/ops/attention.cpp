// Attention over packed sequences, forward.
//
// A task is one head of one sequence, for up to kChunk query rows. It packs the keys (transposed) and values its rows
// see, then takes kMR query rows at a time: the scores against all their keys in register tiles of the matrix product,
// one softmax over each row while it lies in the cache (no running maximum to correct), and the weights times the
// values. Panels of keys that none of the kMR rows sees are skipped, so causal attention costs its triangle only and a
// candidate only the prompt and itself. Up to kFewRows rows (decoding) nothing is packed: keys and values are read once.
// Bound: the multiply-add units; with one query row, reading the keys and values.
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
  const float* q(int64_t t) const { return a.q + t * a.ldq + h * a.head_dim; }
  const float* k() const { return a.k + a.kv_start[s] * a.ldk + h * a.head_dim; }
  const float* v() const { return a.v + a.kv_start[s] * a.ldv + h * a.head_dim; }
  float* out(int64_t t) const { return a.out + t * a.ldout + h * a.head_dim; }
};

struct Softmax {
  float inverse_total;   // 0 for a row that sees nothing
  float padding_weight;  // before division by the total
};

// Row t's scores, over the keys of `runs`, become exp(score − maximum), dropped out and not yet divided by their sum.
Softmax softmax(const Task& task, const Padding& padding, int64_t t, const Runs& runs, float* scores) {
  const allmrec_attention_args& a = task.a;
  const RowKeys keys(a, t);
  const float padding_score = padding.score(a, task.q(t));
  Vec highest = broadcast(padding_score);
  for (const Run& run : runs) {
    const int64_t end = std::min(run.end, keys.end());
    for (int64_t j = run.begin; j < end; j += kLanes) {
      highest = max(highest, blend(keys.visible(j), load(scores + j), broadcast(-INFINITY)));
    }
  }
  const float top = horizontal_max(highest);
  float* lse = a.lse ? a.lse + t * a.heads + task.h : nullptr;
  if (top == -INFINITY) {
    for (const Run& run : runs) {
      for (int64_t j = run.begin; j < run.end; j += kLanes) store(scores + j, zero());
    }
    if (lse) *lse = -INFINITY;
    return {0.0f, 0.0f};
  }
  Vec sum = zero();
  for (const Run& run : runs) {
    const int64_t end = std::max(run.begin, std::min(run.end, keys.end()));
    sweep_dropout(a.dropout, first_element(a, t, task.h) + padding.count + run.begin, end - run.begin,
                  [&](int64_t i, Vec factor, auto) {
                    float* p = scores + run.begin + i;  // rows have room for whole vectors
                    const Vec weight = blend(keys.visible(run.begin + i), exp(load(p) - top), zero());
                    sum += weight;
                    store(p, weight * factor);
                  });
    for (int64_t j = round_up(end, kLanes); j < run.end; j += kLanes) store(scores + j, zero());
  }
  const float padding_weight = padding.count > 0 ? std::exp(padding_score - top) : 0.0f;
  const float total = horizontal_sum(sum) + padding_weight;
  if (lse) *lse = top + std::log(total);
  return {1.0f / total, padding_weight == 0.0f ? 0.0f : padding_weight * padding.factor(a, t, task.h)};
}

void finish_row(const Task& task, const Padding& padding, int64_t t, const Softmax& row) {
  float* out = task.out(t);
  sweep(task.a.head_dim, [&](int64_t i, auto n) {
    Vec x = get(out + i, n);
    if (row.padding_weight != 0.0f) x = fma(broadcast(row.padding_weight), get(padding.v + i, n), x);
    put(out + i, x * row.inverse_total, n);
  });
}

void clear_rows(const Task& task, int64_t t0, int64_t t1) {
  for (int64_t t = t0; t < t1; ++t) std::fill_n(task.out(t), task.a.head_dim, 0.0f);
}

void attend(const Task& task, Device& device, int thread) {
  const allmrec_attention_args& a = task.a;
  const int64_t D = a.head_dim, width = round_up(D, kNR), length = round_up(task.length(), kNR);
  const int64_t stride = length + kLanes, q_stride = round_up(D, kLanes) + kLanes;
  const int64_t floats = length * (D + width) + kMR * (stride + q_stride) + 128;
  Carve memory{static_cast<float*>(device.scratch(thread, 0, static_cast<size_t>(floats) * sizeof(float)))};
  float* keys = memory.take(length * D);
  float* values = memory.take(length * width);
  float* scores = memory.take(kMR * stride);
  float* q = memory.take(kMR * q_stride + kLanes);
  for (const Run& run : Runs(a, task.t0, task.t1)) {
    pack_transposed(task.k(), a.ldk, D, run, keys);
    pack_rows(task.v(), a.ldv, D, run, length, values);
  }
  const Padding padding(a, task.s, task.h);
  for (int64_t t = task.t0; t < task.t1; t += kMR) {
    const int rows = static_cast<int>(std::min<int64_t>(kMR, task.t1 - t));
    const Runs runs(a, t, t + rows);
    pack_a(task.q(t), a.ldq, false, D, rows, q_stride, q);
    for (const Run& run : runs) multiply_keys(q, q_stride, rows, D, keys, run, a.scale, scores, stride);
    Softmax row[kMR];
    for (int r = 0; r < rows; ++r) row[r] = softmax(task, padding, t + r, runs, scores + r * stride);
    if (runs.count == 0) clear_rows(task, t, t + rows);
    for (int i = 0; i < runs.count; ++i) {
      const Run& run = runs.run[i];
      multiply_rows_of(scores + run.begin, stride, true, rows, run.end - run.begin, values, length, run.begin, D,
                       task.out(t), a.ldout, i > 0);
    }
    for (int r = 0; r < rows; ++r) finish_row(task, padding, t + r, row[r]);
  }
}

// Decoding: dot products with the keys where they lie, then the values' rows added up where they lie.
void attend_few(const Task& task, Device& device, int thread) {
  const allmrec_attention_args& a = task.a;
  const int64_t D = a.head_dim, stride = round_up(task.length(), kNR) + kLanes;
  const int rows = static_cast<int>(task.t1 - task.t0);
  float* scores = static_cast<float*>(device.scratch(thread, 0, static_cast<size_t>(kMR * stride) * sizeof(float)));
  const Runs runs(a, task.t0, task.t1);
  const Padding padding(a, task.s, task.h);
  for (int64_t t = 0; t < rows; t += kDotRows) {
    const int64_t count = std::min<int64_t>(kDotRows, rows - t);
    for (const Run& run : runs) {
      for (int64_t j = run.begin; j < run.end; j += kDotColumns) {
        float sums[kDotRows][kDotColumns];
        const int64_t columns = std::min<int64_t>(kDotColumns, run.end - j);
        int64_t row[kDotColumns];
        for (int64_t c = 0; c < kDotColumns; ++c) row[c] = (j + std::min(c, columns - 1)) * a.ldk;
        dot_rows_any<ALLMREC_F32>(count, task.q(task.t0 + t), a.ldq, task.k(), row, D, sums);
        for (int64_t r = 0; r < count; ++r) {
          for (int64_t c = 0; c < columns; ++c) scores[(t + r) * stride + j + c] = a.scale * sums[r][c];
        }
      }
    }
  }
  for (int r = 0; r < rows; ++r) {
    const int64_t t = task.t0 + r;
    const Softmax row = softmax(task, padding, t, runs, scores + r * stride);
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
            for (int w = 0; w < kWide; ++w) sum[w] = fma(weight, load_n(v + w * kLanes, left - w * kLanes), sum[w]);
          }
        }
      }
      for (int w = 0; w < kWide; ++w) store_n(out + d + w * kLanes, sum[w], left - w * kLanes);
    }
    finish_row(task, padding, t, row);
  }
}

}  // namespace

void attention(Device& device, const allmrec_attention_args& a) {
  if (a.heads == 0 || a.head_dim == 0 || a.num_sequences == 0) return;
  // Tasks before each sequence; a sequence's chunks of rows lie together.
  int64_t* first = static_cast<int64_t*>(device.shared_scratch(0, static_cast<size_t>(a.num_sequences + 1) * 8));
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
