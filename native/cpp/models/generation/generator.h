#pragma once

#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <unordered_set>
#include <vector>

#include "device_decoder.h"

namespace allmrec {

struct GeneratorOptions {
  int64_t slots = 16;            // sequences in a step; a beam and a sample count as one each
  int64_t cache_rows = 0;        // most tokens in the key-value cache; 0: slots · positions
  int64_t prompt_tokens = 8192;  // of new requests in one step, at least one request
};

// Generates the answers of many requests together. Each step is one packed batch: a token of every running
// sequence, and the prompts of requests that come to places others have left. For one thread, but for
// `check`.
class Generator {
 public:
  Generator(Opt& model, const GeneratorOptions& options);

  // Whether a request can be served at all; throws ErrorCode::invalid_argument. Touches nothing that changes.
  void check(const GenerationRequest& request) const;
  // Takes its place in the queue; checked before.
  void submit(GenerationRequest request);
  // Ends a request with what there is of it; unknown ones are done.
  void abort(int64_t request, GenerationEvents& events);
  // One step of all that run. False when nothing is left.
  bool step(GenerationEvents& events);
  // Drops everything, as after an error.
  void clear();
  bool idle() const { return queue_.empty() && groups_.empty(); }

 private:
  void admit(GenerationEvents& events);
  void advance_certain(GenerationEvents& events);
  bool decode_on_device(GenerationEvents& events);
  void decode(GenerationEvents& events);
  void finish(std::list<SequenceGroup>::iterator group);
  int64_t rows_of(const GenerationRequest& request) const {
    return SequenceGroup::rows(request, model_.config().max_positions);
  }

  Opt& model_;
  GeneratorOptions options_;
  KvCache cache_;
  NextTokenReader reader_;
  RepetitionPenalty penalty_;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<DeviceDecoder> decoder_;
  std::deque<GenerationRequest> queue_;
  std::list<SequenceGroup> groups_;
  int64_t used_slots_ = 0;
};

}  // namespace allmrec
