#pragma once

#include <memory>
#include <vector>

#include "../kv_cache.h"
#include "beam_search.h"
#include "next_tokens.h"
#include "stopping.h"

namespace allmrec {

// A request that has a place in the cache: its prompt and the sequences that go on from it. One sequence lies
// right behind its prompt; several (beams, samples) see the prompt's keys and have a segment of their own
// each.
class SequenceGroup {
 public:
  // Tokens a request can generate with a model of so many positions.
  static int32_t room(const GenerationRequest& request, int64_t max_positions);
  // Sequences at once: beams or samples.
  static int32_t width(const GenerationRequest& request);
  // Rows of the cache it takes: the last token is never read.
  static int64_t rows(const GenerationRequest& request, int64_t max_positions);

  // start: where its rows begin. Its room is at least 1.
  SequenceGroup(GenerationRequest request, int64_t start, int64_t max_positions);

  // One sequence as the model has to go on with it.
  struct Branch {
    CachedSequence cache;
    std::vector<int32_t> pending;  // generated, but not yet in the cache
    std::vector<int32_t> generated;
    double log_prob = 0.0;
    float score = 0.0f;
    int32_t node = 0;
    int32_t number = 0;  // of a sample
    int32_t segment = 0;
  };

  const GenerationRequest& request() const { return request_; }
  int64_t start() const { return start_; }
  bool started() const { return started_; }
  std::vector<Branch>& branches() { return branches_; }
  // Whether greedy decoding on the device is all it takes.
  bool plain() const;
  // Position of a branch's first pending token.
  int32_t next_position(const Branch& branch) const;
  // Rows it could still write.
  int32_t rows_left(const Branch& branch) const;

  // Whether the model has to be asked: behind the prompt not where a trie leaves no choice.
  bool needs_model(const Branch& branch) const;
  NextTokenQuery query(const Branch& branch) const;
  // The model has read the prompt, or the branch's pending tokens.
  void fed(Branch& branch);
  // next: for every branch, count 0 where the model was not asked. True when the request is finished.
  bool advance(std::vector<NextTokens> next, RepetitionPenalty& penalty, KvCache& cache,
               GenerationEvents& events);
  // Its sequences as they are.
  FinishedRequest abort() const;

 private:
  bool advance_branches(const std::vector<NextTokens>& next, RepetitionPenalty& penalty,
                        GenerationEvents& events);
  bool advance_beams(const std::vector<NextTokens>& next, RepetitionPenalty& penalty, KvCache& cache,
                     GenerationEvents& events);
  void fork();
  void place(std::vector<Branch>& next, const std::vector<int32_t>& parents, KvCache& cache);
  // Whether the sequence ends with its last token, and why.
  bool ends(const std::vector<int32_t>& generated, FinishReason& reason) const;
  GeneratedSequence result(const Branch& branch, FinishReason reason) const;

  GenerationRequest request_;
  int64_t start_;
  int32_t prompt_;
  int32_t first_position_;  // of what is generated
  int32_t room_;
  bool started_ = false;
  std::vector<Branch> branches_;
  std::unique_ptr<BeamSearch> beams_;
  std::vector<GeneratedSequence> results_;  // of samples, by number
};

}  // namespace allmrec
