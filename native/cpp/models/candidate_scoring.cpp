#include "candidate_scoring.h"

#include <algorithm>
#include <string>

#include "training_step.h"

namespace allmrec {
namespace {

// Every token of an answer but its last is read; every token but its first is predicted by the one before it.
int64_t read_tokens(const std::vector<int32_t>& answer) {
  return static_cast<int64_t>(answer.size()) - 1;
}

class AnswerScorer {
 public:
  AnswerScorer(Opt& model, const std::vector<int32_t>& prompt, const std::vector<float>& soft,
               const std::vector<std::vector<int32_t>>& answers)
      : model_(model),
        prompt_(prompt),
        soft_(soft),
        answers_(answers),
        length_(static_cast<int32_t>(prompt.size())),
        arena_(model.parameters().device()),
        sums_(answers.size(), 0.0) {}

  // Prompt and answers as one sequence.
  void score_at_once() {
    Tape tape = begin();
    const WithPrecision fixed(tape, kScorePrecision);
    LlmBatch batch = prompt_batch();
    batch.prefix.assign(prompt_.size(), 0);
    batch.own_begin.assign(prompt_.size(), 0);
    // Row 0 of the hidden states is the prompt's last, then come the answers' rows.
    std::vector<int32_t> rows{length_ - 1};
    Pairs pairs;
    for (size_t a = 0; a < answers_.size(); ++a) pairs.add(0, answers_[a].front(), a);
    append(batch, rows, pairs, 0, answers_.size(), 0);
    add(tape, batch, soft_, rows, pairs);
  }

  // The prompt into a cache, then the answers in groups behind it.
  void score_in_groups(int64_t tokens_per_pass) {
    int64_t longest = 0;
    for (const std::vector<int32_t>& answer : answers_) longest = std::max(longest, read_tokens(answer));
    const int64_t group_tokens = std::max(longest, tokens_per_pass);
    // Of the activations' type, so that a key is the same whether it was cached or not.
    const OptConfig& config = model_.config();
    KvCache cache(model_.parameters().device(), config.num_layers, config.hidden_size,
                  model_.activation_dtype(), length_ + group_tokens);
    CachedBatch cached{cache, {{cache.reserve(length_ + group_tokens)}}};
    score_first_tokens(cached);
    cached.sequences[0].length = length_;
    for (size_t first = 0; first < answers_.size();) {
      int64_t tokens = 0;
      size_t end = first;
      while (end < answers_.size() && tokens + read_tokens(answers_[end]) <= group_tokens)
        tokens += read_tokens(answers_[end++]);
      if (tokens > 0) score_group(cached, first, end);
      first = end;
    }
  }

  AnswerLikelihoods result() const {
    AnswerLikelihoods result;
    for (size_t a = 0; a < answers_.size(); ++a) {
      result.sum.push_back(static_cast<float>(sums_[a]));
      result.mean.push_back(static_cast<float>(sums_[a] / static_cast<double>(answers_[a].size())));
    }
    return result;
  }

 private:
  // Log-probabilities that are wanted: of a token at a row of the hidden states, for an answer.
  struct Pairs {
    std::vector<int32_t> rows, targets;
    std::vector<size_t> answers;
    void add(size_t row, int32_t target, size_t answer) {
      rows.push_back(static_cast<int32_t>(row));
      targets.push_back(target);
      answers.push_back(answer);
    }
  };

  Tape begin() {
    arena_.reset();
    return Tape(*model_.parameters().device(), arena_, false);
  }

  LlmBatch prompt_batch() const {
    LlmBatch batch;
    batch.ids = prompt_;
    batch.offsets = {0, length_};
    batch.number_positions();
    return batch;
  }

  // Adds answers first … end − 1 to the batch's one sequence; `cached` of its keys are in a cache.
  void append(LlmBatch& batch, std::vector<int32_t>& rows, Pairs& pairs, size_t first, size_t end,
              int32_t cached) const {
    for (size_t a = first; a < end; ++a) {
      const std::vector<int32_t>& answer = answers_[a];
      const auto begin = static_cast<int32_t>(batch.ids.size());
      for (int32_t i = 0; i < static_cast<int32_t>(read_tokens(answer)); ++i) {
        batch.ids.push_back(answer[static_cast<size_t>(i)]);
        batch.positions.push_back(length_ + i);
        batch.prefix.push_back(length_);
        batch.own_begin.push_back(cached + begin);
        pairs.add(rows.size(), answer[static_cast<size_t>(i) + 1], a);
        rows.push_back(begin + i);
      }
    }
    batch.offsets.back() = static_cast<int32_t>(batch.ids.size());
  }

