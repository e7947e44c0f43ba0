// Candidate scoring: each user's prompt and candidates packed into one sequence, in which a candidate's
// tokens see the prompt and themselves. Equals one run for each candidate; the prompt is computed once.

#include "language_model.h"

namespace allmrec::bench {
namespace {

struct Packed {
  LlmBatch batch;
  std::vector<int32_t> rows;       // whose logits are wanted, ascending
  std::vector<int32_t> pair_rows;  // of `rows`
  std::vector<int32_t> pair_targets;
  LlmWork work;
};

Packed pack(const OptSize& size, int64_t users, int64_t prompt, int64_t candidates, int64_t title) {
  Packed p;
  const LlmBatch text = random_prompts(size, users, prompt + candidates * title);
  const auto number = [](int64_t n) { return static_cast<int32_t>(n); };
  for (int64_t u = 0; u < users; ++u) {
    const int32_t* ids = text.ids.data() + text.offsets[static_cast<size_t>(u)];
    const auto push = [&](int32_t id, int64_t position, int64_t prefix, int64_t begin, int64_t keys) {
      p.batch.ids.push_back(id);
      p.batch.positions.push_back(number(position));
      p.batch.prefix.push_back(number(prefix));
      p.batch.own_begin.push_back(number(begin));
      p.work.pairs += static_cast<double>(keys);
    };
    for (int64_t i = 0; i < prompt; ++i) push(ids[i], i, 0, 0, i + 1);
    const int32_t last = number(static_cast<int64_t>(p.batch.ids.size()) - 1);
    p.rows.push_back(last);
    const int32_t last_row = number(static_cast<int64_t>(p.rows.size()) - 1);
    p.work.row_pairs += static_cast<double>(prompt);
    for (int64_t c = 0; c < candidates; ++c) {
      const int32_t* answer = ids + prompt + c * title;
      const int64_t begin = prompt + c * (title - 1);
      p.pair_rows.push_back(last_row);
      p.pair_targets.push_back(answer[0]);
      // The last token of a title is only predicted, never read.
      for (int64_t i = 0; i + 1 < title; ++i) {
        push(answer[i], prompt + i, prompt, begin, prompt + i + 1);
        p.work.row_pairs += static_cast<double>(prompt + i + 1);
        p.rows.push_back(number(static_cast<int64_t>(p.batch.ids.size()) - 1));
        p.pair_rows.push_back(number(static_cast<int64_t>(p.rows.size()) - 1));
        p.pair_targets.push_back(answer[i + 1]);
      }
    }
    p.batch.offsets.push_back(number(static_cast<int64_t>(p.batch.ids.size())));
  }
  p.work.tokens = static_cast<double>(p.batch.ids.size());
  p.work.rows = static_cast<double>(p.rows.size());
  return p;
}

}  // namespace

void scoring_suite(Bench& bench) {
  const int64_t prompt = bench.quick() ? 40 : bench.on_cpu() ? 600 : 700;
  const int64_t candidates = bench.quick() ? 4 : 20, title = bench.quick() ? 5 : 10;
  const std::vector<int64_t> batches = bench.quick()    ? std::vector<int64_t>{2}
                                       : bench.on_cpu() ? std::vector<int64_t>{1}
                                                        : std::vector<int64_t>{1, 4};
  for (const OptSize& size : opt_sizes(bench)) {
    for (int32_t dtype : weight_dtypes(bench)) {
      for (int64_t users : batches) {
        RowName name;
        name.suite = "scoring", name.name = size.name + " scoring", name.dtype = dtype, name.unit = "users/s";
        name.shape = std::to_string(users) + "x(" + std::to_string(prompt) + "+" +
                     std::to_string(candidates) + "x" + std::to_string(title) + ")";
        bench.row(name, [&] {
          Opt& model = random_opt(bench, size, dtype);
          auto arena = std::make_shared<Arena>(bench.shared_device());
          const Packed p = pack(size, users, prompt, candidates, title);
          Work work;
          work.cost = forward_cost(size, dtype, p.work);
          work.units = static_cast<double>(users);
          work.calls.emplace_back([&bench, &model, arena, p] {
            arena->reset();
            Tape tape(bench.device(), *arena, false);
            const Tensor hidden = model.hidden(tape, p.batch, {}, p.rows);
            model.log_probs(tape, hidden, p.pair_rows, p.pair_targets);
          });
          return work;
        });
      }
    }
  }
  forget_opt();
}

}  // namespace allmrec::bench
