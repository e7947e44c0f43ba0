#pragma once

#include <functional>
#include <vector>

#include "../opt.h"

namespace allmrec {

struct GreedyOptions {
  int max_new_tokens = 32;
  float repetition_penalty = 1.0f;  // see GenerationOptions
  int32_t eos_id = 2;               // −1: never stops
};

// Greedy decoding of several prompts in one batch. seen: per prompt, the token ids the repetition penalty
// counts as seen before the first step; may be empty. Each result ends after its eos. on_step is called after
// every step; false stops.
std::vector<std::vector<int32_t>> generate_greedy(Opt& model, const LlmBatch& prompts,
                                                  const std::vector<float>& soft,
                                                  const std::vector<std::vector<int32_t>>& seen,
                                                  const GreedyOptions& options,
                                                  const std::function<bool()>& on_step);

}  // namespace allmrec
