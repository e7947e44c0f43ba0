#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "../nn/adam.h"
#include "sentence_encoder.h"

namespace allmrec {

// Trains a sentence encoder so that two texts of one thing come close and others do not: InfoNCE over the
// batch (van den Oord et al., 2018) on cosines, as sentence embeddings are commonly made.
class ContrastiveTrainer {
 public:
  ContrastiveTrainer(SentenceEncoder& encoder, const AdamOptions& options, float temperature, uint64_t seed);

  // Texts 0 … B − 1 and their partners B … 2B − 1. Gives `loss` and `accuracy`, the share of texts whose
  // partner is the nearest.
  std::map<std::string, double> step(const TokenBatch& texts);
  Adam& optimizer() { return adam_; }

 private:
  std::map<std::string, double> gradients(const TokenBatch& texts);

  SentenceEncoder& encoder_;
  float temperature_;
  uint64_t seed_;
  Arena arena_;
  Adam adam_;
};

}  // namespace allmrec
