// Attention over packed sequences, backward.
//
// A task is one head of one sequence, so that the gradients of its keys and values have one writer and one
// order of summation. Blocks of kBlock query rows are taken in turn: the weights P = 2^(score − lse) and dP
// = dO · Vᵀ are computed again in register tiles of the matrix product, kMR rows at a time over the keys
// those rows see; then, with D = rowsum(dO ∘ O), dS = P ∘ (dP − D), and dQ = dS · K, dK += dSᵀ · Q, dV += Pᵀ
// · dO. The sums over keys stay in scratch memory and are written out once. The ranges of keys of two
// sequences must not overlap. Bound: the multiply-add units; five products where the forward has two.
// Measured (a-llmrec-bench --device cpu --suite ops --filter backward, two Zen 4 cores with 253 GFLOP/s of
// float32): causal rows of 12 × 64, 512 of them 6.5 ms (62 % of the bound), 2,048 106 ms (61 %); computed in
// bfloat16 4.3 ms and 59 ms; 16 × 64 rows of 12 × 64 with dropout 4.3 ms (47 %).
#include <optional>

#include "attention_gradient_tiles.h"
#include "ops.h"

namespace allmrec::cpu::ALLMREC_ISA {

namespace {

constexpr int64_t kBlock = 48;     // query rows; a multiple of every kMR
constexpr int64_t kOneBlock = 96;  // up to so many query rows are one block

template <typename Tiles>
class HeadBackward {
 public:
  HeadBackward(Device& device, int thread, const allmrec_attention_backward_args& b, int64_t s, int64_t h,
               float* padding_sums)
      : b_(b),
        a_(b.forward),
        s_(s),
        h_(h),
        D_(a_.head_dim),
        length_(a_.kv_len[s]),
        padding_(a_, s, h),
        padding_sums_(padding_sums),
        dropout_(a_, nullptr) {
    const int64_t rows = a_.q_offsets[s + 1] - a_.q_offsets[s];
    block_ = rows <= kOneBlock ? round_up(rows, kMR) : kBlock;
    padded_ = round_up(length_, kNR);
    width_ = round_up(D_, kNR);
    stride_ = padded_ + kLanes;  // not a multiple of a page
    const int64_t bits = DropoutRows::floats(a_, padding_.count + padded_);
    const int64_t floats = Tiles::floats(padded_, D_, block_, stride_) + 2 * padded_ * width_ +
                           2 * block_ * stride_ + bits + 128;
    Carve memory{static_cast<float*>(device.scratch(thread, 0, static_cast<size_t>(floats) * sizeof(float)))};
    tiles_.emplace(memory, padded_, D_, block_, stride_);
    dk_ = memory.take(padded_ * width_);
    dv_ = memory.take(padded_ * width_);
    ds_ = memory.take(block_ * stride_);
    p_ = memory.take(block_ * stride_);
    dropout_.use(memory.take(bits));
  }

  void run() {
    const int64_t t0 = a_.q_offsets[s_], t1 = a_.q_offsets[s_ + 1];
    const int64_t kv = a_.kv_start[s_];
    const Runs all(a_, t0, t1);
    for (const Run& run : all) {
      tiles_->pack_keys(f32(a_.k) + kv * a_.ldk + h_ * D_, a_.ldk, f32(a_.v) + kv * a_.ldv + h_ * D_, a_.ldv,
                        run);
    }
    float* dk = f32(b_.dk) + kv * b_.ld_dk + h_ * D_;
    float* dv = f32(b_.dv) + kv * b_.ld_dv + h_ * D_;
    if (t1 - t0 <= block_ && all.count == 1 && all.run[0].begin == 0 && all.run[0].end == length_) {
      // Each key's sum is whole after one product: it goes where it belongs.
      block(t0, t1, {dk, b_.ld_dk, dv, b_.ld_dv, b_.accumulate != 0});
      return;
    }
    std::fill_n(dk_, padded_ * width_, 0.0f);
    std::fill_n(dv_, padded_ * width_, 0.0f);
    for (int64_t t = t0; t < t1; t += block_)
      block(t, std::min(t + block_, t1), {dk_, width_, dv_, width_, true});
    write(dk_, dk, b_.ld_dk);
    write(dv_, dv, b_.ld_dv);
  }

