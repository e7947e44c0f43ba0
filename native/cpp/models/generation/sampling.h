#pragma once

#include <cstdint>
#include <vector>

#include "request.h"

namespace allmrec {

// What may follow a sequence, with the model's logits. ids null: the tokens 0 … count − 1; else in any order.
struct NextTokens {
  const int32_t* ids = nullptr;
  float* logits = nullptr;
  int64_t count = 0;
  // Of all tokens, or of a trie's children: log p = logit − log_sum. NaN when it was not asked for.
  double log_sum = 0.0;

  int32_t id(int64_t i) const { return ids ? ids[i] : static_cast<int32_t>(i); }
};

// The set of tokens a repetition penalty counts, reused from step to step.
class RepetitionPenalty {
 public:
  explicit RepetitionPenalty(int64_t vocabulary) : marked_(static_cast<size_t>(vocabulary), 0) {}
  // x < 0 ? x · penalty : x / penalty for the logits, or log-probabilities, of tokens in either list.
  void apply(float penalty, const std::vector<int32_t>& seen, const std::vector<int32_t>& generated,
             const NextTokens& next, float* values);

 private:
  std::vector<char> marked_;
};

// Draws one of the tokens: temperature, then top-k, then top-p, as transformers has them. Draw `number` of
// `stream` depends on nothing but these, the seed and the logits. Returns its place in `next`.
int64_t draw(const NextTokens& next, const SamplingOptions& options, uint64_t stream, uint64_t number);

// The place of the largest logit, the first of equals.
int64_t most_likely(const NextTokens& next);

}  // namespace allmrec
