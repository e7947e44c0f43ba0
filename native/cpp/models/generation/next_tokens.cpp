#include "next_tokens.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <tuple>

namespace allmrec {
namespace {

using Kind = NextTokenQuery::Kind;

// Rows of the token table that are widened at a time: the memory a node with many children takes.
constexpr int64_t kTableRows = 4096;

// The first rows of a matrix, or those from `begin` on.
Tensor rows_of(const Tensor& x, int64_t begin, int64_t count) {
  Tensor part = x;
  part.data = x.at(begin);
  part.rows = count;
  return part;
}

// A model whose logits are not finite has nothing to choose from. Of rows of `width` sorted ones the first
// tells: NaN comes before all others, and −∞ is what fills a row that is too short.
void expect_finite_rows(const std::vector<float>& logits, size_t width) {
  for (size_t i = 0; i < logits.size(); i += width)
    if (!std::isfinite(logits[i])) fail_not_finite_logits();
}

double log_sum_of(const float* x, int64_t n) {
  const float top = *std::max_element(x, x + n);
  double total = 0.0;
  for (int64_t i = 0; i < n; ++i) total += std::exp(static_cast<double>(x[i]) - top);
  return top + std::log(total);
}

}  // namespace

void fail_not_finite_logits() {
  throw Error(ErrorCode::numeric, "The language model's logits are not finite");
}

bool NextTokenReader::before(const NextTokenQuery& a, const NextTokenQuery& b) {
  if (a.kind != b.kind) return a.kind < b.kind;
  if (a.kind != Kind::children) return false;
  return a.trie != b.trie ? std::less<const TokenTrie*>()(a.trie, b.trie) : a.node < b.node;
}

std::vector<NextTokens> NextTokenReader::read(Tape& tape, const Tensor& hidden,
                                              const std::vector<NextTokenQuery>& queries) {
  std::vector<NextTokens> next;
  const auto children = std::find_if(queries.begin(), queries.end(),
                                     [](const NextTokenQuery& q) { return q.kind == Kind::children; });
  const int64_t first = children - queries.begin(), rest = queries.end() - children;
  if (first > 0) read_vocabulary(tape, rows_of(hidden, 0, first), queries, next);
  if (rest > 0) read_children(tape, rows_of(hidden, first, rest), queries.data() + first, rest, next);
  return next;
}

void NextTokenReader::read_vocabulary(Tape& tape, const Tensor& hidden,
                                      const std::vector<NextTokenQuery>& queries,
                                      std::vector<NextTokens>& next) {
  Device& device = tape.device();
  const int64_t vocabulary = model_.config().vocab_size, count = hidden.rows;
  const Tensor logits = model_.logits(tape, hidden);
  int64_t bests = 0, k = 0;
  bool log_sums = false;
  for (int64_t i = 0; i < count; ++i) {
    log_sums = log_sums || queries[i].log_sum;
    if (queries[i].kind != Kind::best) continue;
    ++bests;
    k = std::max<int64_t>(k, queries[i].count);
  }
  if (bests > 0) {
    const Tensor ids = tape.tensor(bests, k), values = tape.tensor(bests, k);
    allmrec_top_k_args top{};
    top.rows = bests;
    top.cols = vocabulary;
    top.scores = logits.f32();
    top.ld = vocabulary;
    top.k = static_cast<int32_t>(k);
    top.indices = static_cast<int32_t*>(ids.data);
    top.values = values.f32();
    device.top_k(top);
    best_ids_.resize(static_cast<size_t>(bests * k));
    best_.resize(static_cast<size_t>(bests * k));
    device.download(best_ids_.data(), ids.data, best_ids_.size() * sizeof(int32_t));
    device.download(best_.data(), values.data, best_.size() * sizeof(float));
    expect_finite_rows(best_, static_cast<size_t>(k));
    for (int64_t i = 0; i < bests; ++i)
      if (best_ids_[i * k] < 0) fail_not_finite_logits();
  }
  // The log-sum-exp of a row is its first logit less that token's log-probability.
  std::vector<float> first(static_cast<size_t>(count), std::numeric_limits<float>::quiet_NaN()),
      log_prob(first);
  if (log_sums) {
    const Tensor first_logit = tape.tensor(count, 1), first_log_prob = tape.tensor(count, 1);
    const IntTensor zeros = tape.ints(std::vector<int32_t>(static_cast<size_t>(count), 0));
    allmrec_cross_entropy_args entropy{};
    entropy.rows = count;
    entropy.cols = vocabulary;
    entropy.logits = logits.f32();
    entropy.ld = vocabulary;
    entropy.targets = zeros.data;
    entropy.scale = 1.0f;
    entropy.log_prob = first_log_prob.f32();
    device.cross_entropy(entropy);
    device.copy_2d({count, 1, logits.data, vocabulary, first_logit.data, 1, 0, ALLMREC_F32});
    device.download(first.data(), first_logit.data, first.size() * sizeof(float));
    device.download(log_prob.data(), first_log_prob.data, log_prob.size() * sizeof(float));
  }
  if (count > bests) {
    rows_.resize(static_cast<size_t>((count - bests) * vocabulary));
    device.download(rows_.data(), logits.at(bests), rows_.size() * sizeof(float));
    expect_finite_rows(rows_, 1);
  }
  for (int64_t i = 0; i < count; ++i) {
    NextTokens tokens;
    tokens.log_sum = static_cast<double>(first[i]) - log_prob[i];
    if (i < bests) {
      tokens.ids = best_ids_.data() + i * k;
      tokens.logits = best_.data() + i * k;
      tokens.count = std::min<int64_t>(queries[i].count, vocabulary);
    } else {
      tokens.logits = rows_.data() + (i - bests) * vocabulary;
      tokens.count = vocabulary;
    }
    next.push_back(tokens);
  }
}

void NextTokenReader::read_children(Tape& tape, const Tensor& hidden, const NextTokenQuery* queries,
                                    int64_t count, std::vector<NextTokens>& next) {
  Device& device = tape.device();
  const Tensor states = hidden.dtype == ALLMREC_F32 ? hidden : ops::cast(tape, hidden, ALLMREC_F32);
  const Parameter& table = model_.head();
  const int64_t width = states.cols;
  // Sequences at one node share one product.
  struct Group {
    int64_t row, rows, children, result;
    const int32_t* tokens;
  };
  std::vector<Group> groups;
  int64_t results = 0, most = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (i > 0 && !NextTokenReader::before(queries[i - 1], queries[i])) {
      ++groups.back().rows;
    } else {
      const NextTokenQuery& q = queries[i];
      groups.push_back({i, 1, q.trie->child_count(q.node), results, q.trie->children(q.node)});
      most = std::max(most, groups.back().children);
    }
    results += groups.back().children;
  }
  const Tensor logits = tape.tensor(results, 1), block = tape.tensor(std::min(most, kTableRows), width);
  for (const Group& group : groups) {
    const IntTensor tokens = tape.ints(group.tokens, group.children);
    for (int64_t begin = 0; begin < group.children; begin += kTableRows) {
      const int64_t n = std::min(kTableRows, group.children - begin);
      allmrec_embedding_args gather{};
      gather.tokens = n;
      gather.cols = width;
      gather.ids = tokens.data + begin;
      gather.table = table.value.data;
      gather.table_dtype = table.dtype();
      gather.table_scales = table.scales;
      gather.table_rows = model_.config().vocab_size;
      gather.scale = 1.0f;
      gather.out = block.data;
      gather.out_dtype = ALLMREC_F32;
      device.embedding(gather);
      allmrec_gemm_args product{};
      product.m = group.rows;
      product.n = n;
      product.k = width;
      product.a = states.at(group.row);
      product.lda = width;
      product.b = block.data;
      product.ldb = width;
      product.trans_b = 1;
      product.c = logits.at(group.result + begin);
      product.ldc = group.children;
      product.alpha = 1.0f;
      product.compute_dtype = model_.precision(tape).compute_dtype;
      product.fixed_order = tape.precision().fixed_order;
      device.gemm(product);
    }
  }
  children_.resize(static_cast<size_t>(results));
  device.download(children_.data(), logits.data, children_.size() * sizeof(float));
  expect_finite_rows(children_, 1);
  for (const Group& group : groups)
    for (int64_t r = 0; r < group.rows; ++r) {
      float* values = children_.data() + group.result + r * group.children;
      next.push_back({group.tokens, values, group.children, log_sum_of(values, group.children)});
    }
}

}  // namespace allmrec
