#pragma once

// Attention of few query rows over many keys: decoding from a cache.
//
// A task is one part of kPart keys of one sequence, all heads together: a cache's rows are then read from
// their beginning to their end, where one head alone would take 128 bytes of every 3 KB. A part gives, for
// each head, its highest score, the sum of its weights and the weighted sum of its values; the part that is
// finished last puts a sequence's parts together, in their order, so that nothing depends on the number of
// threads. Keys and values are read in the dtype they are stored in. Bound: reading them once. Measured
// (a-llmrec-bench --device cpu --suite ops --filter decode, two Zen 4 cores that read 27 to 35 GB/s): 512
// keys of 12 × 64 and 32 × 64, for one sequence or eight, in float16, bfloat16 or float32 24 to 29 GB/s. Rows
// asked for ahead into the L2 cache gave 26 GB/s where the hardware's own prefetchers reached 16, and the L1
// cache 17.

#include <atomic>

#include "attention_block.h"
#include "ops.h"

namespace allmrec::cpu::ALLMREC_ISA {
namespace {

constexpr int64_t kPart = 64;  // keys
static_assert(kPart % kLanes == 0, "a part's scores are whole vectors");

// What a part leaves of one query row: (H) highest scores, (H) sums of weights, (C) sums of values, each
// rounded up to whole vectors.
struct PartLayout {
  explicit PartLayout(const allmrec_attention_args& a)
      : heads(round_up(a.heads, kLanes)),
        floats(2 * heads + round_up(int64_t{a.heads} * a.head_dim, kLanes)) {}
  int64_t heads, floats;
};

inline int64_t decode_parts(const allmrec_attention_args& a, int64_t s) {
  return a.kv_len[s] > kPart ? (a.kv_len[s] + kPart - 1) / kPart : 1;
}

// Lane l is lane pick[l] of a and b, one behind the other.
ALLMREC_INLINE Vec shuffle(Vec a, Vec b, IVec pick) {
#if defined(__clang__)
  Vec x{};
  for (int l = 0; l < kLanes; ++l) x[l] = pick[l] < kLanes ? a[pick[l]] : b[pick[l] - kLanes];
  return x;
#else
  return __builtin_shuffle(a, b, pick);
#endif
}

// Lane l of the result is the sum of x[l]'s lanes: halves of pairs are exchanged and added.
template <int Step>
ALLMREC_INLINE void fold_stage(Vec (&x)[kLanes]) {
#pragma GCC unroll 16
  for (int i = 0; i < Step; ++i) {
    IVec low{}, high{};
#pragma GCC unroll 16
    for (int l = 0; l < kLanes; ++l) {
      low[l] = l & Step ? kLanes + l - Step : l;
      high[l] = l & Step ? kLanes + l : l + Step;
    }
    x[i] = shuffle(x[i], x[i + Step], low) + shuffle(x[i], x[i + Step], high);
  }
}
ALLMREC_INLINE Vec sums_of(Vec (&x)[kLanes]) {
#if ALLMREC_LANES == 16
  fold_stage<8>(x);
#endif
#if ALLMREC_LANES >= 8
  fold_stage<4>(x);
#endif
  fold_stage<2>(x);
  fold_stage<1>(x);
  return x[0];
}

// One query row, or few, of one sequence against one part of its keys.
class DecodePart {
 public:
  DecodePart(Device& device, int thread, const allmrec_attention_args& a, int64_t s, int64_t part)
      : a_(a),
        D_(a.head_dim),
        begin_(part * kPart),
        end_(std::min<int64_t>(a.kv_len[s], begin_ + kPart)),
        pad_(a.pad_k ? a.pad_count[s] : 0),
        dropout_(a, nullptr) {
    const int64_t bits = DropoutRows::floats(a, pad_ + end_);
    const int64_t floats = a.heads * kPart + kLanes + bits;
    scores_ = static_cast<float*>(device.scratch(thread, 0, static_cast<size_t>(floats) * sizeof(float)));
    dropout_.use(scores_ + a.heads * kPart + kLanes);
    const int64_t size = size_of(dtype());
    k_ = static_cast<const char*>(a.k) + a.kv_start[s] * a.ldk * size;
    v_ = static_cast<const char*>(a.v) + a.kv_start[s] * a.ldv * size;
  }

  void run(int64_t t, float* to) {
    switch (dtype()) {
      case ALLMREC_F16:
        return run_as<ALLMREC_F16>(t, to);
      case ALLMREC_BF16:
        return run_as<ALLMREC_BF16>(t, to);
      default:
        return run_as<ALLMREC_F32>(t, to);
    }
  }

