#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "../nn/adam.h"
#include "sentence_encoder.h"

namespace allmrec {

struct RecFormerConfig {
  EncoderConfig encoder;  // its positions are the tokens of the longest text
  int window = 64;        // tokens that a token sees around itself, half of them before it
  int max_items = 50;     // of a history
};

// Histories as text: [CLS], then the items' sentences. For every token its type (0 [CLS], 1 an attribute's
// name, 2 its value) and which item it belongs to (0 [CLS], 1 the first item, …).
struct RecFormerBatch {
  TokenBatch texts;
  std::vector<int32_t> types, items;
};

constexpr int32_t kRecFormerTypes = 3;

// Recformer (Li et al., KDD 2023): a sentence encoder with embeddings of a token's type and item more, whose
// tokens see a window around themselves and [CLS], which sees all. A vector is the state of [CLS].
class RecFormer {
 public:
  RecFormer(std::shared_ptr<Device> device, const RecFormerConfig& config);

  void initialise(uint64_t seed, float std) { encoder_.initialise(seed, std); }
  void load(const std::vector<std::string>& paths) { encoder_.load(paths); }

  // States of every token (T, C).
  Tensor hidden_states(Tape& tape, const RecFormerBatch& batch);
  // (B, C), float32.
  Tensor vectors(Tape& tape, const RecFormerBatch& batch);

  int64_t size() const { return encoder_.config().hidden_size; }
  ParameterSet& parameters() { return encoder_.parameters(); }

 private:
  void check(const RecFormerBatch& batch) const;

  SentenceEncoder encoder_;
  int window_, max_items_;
  Parameter *types_, *items_;
};

// Learns to tell the next item by cosines over a temperature: cross-entropy over items whose vectors are
// given, or are computed in the same step.
class RecFormerTrainer {
 public:
  using Losses = std::map<std::string, double>;

  RecFormerTrainer(RecFormer& model, const AdamOptions& options, float temperature, uint64_t seed);

  // Item vectors (N, C), which do not learn; of `step`, `evaluate` and `gradients`.
  void set_items(std::vector<float> vectors);
  // targets: B rows of the items.
  Losses step(const RecFormerBatch& histories, const std::vector<int32_t>& targets);
  Losses gradients(const RecFormerBatch& histories, const std::vector<int32_t>& targets);
  // The first `targets.size()` texts are histories, those behind them the items that the targets count.
  Losses contrast(const RecFormerBatch& texts, const std::vector<int32_t>& targets);
  // The mean loss, and NDCG@10 over all items.
  Losses evaluate(const RecFormerBatch& histories, const std::vector<int32_t>& targets);
  Adam& optimizer() { return adam_; }

 private:
  Losses compute(const RecFormerBatch& texts, const std::vector<int32_t>& targets, bool contrast);
  Tensor logits(Tape& tape, const RecFormerBatch& texts, int64_t histories, bool contrast);
  void expect_targets(const std::vector<int32_t>& targets, int64_t histories, int64_t items) const;

  RecFormer& model_;
  float temperature_;
  uint64_t seed_;
  Arena arena_;
  Adam adam_;
  DeviceBuffer items_;  // of unit length
  int64_t num_items_ = 0;
};

}  // namespace allmrec
