// Attention over packed sequences, forward.
//
// A task is one head of one sequence, for up to kChunk query rows. It packs the keys (transposed) and values
// its rows see, then takes kMR query rows at a time: the scores against all their keys in register tiles of
// the matrix product, one softmax over each row while it lies in the cache (no running maximum to correct),
// and the weights times the values. Panels of keys that none of the kMR rows sees are skipped, so causal
// attention costs its triangle only and a candidate only the prompt and itself; within a panel weights are
// made for the keys a row sees and no others. Keys and values of a half type are widened as they are packed.
// Up to kFewRows rows (decoding) nothing is packed: attention_decode.h. What a task computes follows from its
// own sequence alone. Bound: the multiply-add units; with one query row, reading the keys and values.
// Measured (a-llmrec-bench --device cpu --suite ops --filter attention, two Zen 4 cores with 253 GFLOP/s of
// float32): causal rows of 12 × 64, 512 of them 2.7 ms (60 % of the bound), 2,048 39 ms (66 %); computed in
// bfloat16 1.64 ms and 26 ms; 16 × 64 rows of 12 × 64 with dropout 2.2 ms (37 %: a quarter of it the random
// bits).
#include "attention_decode.h"
#include "attention_tiles.h"
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
  const void* k() const { return key_row(a.k, a.ldk); }
  const void* v() const { return key_row(a.v, a.ldv); }
  float* out(int64_t t) const { return f32(a.out) + t * a.ldout + h * a.head_dim; }

 private:
  const void* key_row(const void* x, int64_t ld) const {
    return static_cast<const char*>(x) + (a.kv_start[s] * ld + h * a.head_dim) * size_of(a.kv_dtype);
  }
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
    keys.each_part(run, [&](int64_t begin, int64_t end, int64_t) {
      Vec other = highest;
      int64_t j = begin;
      for (; j + 2 * kLanes <= end; j += 2 * kLanes) {
        highest = max(highest, load(scores + j));
        other = max(other, load(scores + j + kLanes));
      }
      sweep(end - j, [&](int64_t i, auto lanes) {
        const Vec x = get(scores + j + i, lanes);
        highest = max(highest, keep_or(x, -INFINITY, lanes));
      });
      highest = max(highest, other);
    });
  }
  return horizontal_max(highest);
}