 private:
  static constexpr int64_t kTogether = 4;  // rows of values in one pass over the sums

  int32_t dtype() const { return a_.kv_dtype; }

  template <int32_t Dtype>
  void run_as(int64_t t, float* to) {
    const PartLayout layout(a_);
    float* tops = to;
    float* sums = to + layout.heads;
    float* values = to + 2 * layout.heads;
    std::fill_n(values, a_.heads * D_, 0.0f);
    std::fill(tops + a_.heads, sums, -INFINITY);
    std::fill(sums + a_.heads, values, 0.0f);
    const Runs runs(a_, t, t + 1);
    for (const Run& run : runs) {
      const Run seen{std::max(run.begin, begin_), std::min(run.end, end_)};
      for (int64_t j = seen.begin; j < seen.end; j += kLanes) {
        score<Dtype>(f32(a_.q) + t * a_.ldq, j, std::min<int64_t>(kLanes, seen.end - j));
      }
    }
    weigh(t, tops, sums);
    for (const Run& run : runs) {
      const int64_t end = std::min(run.end, end_);
      for (int64_t j = std::max(run.begin, begin_); j < end; j += kTogether) {
        add_values<Dtype>(j, std::min(kTogether, end - j), values);
      }
    }
  }

  // The scores of `count` keys from j on, all heads. Lanes beyond are never seen.
  template <int32_t Dtype>
  void score(const float* q, int64_t j, int64_t count) {
    int64_t row[kLanes];
    for (int64_t l = 0; l < kLanes; ++l) row[l] = (j + std::min(l, count - 1)) * a_.ldk;
    const bool more = j + kLanes < end_;
    const int64_t values = std::min(2 * kTogether, end_ - begin_);
    const Vec scale = broadcast(a_.scale * kLog2E);
    for (int64_t h = 0; h < a_.heads; ++h, q += D_) {
      if (more) {
        for (int64_t l = 0; l < count; ++l) prefetch<Dtype>(k_, row[l] + kLanes * a_.ldk + h * D_);
      } else {  // the values come next
        for (int64_t c = 0; c < values; ++c) prefetch<Dtype>(v_, (begin_ + c) * a_.ldv + h * D_);
      }
      Vec acc[kLanes];
#pragma GCC unroll 16
      for (int l = 0; l < kLanes; ++l) acc[l] = zero();
      sweep(D_, [&](int64_t d, auto lanes) {
        const Vec x = get(q + d, lanes);
#pragma GCC unroll 16
        for (int l = 0; l < kLanes; ++l)
          acc[l] = fma(get_as<Dtype>(k_, row[l] + h * D_ + d, lanes), x, acc[l]);
      });
      store(scores_ + h * kPart + (j - begin_), sums_of(acc) * scale);
    }
  }

  // Scores become weights 2^(score − top), dropped out.
  void weigh(int64_t t, float* tops, float* sums) {
    constexpr int kVectors = kPart / kLanes;
    const RowKeys keys(a_, t);
    IVec visible[kVectors];
    for (int i = 0; i < kVectors; ++i) visible[i] = keys.visible(begin_ + i * kLanes);
    for (int64_t h = 0; h < a_.heads; ++h) {
      float* scores = scores_ + h * kPart;
      Vec x[kVectors];
      Vec highest = broadcast(-INFINITY);
      for (int i = 0; i < kVectors; ++i) {
        x[i] = blend(visible[i], load(scores + i * kLanes), broadcast(-INFINITY));
        highest = max(highest, x[i]);
      }
      tops[h] = horizontal_max(highest);
      const float top = tops[h] == -INFINITY ? 0.0f : tops[h];
      Vec sum = zero();
      for (int i = 0; i < kVectors; ++i) {
        x[i] = blend(visible[i], exp2(x[i] - top), zero());
        sum += x[i];
        store(scores + i * kLanes, x[i]);
      }
      sums[h] = horizontal_sum(sum);
      if (!dropout_.any()) continue;
      dropout_.fill(t, h, 1, pad_ + end_);
      dropout_.sweep_row(0, pad_ + begin_, end_ - begin_, [&](int64_t i, Vec factor, auto lanes) {
        put(scores + i, get(scores + i, lanes) * factor, lanes);
      });
    }
  }