 private:
  const float* q(int64_t t) const { return f32(a_.q) + t * a_.ldq + h_ * D_; }
  const float* g(int64_t t) const { return f32(b_.d_out) + t * b_.ld_dout + h_ * D_; }
  QueryRows rows_from(int64_t t) const { return {q(t), a_.ldq, g(t), b_.ld_dout}; }
  float* dq(int64_t t) const { return f32(b_.dq) + t * b_.ld_dq + h_ * D_; }

  // Where the gradients of keys and values go.
  struct Sums {
    float* dk;
    int64_t ld_dk;
    float* dv;
    int64_t ld_dv;
    bool add;
  };

  void block(int64_t t0, int64_t t1, const Sums& to) {
    const Runs all(a_, t0, t1);
    for (int64_t r = 0; r < t1 - t0; ++r) {  // keys that the row's neighbours see and it does not
      for (const Run& run : all) {
        const int64_t end = round_up(run.end, kLanes);
        std::fill(ds_ + r * stride_ + run.begin, ds_ + r * stride_ + end, 0.0f);
        std::fill(p_ + r * stride_ + run.begin, p_ + r * stride_ + end, 0.0f);
      }
    }
    for (int64_t t = t0; t < t1; t += kMR) {
      tile_rows(t, static_cast<int>(std::min<int64_t>(kMR, t1 - t)), ds_ + (t - t0) * stride_,
                p_ + (t - t0) * stride_);
    }
    tiles_->take_block(rows_from(t0), t1 - t0, ds_, p_, all);
    for (const Run& run : all) {
      for (int64_t j = run.begin; j < run.end; j += kMR) {
        const int keys = static_cast<int>(std::min<int64_t>(kMR, run.end - j));
        int64_t r0 = 0, r1 = t1 - t0;  // the rows that see any of these keys
        while (r0 < r1 && !sees(t0 + r0, j, j + keys)) ++r0;
        while (r1 > r0 && !sees(t0 + r1 - 1, j, j + keys)) --r1;
        if (r0 == r1 && to.add) continue;
        tiles_->dk(j, keys, r0, r1, to.dk + j * to.ld_dk, to.ld_dk, to.add);
        tiles_->dv(j, keys, r0, r1, to.dv + j * to.ld_dv, to.ld_dv, to.add);
      }
    }
  }

  bool sees(int64_t t, int64_t begin, int64_t end) const {
    const RowKeys keys(a_, t);
    return begin < keys.prefix || (begin < keys.own_end && end > keys.own_begin);
  }

  // dS and P (dropped out) of up to kMR rows, and their dQ.
  void tile_rows(int64_t t, int rows, float* ds, float* p) {
    const Runs runs(a_, t, t + rows);
    tiles_->take_rows(rows_from(t), rows);
    for (const Run& run : runs) {
      tiles_->scores(rows, run, a_.scale * kLog2E, ds);
      tiles_->d_weights(rows, run, p);
    }
    dropout_.fill(t, h_, rows, padding_.count + runs.last());
    float delta[kMR];
    for (int r = 0; r < rows; ++r) {
      const float* out = f32(a_.out) + (t + r) * a_.ldout + h_ * D_;
      const float* gradient = g(t + r);
      delta[r] = sum_over(D_, [&](int64_t i, auto n) { return get(out + i, n) * get(gradient + i, n); });
      differentiate_row(t + r, r, delta[r], runs, ds + r * stride_, p + r * stride_);
    }
    for (int i = 0; i < runs.count; ++i) {
      const Run& run = runs.run[i];
      tiles_->dq(ds, rows, run, dq(t), b_.ld_dq, b_.accumulate || i > 0);
    }
    if (runs.count == 0 && !b_.accumulate) {
      for (int r = 0; r < rows; ++r) std::fill_n(dq(t + r), D_, 0.0f);
    }
    if (padding_.count > 0) {
      for (int r = 0; r < rows; ++r) differentiate_padding(t + r, r, delta[r]);
    }
  }

  // In: scores in ds, dP in p. Out: dS · scale in ds, the weights that met the values in p; 0 where the row
  // does not see its tile's keys.
  void differentiate_row(int64_t t, int r, float delta, const Runs& runs, float* ds, float* p) {
    const RowKeys keys(a_, t);
    const float lse = kLog2E * a_.lse[t * a_.heads + h_];
    for (const Run& run : runs) {
      const int64_t done = keys.each_part(run, [&](int64_t begin, int64_t end, int64_t before) {
        std::fill(ds + before, ds + begin, 0.0f);
        std::fill(p + before, p + begin, 0.0f);
        dropout_.sweep_row(r, padding_.count + begin, end - begin, [&](int64_t i, Vec factor, auto lanes) {
          const int64_t j = begin + i;
          const Vec weight = exp2(get(ds + j, lanes) - lse);
          put(ds + j, weight * (get(p + j, lanes) * factor - delta) * a_.scale, lanes);
          put(p + j, weight * factor, lanes);
        });
      });
      std::fill(ds + done, ds + run.end, 0.0f);
      std::fill(p + done, p + run.end, 0.0f);
    }
  }