// A row's scores become 2^(score − top), dropped out, and 0 where the row does not see its tile's keys;
// returns their sum before dropout.
float weigh(const DropoutRows& dropout, int r, int64_t dropped_before, const RowKeys& keys, const Runs& runs,
            float* scores, float top) {
  Vec sum = zero();
  for (const Run& run : runs) {
    const int64_t done = keys.each_part(run, [&](int64_t begin, int64_t end, int64_t before) {
      std::fill(scores + before, scores + begin, 0.0f);
      float* part = scores + begin;
      dropout.sweep_row(r, dropped_before + begin, end - begin, [&](int64_t i, Vec factor, auto lanes) {
        const Vec weight = exp2(get(part + i, lanes) - top);
        sum += keep(weight, lanes);
        put(part + i, weight * factor, lanes);
      });
    });
    std::fill(scores + done, scores + run.end, 0.0f);
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
    x.padding[r] = kLog2E * padding.score(a, task.q(t + r));
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
    const Vec weight = blend(nothing, zero(), exp2(load(x.padding + r) - top));
    const Vec total = load(x.total + r) + weight;
    store(x.padding + r, weight);
    store(lse + r, blend(nothing, broadcast(-INFINITY), fma(top, broadcast(kLn2), log(total))));
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

template <typename Tiles>
void attend(const Task& task, Device& device, int thread) {
  const allmrec_attention_args& a = task.a;
  const int64_t D = a.head_dim, length = round_up(task.length(), kNR), stride = length + kLanes;
  const Padding padding(a, task.s, task.h);
  const int64_t bits = DropoutRows::floats(a, padding.count + length);
  const int64_t floats = Tiles::floats(length, D) + kMR * stride + bits + 192;
  Carve memory{static_cast<float*>(device.scratch(thread, 0, static_cast<size_t>(floats) * sizeof(float)))};
  Tiles tiles(memory, length, D);
  float* scores = memory.take(kMR * stride);
  DropoutRows dropout(a, memory.take(bits));
  for (const Run& run : Runs(a, task.t0, task.t1)) {
    tiles.pack(task.k(), a.ldk, task.v(), a.ldv, a.kv_dtype, run);
  }
  for (int64_t t = task.t0; t < task.t1; t += kMR) {
    const int rows = static_cast<int>(std::min<int64_t>(kMR, task.t1 - t));
    const Runs runs(a, t, t + rows);
    tiles.take_rows(task.q(t), a.ldq, rows);
    for (const Run& run : runs) tiles.scores(rows, run, a.scale * kLog2E, scores, stride);
    Softmax row;
    softmax(task, padding, dropout, t, rows, runs, scores, stride, row);
    if (runs.count == 0) clear_rows(task, t, t + rows);
    for (int i = 0; i < runs.count; ++i) {
      tiles.round_weights(scores, stride, rows, runs.run[i]);
      tiles.values(scores, stride, rows, runs.run[i], task.out(t), a.ldout, i > 0);
    }
    for (int r = 0; r < rows; ++r) finish_row(task, padding, t + r, row.padding[r], row.total[r]);
  }
}

void attend(const Task& task, Device& device, int thread) {
#if ALLMREC_LANES == 16
  if (task.a.compute_dtype == ALLMREC_BF16 && computes_bf16())
    return attend<Bfloat16Tiles>(task, device, thread);
#endif
  attend<FloatTiles>(task, device, thread);
}

// How the work is cut: tasks before each sequence, the parts of few rows, and what they leave.
class Plan {
 public:
  Plan(Device& device, const allmrec_attention_args& a) : a_(a), layout_(a) {
    const int64_t B = a.num_sequences;
    int64_t* memory = static_cast<int64_t*>(device.shared_scratch(0, static_cast<size_t>(3 * B + 1) * 8));
    first_ = memory, first_part_ = memory + B + 1;
    left_ = reinterpret_cast<std::atomic<int64_t>*>(first_part_ + B);
    int64_t parts = 0;
    first_[0] = 0;
    for (int64_t s = 0; s < B; ++s) {
      const int64_t rows = a.q_offsets[s + 1] - a.q_offsets[s];
      first_part_[s] = parts;
      if (few(s)) {
        const int64_t n = decode_parts(a, s);
        new (left_ + s) std::atomic<int64_t>(n);
        first_[s + 1] = first_[s] + n;
        parts += n * rows;
      } else {
        first_[s + 1] = first_[s] + (rows + kChunk - 1) / kChunk * a.heads;
      }
    }
    results_ = static_cast<float*>(
        device.shared_scratch(1, static_cast<size_t>(parts * layout_.floats) * sizeof(float)));
  }

  int64_t tasks() const { return first_[a_.num_sequences]; }

  void run(int64_t number, Device& device, int thread) {
    const int64_t s = std::upper_bound(first_, first_ + a_.num_sequences + 1, number) - first_ - 1;
    const int64_t own = number - first_[s], t0 = a_.q_offsets[s], t1 = a_.q_offsets[s + 1];
    if (few(s)) return decode(s, own, device, thread);
    // The last rows first: with a causal mask they take longest.
    const int64_t begin = t0 + ((t1 - t0 - 1) / kChunk - own / a_.heads) * kChunk;
    attend({a_, s, own % a_.heads, begin, std::min(begin + kChunk, t1)}, device, thread);
  }

 private:
  bool few(int64_t s) const {
    const int64_t rows = a_.q_offsets[s + 1] - a_.q_offsets[s];
    return rows > 0 && rows <= kFewRows;
  }

  void decode(int64_t s, int64_t part, Device& device, int thread) {
    const int64_t t0 = a_.q_offsets[s], rows = a_.q_offsets[s + 1] - t0;
    float* results = results_ + first_part_[s] * layout_.floats;  // (parts, rows, layout_.floats)
    {
      DecodePart keys(device, thread, a_, s, part);
      for (int64_t r = 0; r < rows; ++r) keys.run(t0 + r, results + (part * rows + r) * layout_.floats);
    }
    if (left_[s].fetch_sub(1, std::memory_order_acq_rel) > 1) return;
    const int64_t bits = DropoutRows::floats(a_, a_.pad_k ? a_.pad_count[s] : 0);
    DropoutRows dropout(
        a_, static_cast<float*>(device.scratch(thread, 0, static_cast<size_t>(bits) * sizeof(float))));
    for (int64_t r = 0; r < rows; ++r)
      merge_parts(a_, s, t0 + r, results + r * layout_.floats, rows * layout_.floats, dropout);
  }

  const allmrec_attention_args& a_;
  const PartLayout layout_;
  int64_t* first_;              // (B + 1) tasks before a sequence
  int64_t* first_part_;         // (B) parts times rows before a sequence of few rows
  std::atomic<int64_t>* left_;  // (B) parts that are not done
  float* results_;
};

}  // namespace

void attention(Device& device, const allmrec_attention_args& call) {
  allmrec_attention_args a = call;
  if (a.kv_dtype == ALLMREC_F32) a.kv_dtype = a.dtype;
  if (a.heads == 0 || a.head_dim == 0 || a.num_sequences == 0) return;
  Plan plan(device, a);
  device.pool.run(plan.tasks(), [&](int64_t number, int thread) { plan.run(number, device, thread); });
}

}  // namespace allmrec::cpu::ALLMREC_ISA
