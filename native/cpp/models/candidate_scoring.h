#pragma once

#include <cstdint>
#include <vector>

#include "opt.h"
#include "projector.h"

namespace allmrec {

// Opt::log_probs of packed sequences, soft tokens given as numbers. Throws ErrorCode::numeric with the op
// where they are not finite. cached: may be null.
std::vector<float> log_probs(Opt& model, Tape& tape, const LlmBatch& batch, const std::vector<float>& soft,
                             const std::vector<int32_t>& rows, const std::vector<int32_t>& pair_rows,
                             const std::vector<int32_t>& pair_targets, const CachedBatch* cached = nullptr);

// How a text's likelihood depends on the soft tokens before it.
struct SoftGradient {
  double mean_log_prob = 0.0;   // of the target tokens
  std::vector<float> gradient;  // (S, embed): its derivative by each number of the soft tokens
};

// Backward through the frozen model. Throws ErrorCode::unsupported where activations carry no gradients, and
// ErrorCode::numeric.
SoftGradient soft_gradient(Opt& model, const LlmBatch& batch, const std::vector<float>& soft,
                           const TokenTargets& targets);

// Log-likelihoods of answers behind one prompt, one number an answer.
struct AnswerLikelihoods {
  std::vector<float> sum;   // Σ log p of its tokens
  std::vector<float> mean;  // the same divided by their number
};

// Scores any number of answers behind a prompt, each as if it stood alone there. The prompt is computed once.
// What fits into tokens_per_pass is one packed sequence; more is scored in groups of about so many tokens
// that see the prompt's keys and values in a cache, so memory does not grow with the answers. answers: at
// least one token each; prompt and answer have to fit the model's positions.
AnswerLikelihoods score_answers(Opt& model, const std::vector<int32_t>& prompt,
                                const std::vector<float>& soft,
                                const std::vector<std::vector<int32_t>>& answers, int64_t tokens_per_pass);

}  // namespace allmrec
