#pragma once

#include <cstdint>
#include <vector>

#include "sequence_group.h"

namespace allmrec {

// Greedy decoding whose next step reads its tokens, positions and lengths on the device: one recorded step is
// launched again and again, and only the new ids come back. For devices with graphs.
class DeviceDecoder {
 public:
  // groups: plain ones, whose sequences become the decoder's rows. They may finish and go; their rows then
  // compute what nobody reads.
  DeviceDecoder(Opt& model, const KvCache& cache, const std::vector<SequenceGroup*>& groups);

  // Whether it can take the next step of exactly these groups, and most of its rows still serve one.
  bool serves(const std::vector<SequenceGroup*>& groups) const;
  // The next token of each of the groups that are left, in the order of the first ones.
  std::vector<NextTokens> step(const std::vector<SequenceGroup*>& groups);

 private:
  Opt& model_;
  const KvCache& cache_;
  Arena arena_, step_arena_;
  Graph graph_;
  DecodeState state_;
  std::vector<int64_t> requests_;  // of the rows
  int32_t steps_ = 0, most_steps_;
  std::vector<int32_t> ids_;
  std::vector<float> log_probs_, chosen_;
};

}  // namespace allmrec
