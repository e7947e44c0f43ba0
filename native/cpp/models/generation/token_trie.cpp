#include "token_trie.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <string>

#include "../../core/cancellation.h"
#include "../../core/error.h"

namespace allmrec {
namespace {

// The sorted sequences [begin, end) have `depth` tokens in common.
struct Range {
  size_t begin, end;
};

}  // namespace

TokenTrie::TokenTrie(const std::vector<int32_t>& offsets, const std::vector<int32_t>& values, int32_t eos_id)
    : eos_id_(eos_id), entries_(static_cast<int64_t>(offsets.size()) - 1), largest_token_(eos_id) {
  const auto fail = [](const std::string& message) { throw Error(ErrorCode::invalid_argument, message); };
  if (entries_ < 1) fail("A trie needs at least one sequence of tokens.");
  if (eos_id < 0) fail("A trie's sequences end with an end token; its id must not be negative.");
  if (values.size() + static_cast<size_t>(entries_) >=
      static_cast<size_t>(std::numeric_limits<int32_t>::max()))
    fail("The trie's sequences have too many tokens.");
  for (int64_t r = 0; r < entries_; ++r) {
    if (offsets[r] == offsets[r + 1]) fail("Sequence " + std::to_string(r) + " of the trie is empty.");
    for (int32_t i = offsets[r]; i < offsets[r + 1]; ++i)
      if (values[i] < 0 || values[i] == eos_id)
        fail("Sequence " + std::to_string(r) + " of the trie holds the token " + std::to_string(values[i]) +
             ", which no answer can contain.");
    depth_ = std::max(depth_, offsets[r + 1] - offsets[r] + 1);
  }
  largest_token_ = std::max(eos_id, *std::max_element(values.begin(), values.end()));
  const auto length = [&](size_t r) { return offsets[r + 1] - offsets[r]; };
  const auto token = [&](size_t r, int32_t depth) {
    return depth < length(r) ? values[offsets[r] + depth] : eos_id_;
  };
  std::vector<size_t> order(static_cast<size_t>(entries_));
  std::iota(order.begin(), order.end(), size_t{0});
  // By tokens, the end token among them; of equal sequences the first one first.
  size_t compared = 0;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    if ((++compared & 0xffff) == 0) Cancellation::poll();
    const int32_t most = std::max(length(a), length(b));
    for (int32_t i = 0; i <= most; ++i) {
      const int32_t x = token(a, i), y = token(b, i);
      if (x != y) return x < y;
      if (x == eos_id_) return false;
    }
    return false;
  });
  std::vector<Range> level{{0, order.size()}};
  entry_.push_back(-1);
  first_child_.push_back(0);
  for (int32_t depth = 0; !level.empty(); ++depth) {
    std::vector<Range> next;
    Cancellation::poll();
    for (const Range& range : level) {
      // A leaf is an empty range.
      for (size_t i = range.begin; i < range.end;) {
        const int32_t child = token(order[i], depth);
        size_t end = i + 1;
        while (end < range.end && token(order[end], depth) == child) ++end;
        const bool leaf = child == eos_id_;
        tokens_.push_back(child);
        entry_.push_back(leaf ? static_cast<int32_t>(order[i]) : -1);
        next.push_back(leaf ? Range{0, 0} : Range{i, end});
        i = end;
      }
      first_child_.push_back(static_cast<int32_t>(tokens_.size()));
    }
    level = std::move(next);
  }
}

int32_t TokenTrie::step(int32_t node, int32_t token) const {
  const auto begin = tokens_.begin() + first_child_[node], end = tokens_.begin() + first_child_[node + 1];
  const auto found = std::lower_bound(begin, end, token);
  return found == end || *found != token ? -1 : static_cast<int32_t>(found - tokens_.begin()) + 1;
}

}  // namespace allmrec
