#pragma once

// OPT with random weights, prompts of random tokens, and what their work costs at least.

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "../cpp/models/opt.h"
#include "harness.h"

namespace allmrec::bench {

struct OptSize {
  std::string name;  // "opt-6.7b"
  int64_t vocabulary;
  int hidden, layers, heads, ffn, positions;
};

// The sizes that suit the device, or those asked for.
std::vector<OptSize> opt_sizes(const Bench& bench);
// In which the frozen weights are stored there.
std::vector<int32_t> weight_dtypes(const Bench& bench);

OptConfig opt_config(const OptSize& size, int32_t dtype);
// Weights drawn on the device; the one model made last is kept, since the largest ones fill a card.
Opt& random_opt(Bench& bench, const OptSize& size, int32_t dtype);
void forget_opt();

// Random ids in sequences of `tokens`.
LlmBatch random_prompts(const OptSize& size, int64_t sequences, int64_t tokens);

// Tokens of a batch and what is asked of them; pairs are (query, key) pairs of one head.
struct LlmWork {
  double tokens = 0, pairs = 0;
  double rows = 0, row_pairs = 0;  // of the rows whose logits are wanted: the last layer runs for them alone
  double cached = 0;               // keys read from a cache
};
Cost forward_cost(const OptSize& size, int32_t dtype, const LlmWork& work);
// The same with the gradients of the activations, not of the weights.
Cost frozen_backward_cost(const OptSize& size, int32_t dtype, const LlmWork& work);

}  // namespace allmrec::bench
