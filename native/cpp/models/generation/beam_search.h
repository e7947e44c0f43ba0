#pragma once

#include <cstdint>
#include <vector>

#include "request.h"

namespace allmrec {

// One continuation of a running beam.
struct BeamCandidate {
  int32_t beam;
  int32_t token;
  float score;      // accumulated, repetition penalty included
  double log_prob;  // accumulated, as the model has it
};

// A beam search's bookkeeping as transformers 5.18 has it, in float32 as there: which beams go on, which
// sequences are finished, when it ends. What the beams hold is the caller's.
class BeamSearch {
 public:
  BeamSearch(const BeamOptions& options, int32_t max_new_tokens)
      : options_(options), max_new_tokens_(max_new_tokens) {}

  // Continuations looked at in a step.
  int32_t candidates() const { return 2 * options_.beams; }

  // Takes a step: the best `candidates()` continuations, best first, and for each the sequence it makes if it
  // ends here, else null. Gives the continuations that go on, best first.
  std::vector<BeamCandidate> advance(const std::vector<BeamCandidate>& best,
                                     const std::vector<GeneratedSequence*>& ended);
  bool done() const { return done_; }
  // Best first, at most as many as there are beams.
  std::vector<GeneratedSequence>& finished() { return finished_; }

 private:
  float normalised(float score, int32_t length) const;

  BeamOptions options_;
  int32_t max_new_tokens_;
  int32_t length_ = 0;  // generated tokens
  bool done_ = false;
  std::vector<GeneratedSequence> finished_;
};

}  // namespace allmrec
