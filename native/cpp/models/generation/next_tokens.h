#pragma once

#include <vector>

#include "../opt.h"
#include "sampling.h"

namespace allmrec {

// What is wanted of one row of hidden states.
struct NextTokenQuery {
  enum class Kind {
    best,      // the `count` likeliest tokens, descending
    all,       // the logits of the whole vocabulary
    children,  // those of a trie node's children
  };
  Kind kind = Kind::best;
  int32_t count = 1;
  bool log_sum = true;
  const TokenTrie* trie = nullptr;
  int32_t node = 0;
};

// Throws ErrorCode::numeric.
[[noreturn]] void fail_not_finite_logits();

// Computes logits and brings to the host what is wanted of them: a few tokens, a row, or the products with a
// node's children alone.
class NextTokenReader {
 public:
  explicit NextTokenReader(Opt& model) : model_(model) {}

  // The order queries must have, and with them the rows of `hidden`: best, all, then children by node.
  static bool before(const NextTokenQuery& a, const NextTokenQuery& b);
  // Valid until the next call.
  std::vector<NextTokens> read(Tape& tape, const Tensor& hidden, const std::vector<NextTokenQuery>& queries);

 private:
  void read_vocabulary(Tape& tape, const Tensor& hidden, const std::vector<NextTokenQuery>& queries,
                       std::vector<NextTokens>& next);
  void read_children(Tape& tape, const Tensor& hidden, const NextTokenQuery* queries, int64_t count,
                     std::vector<NextTokens>& next);

  Opt& model_;
  std::vector<int32_t> best_ids_;
  std::vector<float> best_, rows_, children_;
};

}  // namespace allmrec
