#include "sampling.h"

#include <algorithm>
#include <cmath>

#include "../../core/philox.h"

namespace allmrec {
namespace {

struct Candidate {
  float logit;
  int64_t place;
};

// Drops what is below the k-th largest; equals of it stay.
void keep_top_k(std::vector<Candidate>& candidates, int32_t k) {
  if (k <= 0 || static_cast<size_t>(k) >= candidates.size()) return;
  std::vector<float> logits;
  logits.reserve(candidates.size());
  for (const Candidate& c : candidates) logits.push_back(c.logit);
  std::nth_element(logits.begin(), logits.begin() + (k - 1), logits.end(), std::greater<>());
  const float least = logits[static_cast<size_t>(k - 1)];
  candidates.erase(std::remove_if(candidates.begin(), candidates.end(),
                                  [least](const Candidate& c) { return c.logit < least; }),
                   candidates.end());
}

// Drops the least likely tokens whose probabilities sum to at most 1 − p; the likeliest stays.
void keep_top_p(std::vector<Candidate>& candidates, double p) {
  if (p >= 1.0) return;
  float top = candidates.front().logit;
  for (const Candidate& c : candidates) top = std::max(top, c.logit);
  double total = 0.0;
  for (const Candidate& c : candidates) total += std::exp(static_cast<double>(c.logit) - top);
  const double dropped = (1.0 - p) * total;
  // Tokens of at most 1 / n of what may be dropped are all dropped, for there are n at most: only the others
  // are worth sorting.
  const double small = dropped / static_cast<double>(candidates.size());
  double before = 0.0;
  std::vector<Candidate> large;
  for (const Candidate& c : candidates) {
    const double weight = std::exp(static_cast<double>(c.logit) - top);
    if (weight <= small)
      before += weight;
    else
      large.push_back(c);
  }
  std::sort(large.begin(), large.end(), [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit < b.logit : a.place > b.place;
  });
  size_t first = 0;
  for (; first + 1 < large.size(); ++first) {
    before += std::exp(static_cast<double>(large[first].logit) - top);
    if (before > dropped) break;
  }
  candidates.assign(large.begin() + static_cast<std::ptrdiff_t>(first), large.end());
  // The order of the vocabulary again: which token a number draws must not hang on how equals were sorted.
  std::sort(candidates.begin(), candidates.end(),
            [](const Candidate& a, const Candidate& b) { return a.place < b.place; });
}

}  // namespace

void RepetitionPenalty::apply(float penalty, const std::vector<int32_t>& seen,
                              const std::vector<int32_t>& generated, const NextTokens& next, float* values) {
  if (penalty == 1.0f) return;
  const auto each = [&](auto&& visit) {
    for (const std::vector<int32_t>* tokens : {&seen, &generated})
      for (const int32_t id : *tokens)
        if (id >= 0 && static_cast<size_t>(id) < marked_.size()) visit(id);
  };
  const auto penalise = [&](float& x) { x = x < 0.0f ? x * penalty : x / penalty; };
  each([&](int32_t id) {
    char& marked = marked_[static_cast<size_t>(id)];
    if (!marked && next.ids == nullptr && id < next.count) penalise(values[id]);
    marked = 1;
  });
  if (next.ids)
    for (int64_t i = 0; i < next.count; ++i)
      if (marked_[static_cast<size_t>(next.ids[i])]) penalise(values[i]);
  each([&](int32_t id) { marked_[static_cast<size_t>(id)] = 0; });
}

int64_t most_likely(const NextTokens& next) {
  return std::max_element(next.logits, next.logits + next.count) - next.logits;
}

int64_t draw(const NextTokens& next, const SamplingOptions& options, uint64_t stream, uint64_t number) {
  std::vector<Candidate> candidates;
  candidates.reserve(static_cast<size_t>(next.count));
  for (int64_t i = 0; i < next.count; ++i) candidates.push_back({next.logits[i] / options.temperature, i});
  keep_top_k(candidates, options.top_k);
  keep_top_p(candidates, options.top_p);
  float top = candidates.front().logit;
  for (const Candidate& c : candidates) top = std::max(top, c.logit);
  std::vector<double> sums;
  sums.reserve(candidates.size());
  double total = 0.0;
  for (const Candidate& c : candidates) sums.push_back(total += std::exp(static_cast<double>(c.logit) - top));
  // 53 bits in [0, 1).
  const PhiloxWords words = philox(options.seed, stream, number);
  const uint64_t bits = (static_cast<uint64_t>(words.word[0]) << 21) | (words.word[1] >> 11);
  const double u = static_cast<double>(bits) * 0x1p-53 * total;
  const auto found = std::upper_bound(sums.begin(), sums.end(), u);
  return candidates[std::min<size_t>(found - sums.begin(), candidates.size() - 1)].place;
}

}  // namespace allmrec
