#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "token_trie.h"

namespace allmrec {

// When a beam search ends before its length, as transformers has it.
enum class EarlyStopping {
  no,     // when no running beam can beat the worst finished one at its present length
  yes,    // when as many are finished as there are beams
  never,  // when no running beam can at any length
};

enum class FinishReason { eos, stop, length, abort };

struct SamplingOptions {
  bool enabled = false;
  float temperature = 1.0f;  // > 0
  int32_t top_k = 0;         // 0: all
  float top_p = 1.0f;        // (0, 1]
  uint64_t seed = 0;
};

struct BeamOptions {
  int32_t beams = 1;
  float length_penalty = 1.0f;  // a sequence's score is its log-probability / length^penalty
  EarlyStopping early_stopping = EarlyStopping::no;
};

struct GenerationOptions {
  int32_t max_new_tokens = 32;
  int32_t eos_id = -1;  // −1: none
  // As transformers: logits (in beam search log-probabilities) of seen tokens are divided where positive and
  // multiplied where negative.
  float repetition_penalty = 1.0f;
  SamplingOptions sampling;
  BeamOptions beam;
  int32_t sequences = 1;  // that come back: up to the number of beams, or samples
  std::vector<std::vector<int32_t>> stop_tokens;
  std::vector<std::string> stop_bytes;  // bytes of text
  bool stream = false;                  // report each token; one sequence, no beams
  bool log_probs = true;                // of greedy decoding; all else has them at no cost
};

// The bytes of text each token stands for, none for special tokens.
struct TokenBytes {
  std::vector<int32_t> offsets{0};
  std::string bytes;
  // Tokens beyond the table have no text.
  void append_to(std::string& text, int32_t token) const {
    if (token >= 0 && static_cast<size_t>(token) + 1 < offsets.size())
      text.append(bytes, static_cast<size_t>(offsets[token]),
                  static_cast<size_t>(offsets[token + 1] - offsets[token]));
  }
};

struct GenerationRequest {
  int64_t id = 0;
  std::vector<int32_t> ids;        // −k − 1: row k of soft
  std::vector<int32_t> positions;  // empty: 0, 1, 2, …
  std::vector<float> soft;         // (S, embed)
  std::vector<int32_t> seen;       // tokens the repetition penalty counts before the first step
  GenerationOptions options;
  std::shared_ptr<const TokenTrie> trie;    // null: any token
  std::shared_ptr<const TokenBytes> bytes;  // for stop_bytes
};

struct GeneratedSequence {
  std::vector<int32_t> ids;  // with what ended it
  FinishReason reason = FinishReason::length;
  // Σ log p of the tokens: of the model's own distribution, before penalty, temperature and cuts. With a
  // trie, over the children alone. NaN where nobody asked.
  double log_prob = 0.0;
  double score = 0.0;  // beam search: divided by length^length_penalty, penalties included; else log_prob
  int32_t entry = -1;  // of the trie, once it ended there
};

struct GeneratedToken {
  int64_t request;
  int32_t id;
  double log_prob;
};

struct FinishedRequest {
  int64_t request;
  std::vector<GeneratedSequence> sequences;  // best first
};

struct GenerationEvents {
  std::vector<GeneratedToken> tokens;
  std::vector<FinishedRequest> finished;
  bool empty() const { return tokens.empty() && finished.empty(); }
};

}  // namespace allmrec