  void differentiate_padding(int64_t t, int r, float delta) {
    const float* gradient = g(t);
    const float* query = q(t);
    const float weight = std::exp(padding_.score(a_, query) - a_.lse[t * a_.heads + h_]);
    const float factor = padding_.factor(dropout_, r);
    const float dp =
        sum_over(D_, [&](int64_t i, auto n) { return get(gradient + i, n) * get(padding_.v + i, n); });
    const Vec ds = broadcast(weight * (dp * factor - delta) * a_.scale), dropped = broadcast(weight * factor);
    sweep(D_, [&](int64_t i, auto n) {
      put(dq(t) + i, fma(ds, get(padding_.k + i, n), get(dq(t) + i, n)), n);
      if (!padding_sums_) return;
      float* dk = padding_sums_ + i;
      float* dv = padding_sums_ + D_ + i;
      put(dk, fma(ds, get(query + i, n), get(dk, n)), n);
      put(dv, fma(dropped, get(gradient + i, n), get(dv, n)), n);
    });
  }

  void write(const float* from, float* to, int64_t ld) const {
    for (int64_t j = 0; j < length_; ++j) {
      sweep(D_, [&](int64_t i, auto n) {
        Vec x = get(from + j * width_ + i, n);
        if (b_.accumulate) x += get(to + j * ld + i, n);
        put(to + j * ld + i, x, n);
      });
    }
  }

  const allmrec_attention_backward_args& b_;
  const allmrec_attention_args& a_;
  const int64_t s_, h_, D_, length_;
  const Padding padding_;
  float* padding_sums_;  // (2, D): of this sequence and head
  DropoutRows dropout_;
  std::optional<Tiles> tiles_;
  int64_t block_;                    // query rows in a block
  int64_t padded_, width_, stride_;  // floats
  float *dk_, *dv_;                  // (keys, width_)
  float *ds_, *p_;                   // (block_, stride_)
};

template <typename Tiles>
void run_heads(Device& device, const allmrec_attention_backward_args& b, float* sums) {
  const allmrec_attention_args& a = b.forward;
  device.pool.run(a.num_sequences * a.heads, [&](int64_t task, int thread) {
    float* own = sums ? sums + task * 2 * a.head_dim : nullptr;
    HeadBackward<Tiles>(device, thread, b, task / a.heads, task % a.heads, own).run();
  });
}

}  // namespace

void attention_backward(Device& device, const allmrec_attention_backward_args& b) {
  const allmrec_attention_args& a = b.forward;
  const int64_t D = a.head_dim;
  if (a.heads == 0 || D == 0 || a.num_sequences == 0) return;
  float* sums = nullptr;  // (B, H, 2, D)
  if (a.pad_k && (b.d_pad_k || b.d_pad_v)) {
    const int64_t floats = a.num_sequences * a.heads * 2 * D;
    sums = static_cast<float*>(device.shared_scratch(0, static_cast<size_t>(floats) * sizeof(float)));
    std::fill_n(sums, floats, 0.0f);
  }
#if ALLMREC_LANES == 16
  const bool rounds = a.compute_dtype == ALLMREC_BF16 && computes_bf16();
  rounds ? run_heads<Bfloat16GradientTiles>(device, b, sums) : run_heads<FloatGradientTiles>(device, b, sums);
#else
  run_heads<FloatGradientTiles>(device, b, sums);
#endif
  for (int64_t s = 0; sums && s < a.num_sequences; ++s) {
    for (int64_t h = 0; h < a.heads; ++h) {
      const float* own = sums + (s * a.heads + h) * 2 * D;
      for (int64_t d = 0; d < D; ++d) {
        if (b.d_pad_k) b.d_pad_k[h * D + d] += own[d];
        if (b.d_pad_v) b.d_pad_v[h * D + d] += own[D + d];
      }
    }
  }
}

}  // namespace allmrec::cpu::ALLMREC_ISA