  // values (H, D) += the weighted rows j … j + count − 1.
  template <int32_t Dtype>
  void add_values(int64_t j, int64_t count, float* values) {
    int64_t row[kTogether];
    for (int64_t c = 0; c < kTogether; ++c) row[c] = (j + std::min(c, count - 1)) * a_.ldv;
    const int64_t ahead = std::min(kTogether, end_ - j - 2 * kTogether);
    for (int64_t h = 0; h < a_.heads; ++h) {
      for (int64_t c = 0; c < ahead; ++c) prefetch<Dtype>(v_, row[c] + 2 * kTogether * a_.ldv + h * D_);
      Vec weight[kTogether];
      for (int64_t c = 0; c < kTogether; ++c)
        weight[c] = broadcast(c < count ? scores_[h * kPart + (j - begin_) + c] : 0.0f);
      float* to = values + h * D_;
      sweep(D_, [&](int64_t d, auto lanes) {
        Vec sum = get(to + d, lanes);
        for (int64_t c = 0; c < kTogether; ++c)
          sum = fma(weight[c], get_as<Dtype>(v_, row[c] + h * D_ + d, lanes), sum);
        put(to + d, sum, lanes);
      });
    }
  }

  // A head's piece of a row, into the L2 cache: what is read next is more than the L1 cache holds.
  template <int32_t Dtype>
  void prefetch(const char* base, int64_t element) const {
    constexpr int64_t kSize = Dtype == ALLMREC_F32 ? 4 : 2;
    for (int64_t b = 0; b < D_ * kSize; b += 64) __builtin_prefetch(base + element * kSize + b, 0, 2);
  }

  const allmrec_attention_args& a_;
  const int64_t D_, begin_, end_, pad_;
  DropoutRows dropout_;
  float* scores_;  // (H, kPart)
  const char* k_;
  const char* v_;
};

// Row t of sequence s from its parts, `distance` floats apart, and the padding. Overwrites the parts' tops.
inline void merge_parts(const allmrec_attention_args& a, int64_t s, int64_t t, float* part, int64_t distance,
                        DropoutRows& dropout) {
  const PartLayout layout(a);
  const int64_t parts = decode_parts(a, s), D = a.head_dim;
  for (int64_t h0 = 0; h0 < a.heads; h0 += kLanes) {
    const int64_t heads = std::min<int64_t>(kLanes, a.heads - h0);
    float pad[kLanes], inverse[kLanes];  // the padding's scores, then weights; 1 / the sum of all weights
    for (int64_t h = 0; h < kLanes; ++h) {
      pad[h] = h < heads ? kLog2E * Padding(a, s, h0 + h).score(a, f32(a.q) + t * a.ldq + (h0 + h) * D)
                         : -INFINITY;
    }
    Vec top = load(pad);
    for (int64_t i = 0; i < parts; ++i) top = max(top, load(part + i * distance + h0));
    const IVec nothing = top == -INFINITY;
    top = blend(nothing, zero(), top);
    const Vec pad_weight = exp2(load(pad) - top);
    Vec total = pad_weight;
    for (int64_t i = 0; i < parts; ++i) {
      float* tops = part + i * distance + h0;
      const Vec factor = exp2(load(tops) - top);
      total = fma(factor, load(tops + layout.heads), total);
      store(tops, factor);
    }
    if (a.lse) {
      const Vec lse = blend(nothing, broadcast(-INFINITY), fma(top, broadcast(kLn2), log(total)));
      store_n(a.lse + t * a.heads + h0, lse, heads);
    }
    store(inverse, blend(nothing, zero(), 1.0f / total));
    store(pad, pad_weight);
    for (int64_t h = 0; h < heads; ++h) {
      const Padding padding(a, s, h0 + h);
      float weight = 0.0f;
      if (padding.count > 0) {
        dropout.fill(t, h0 + h, 1, padding.count);
        weight = pad[h] * padding.factor(dropout, 0);
      }
      float* out = f32(a.out) + t * a.ldout + (h0 + h) * D;
      const float* values = part + 2 * layout.heads + (h0 + h) * D;
      sweep(D, [&](int64_t d, auto lanes) {
        Vec sum = zero();
        if (padding.count > 0) sum = weight * get(padding.v + d, lanes);
        for (int64_t i = 0; i < parts; ++i)
          sum = fma(broadcast(part[i * distance + h0 + h]), get(values + i * distance + d, lanes), sum);
        put(out + d, sum * inverse[h], lanes);
      });
    }
  }
}

}  // namespace
}  // namespace allmrec::cpu::ALLMREC_ISA
