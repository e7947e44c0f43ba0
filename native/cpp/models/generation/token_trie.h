#pragma once

#include <cstdint>
#include <vector>

namespace allmrec {

// The token sequences an answer may be, e.g. all titles of a catalogue, each followed by the end token. Nodes
// are numbered breadth first from the root 0; the children of a node lie together, in ascending order of
// their tokens.
class TokenTrie {
 public:
  // Row r is values[offsets[r]] … values[offsets[r + 1] − 1], not empty, without the end token.
  TokenTrie(const std::vector<int32_t>& offsets, const std::vector<int32_t>& values, int32_t eos_id);

  int32_t eos_id() const { return eos_id_; }
  int64_t nodes() const { return static_cast<int64_t>(first_child_.size()) - 1; }
  int64_t entries() const { return entries_; }
  int32_t largest_token() const { return largest_token_; }
  // Tokens of the longest path, the end token included.
  int32_t depth() const { return depth_; }

  int32_t child_count(int32_t node) const { return first_child_[node + 1] - first_child_[node]; }
  const int32_t* children(int32_t node) const { return tokens_.data() + first_child_[node]; }
  // The node of a child; −1 where the node has no such child.
  int32_t step(int32_t node, int32_t token) const;
  // The first sequence that ends here, −1 where none does: a leaf's, behind its end token.
  int32_t entry(int32_t node) const { return entry_[node]; }

 private:
  int32_t eos_id_;
  int64_t entries_;
  int32_t largest_token_;
  int32_t depth_ = 0;
  // Child c (a place in tokens_) is the node c + 1.
  std::vector<int32_t> first_child_, tokens_, entry_;
};

}  // namespace allmrec
