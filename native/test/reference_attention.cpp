// The reference of attention: every key is listed by itself, virtual padding keys too, each with its own
// dropout element, so that nothing is shared with the kernels' way of folding them into one.
#include <cmath>
#include <limits>

#include "../cpp/core/philox.h"
#include "reference.h"

namespace allmrec::reference {

namespace {

struct Key {
  const double* k;
  const double* v;
  double* dk;  // NULL in the forward
  double* dv;
  double factor;  // of dropout
  double score, weight;
};

// What query row t of sequence s and head h sees, with softmax done. Returns log-sum-exp.
double keys_of(const Attention& a, int64_t s, int64_t t, int64_t h, AttentionGradients* gradients,
               std::vector<Key>& keys) {
  const int64_t width = a.heads * a.head_dim;
  const int64_t padding = a.pad_k.empty() ? 0 : a.pad_count[s];
  const auto factor = [&](int64_t column) {
    if (a.dropout.p == 0) return 1.0;
    const uint64_t element = static_cast<uint64_t>((t * a.heads + h) * a.drop_columns + column);
    const bool kept = dropout_keeps(a.dropout.p, a.dropout.seed, a.dropout.stream, element);
    return kept ? 1 / (1 - static_cast<double>(a.dropout.p)) : 0.0;
  };
  keys.clear();
  for (int64_t i = 0; i < padding; ++i) {
    const int64_t at = h * a.head_dim;
    keys.push_back({&a.pad_k[at], &a.pad_v[at], gradients ? &gradients->d_pad_k[at] : nullptr,
                    gradients ? &gradients->d_pad_v[at] : nullptr, factor(i), 0, 0});
  }
  const int64_t prefix = a.prefix.empty() ? 0 : a.prefix[t];
  for (int64_t j = 0; j < a.kv_len[s]; ++j) {
    if (!(j < prefix || (j >= a.own_begin[t] && j < a.own_end[t]))) continue;
    const int64_t at = (a.kv_start[s] + j) * width + h * a.head_dim;
    keys.push_back({&a.k[at], &a.v[at], gradients ? &gradients->dk[at] : nullptr,
                    gradients ? &gradients->dv[at] : nullptr, factor(padding + j), 0, 0});
  }
  double top = -std::numeric_limits<double>::infinity(), total = 0;
  for (Key& key : keys) {
    for (int64_t d = 0; d < a.head_dim; ++d)
      key.score += a.scale * a.q[t * width + h * a.head_dim + d] * key.k[d];
    top = std::fmax(top, key.score);
  }
  if (keys.empty()) return top;
  for (Key& key : keys) total += key.weight = std::exp(key.score - top);
  for (Key& key : keys) key.weight /= total;
  return top + std::log(total);
}

}  // namespace

AttentionOutput attention(const Attention& a) {
  const int64_t width = a.heads * a.head_dim;
  AttentionOutput r = {Values(a.tokens * width), Values(a.tokens * a.heads)};
  std::vector<Key> keys;
  for (int64_t s = 0; s < a.sequences; ++s) {
    for (int64_t t = a.q_offsets[s]; t < a.q_offsets[s + 1]; ++t) {
      for (int64_t h = 0; h < a.heads; ++h) {
        r.lse[t * a.heads + h] = keys_of(a, s, t, h, nullptr, keys);
        for (const Key& key : keys) {
          for (int64_t d = 0; d < a.head_dim; ++d)
            r.out[t * width + h * a.head_dim + d] += key.weight * key.factor * key.v[d];
        }
      }
    }
  }
  return r;
}

AttentionGradients attention_backward(const Attention& a, const Values& d_out) {
  const int64_t width = a.heads * a.head_dim;
  AttentionGradients r = {Values(a.q.size()), Values(a.k.size()), Values(a.v.size()), Values(a.pad_k.size()),
                          Values(a.pad_v.size())};
  std::vector<Key> keys;
  for (int64_t s = 0; s < a.sequences; ++s) {
    for (int64_t t = a.q_offsets[s]; t < a.q_offsets[s + 1]; ++t) {
      for (int64_t h = 0; h < a.heads; ++h) {
        keys_of(a, s, t, h, &r, keys);
        const int64_t at = t * width + h * a.head_dim;
        double mean = 0;
        Values d_weight(keys.size());
        for (size_t i = 0; i < keys.size(); ++i) {
          for (int64_t d = 0; d < a.head_dim; ++d) {
            d_weight[i] += d_out[at + d] * keys[i].v[d] * keys[i].factor;
            keys[i].dv[d] += d_out[at + d] * keys[i].weight * keys[i].factor;
          }
          mean += d_weight[i] * keys[i].weight;
        }
        for (size_t i = 0; i < keys.size(); ++i) {
          const double d_score = keys[i].weight * (d_weight[i] - mean) * a.scale;
          for (int64_t d = 0; d < a.head_dim; ++d) {
            r.dq[at + d] += d_score * keys[i].k[d];
            keys[i].dk[d] += d_score * a.q[at + d];
          }
        }
      }
    }
  }
  return r;
}

}  // namespace allmrec::reference