  void score_first_tokens(const CachedBatch& cached) {
    Tape tape = begin();
    const WithPrecision fixed(tape, kScorePrecision);
    Pairs pairs;
    for (size_t a = 0; a < answers_.size(); ++a) pairs.add(0, answers_[a].front(), a);
    add(tape, prompt_batch(), soft_, {length_ - 1}, pairs, &cached);
  }

  void score_group(const CachedBatch& cached, size_t first, size_t end) {
    Tape tape = begin();
    const WithPrecision fixed(tape, kScorePrecision);
    LlmBatch batch;
    batch.offsets = {0, 0};
    std::vector<int32_t> rows;
    Pairs pairs;
    append(batch, rows, pairs, first, end, length_);
    add(tape, batch, {}, rows, pairs, &cached);
  }

  void add(Tape& tape, const LlmBatch& batch, const std::vector<float>& soft,
           const std::vector<int32_t>& rows, const Pairs& pairs, const CachedBatch* cached = nullptr) {
    const std::vector<float> values =
        log_probs(model_, tape, batch, soft, rows, pairs.rows, pairs.targets, cached);
    for (size_t i = 0; i < values.size(); ++i) sums_[pairs.answers[i]] += values[i];
  }

  Opt& model_;
  const std::vector<int32_t>& prompt_;
  const std::vector<float>& soft_;
  const std::vector<std::vector<int32_t>>& answers_;
  int32_t length_;
  Arena arena_;
  std::vector<double> sums_;
};

}  // namespace

std::vector<float> log_probs(Opt& model, Tape& tape, const LlmBatch& batch, const std::vector<float>& soft,
                             const std::vector<int32_t>& rows, const std::vector<int32_t>& pair_rows,
                             const std::vector<int32_t>& pair_targets, const CachedBatch* cached) {
  const int64_t width = model.config().embed_size;
  const auto compute = [&] {
    Tensor soft_rows;
    if (!soft.empty())
      soft_rows = tape.from_host(soft.data(), static_cast<int64_t>(soft.size()) / width, width);
    return model.log_probs(tape, model.hidden(tape, batch, soft_rows, rows, cached), pair_rows, pair_targets);
  };
  std::vector<float> values = compute();
  expect_finite(values.data(), static_cast<int64_t>(values.size()),
                "The language model's log-probabilities are not finite", {&model.parameters()}, compute);
  return values;
}

SoftGradient soft_gradient(Opt& model, const LlmBatch& batch, const std::vector<float>& soft,
                           const TokenTargets& targets) {
  expect_targets(targets, model.config());
  model.parameters().set_trainable(false);
  const int64_t width = model.config().embed_size;
  SoftGradient result;
  const auto compute = [&] {
    Arena arena(model.parameters().device());
    Tape tape(*model.parameters().device(), arena, true);
    const Tensor rows =
        tape.variable(tape.from_host(soft.data(), static_cast<int64_t>(soft.size()) / width, width));
    target_loss(tape, model, model.hidden(tape, batch, rows, targets.rows), targets);
    tape.backward();
    result.mean_log_prob = -tape.read_losses().at("loss");
    result.gradient = tape.grad_to_host(rows);
  };
  compute();
  for (float& value : result.gradient) value = -value;
  expect_finite(result.gradient.data(), static_cast<int64_t>(result.gradient.size()),
                "The gradients of the soft tokens are not finite", {&model.parameters()}, compute);
  return result;
}

AnswerLikelihoods score_answers(Opt& model, const std::vector<int32_t>& prompt,
                                const std::vector<float>& soft,
                                const std::vector<std::vector<int32_t>>& answers, int64_t tokens_per_pass) {
  if (prompt.empty()) throw Error(ErrorCode::invalid_argument, "A prompt needs at least one token.");
  int64_t tokens = static_cast<int64_t>(prompt.size());
  for (const std::vector<int32_t>& answer : answers) {
    if (answer.empty()) throw Error(ErrorCode::invalid_argument, "An answer needs at least one token.");
    tokens += read_tokens(answer);
  }
  if (answers.empty()) return {};
  AnswerScorer scorer(model, prompt, soft, answers);
  if (tokens <= tokens_per_pass)
    scorer.score_at_once();
  else
    scorer.score_in_groups(tokens_per_pass);
  return scorer.result();
}

}  // namespace allmrec
