#pragma once

#include "backbone.h"

namespace allmrec {

// How sequence backbones learn the next item of each position.
enum class SequenceLossKind {
  bce,              // one uniform negative of each position, outside the user's items (SASRec's reference)
  softmax,          // cross-entropy over the whole catalogue
  sampled_softmax,  // the same over the next item and uniform negatives shared by the step
  gbce,  // generalised binary cross-entropy (gSASRec, Petrov and Macdonald 2023), negatives shared by the
         // step
};

struct SequenceLoss {
  SequenceLossKind kind = SequenceLossKind::bce;
  int negatives = 256;        // sampled_softmax, gbce
  float calibration = 0.75f;  // gbce: t, 0 = plain BCE … 1 = scores like softmax's

  // Reads `loss` (default bce), `negatives` and `calibration`.
  static SequenceLoss read(const NamedOptions& options);
  NegativeSampling sampling() const;
  // Records the loss of features (P, C) whose next items are rows of `table` (num_items + 1, C).
  void record(Tape& tape, const Tensor& features, Parameter& table, const Examples& examples) const;

 private:
  bool shared() const { return kind == SequenceLossKind::sampled_softmax || kind == SequenceLossKind::gbce; }
  // (P, negatives), `hit` where a negative of the step is the item that came next, else `other`.
  Tensor accidental_hits(Tape& tape, const Examples& examples, float hit, float other) const;
};

}  // namespace allmrec
