#include "beam_search.h"

#include <algorithm>
#include <cmath>

namespace allmrec {

float BeamSearch::normalised(float score, int32_t length) const {
  return score / static_cast<float>(std::pow(static_cast<double>(length), options_.length_penalty));
}

std::vector<BeamCandidate> BeamSearch::advance(const std::vector<BeamCandidate>& best,
                                               const std::vector<GeneratedSequence*>& ended) {
  const auto beams = static_cast<size_t>(options_.beams);
  ++length_;
  std::vector<BeamCandidate> running;
  for (size_t i = 0; i < best.size() && running.size() < beams; ++i)
    if (ended[i] == nullptr) running.push_back(best[i]);
  // Only the first `beams` may finish; the others are there so that enough can go on.
  for (size_t i = 0; i < best.size() && i < beams; ++i) {
    if (ended[i] == nullptr) continue;
    ended[i]->score = normalised(best[i].score, length_);
    ended[i]->log_prob = best[i].log_prob;
    finished_.push_back(std::move(*ended[i]));
  }
  std::stable_sort(finished_.begin(), finished_.end(),
                   [](const GeneratedSequence& a, const GeneratedSequence& b) { return a.score > b.score; });
  if (finished_.size() > beams) finished_.resize(beams);
  const bool full = finished_.size() == beams;
  if (running.empty()) {
    done_ = true;
    return running;
  }
  if (full) {
    const bool at_most = options_.early_stopping == EarlyStopping::never && options_.length_penalty > 0.0f;
    const float possible = normalised(running.front().score, at_most ? max_new_tokens_ : length_);
    done_ = options_.early_stopping == EarlyStopping::yes ||
            !(possible > static_cast<float>(finished_.back().score));
  }
  return running;
}

}  // namespace allmrec
