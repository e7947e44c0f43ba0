#include "../cpp/models/generation/token_trie.h"

#include <vector>

#include "../cpp/core/error.h"
#include "targets.h"

namespace allmrec::fuzz {

// Bytes are tokens below 255; 255 ends a sequence. The first byte is the end token.
void run_token_trie(const uint8_t* data, size_t size) {
  if (size == 0) return;
  const int32_t eos = data[0];
  std::vector<int32_t> offsets{0}, values;
  for (size_t i = 1; i < size; ++i) {
    if (data[i] != 255)
      values.push_back(data[i]);
    else
      offsets.push_back(static_cast<int32_t>(values.size()));
  }
  if (offsets.back() != static_cast<int32_t>(values.size()))
    offsets.push_back(static_cast<int32_t>(values.size()));
  try {
    const TokenTrie trie(offsets, values, eos);
    for (size_t row = 0; row + 1 < offsets.size(); ++row) {
      int32_t node = 0;
      for (int32_t i = offsets[row]; i < offsets[row + 1]; ++i) {
        node = trie.step(node, values[static_cast<size_t>(i)]);
        require(node > 0 && trie.entry(node) < 0, "every token of a sequence is a node within the trie");
      }
      node = trie.step(node, eos);
      require(node > 0 && trie.entry(node) >= 0 && trie.entry(node) <= static_cast<int32_t>(row) &&
                  trie.child_count(node) == 0,
              "the end token leads to the first equal sequence");
    }
    for (int32_t node = 0; node < trie.nodes(); ++node)
      for (int32_t c = 0; c < trie.child_count(node); ++c)
        require(trie.step(node, trie.children(node)[c]) > node, "a child is found, behind its parent");
  } catch (const Error& error) {
    if (error.code() != ErrorCode::invalid_argument) throw;
  }
}

}  // namespace allmrec::fuzz
