#pragma once

#include <algorithm>
#include <vector>

#include "backbone.h"

namespace allmrec {

// Histories side by side, each padded with item 0 behind its end to the longest: for models that walk along a
// grid. Nothing that comes later is seen by an item before it, so the padding changes nothing.
struct PaddedSequences {
  int64_t batch = 0;
  int32_t steps = 1;
  std::vector<int32_t> ids;   // (batch · steps)
  std::vector<int32_t> rows;  // of each item, packed order
  std::vector<int32_t> last;  // row of the last item of each history that is not empty

  explicit PaddedSequences(const SequenceBatch& packed) : batch(packed.size()) {
    for (int64_t s = 0; s < batch; ++s) steps = std::max(steps, packed.offsets[s + 1] - packed.offsets[s]);
    ids.assign(static_cast<size_t>(batch * steps), 0);
    for (int64_t s = 0; s < batch; ++s) {
      const int32_t begin = packed.offsets[s], length = packed.offsets[s + 1] - begin;
      const auto first = static_cast<int32_t>(s * steps);
      for (int32_t i = 0; i < length; ++i) {
        ids[static_cast<size_t>(first + i)] = packed.items[begin + i];
        rows.push_back(first + i);
      }
      if (length > 0) last.push_back(first + length - 1);
    }
  }
};

}  // namespace allmrec
