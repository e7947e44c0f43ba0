#include <algorithm>
#include <numeric>

#include "opt.h"

namespace allmrec {

std::vector<std::vector<int32_t>> generate_greedy(Opt& model, const LlmBatch& prompts,
                                                  const std::vector<float>& soft,
                                                  const std::vector<std::vector<int32_t>>& seen,
                                                  const GenerateOptions& options,
                                                  const std::function<bool()>& on_step) {
  std::shared_ptr<Device> device = model.parameters().device();
  const int64_t sequences = prompts.sequences();
  const int64_t vocabulary = model.config().vocab_size;
  int64_t longest = 0;
  for (int64_t s = 0; s < sequences; ++s) {
    if (prompts.offsets[s + 1] == prompts.offsets[s])
      throw Error(ErrorCode::invalid_argument, "Cannot generate from an empty prompt.");
    longest = std::max<int64_t>(longest, prompts.offsets[s + 1] - prompts.offsets[s]);
  }
  KvCache cache(device, model.config(), sequences, longest + options.max_new_tokens);
  Arena arena(device);
  std::vector<std::vector<int32_t>> result(static_cast<size_t>(sequences));
  std::vector<std::vector<char>> penalised(static_cast<size_t>(sequences),
                                           std::vector<char>(static_cast<size_t>(vocabulary), 0));
  for (size_t s = 0; s < seen.size(); ++s)
    for (int32_t id : seen[s])
      if (id >= 0 && id < vocabulary) penalised[s][static_cast<size_t>(id)] = 1;
  std::vector<char> finished(static_cast<size_t>(sequences), 0);
  std::vector<float> logits(static_cast<size_t>(sequences * vocabulary));
  LlmBatch batch = prompts;
  std::vector<int32_t> position(static_cast<size_t>(sequences));
  for (int64_t s = 0; s < sequences; ++s) position[s] = prompts.positions[prompts.offsets[s + 1] - 1];
  for (int step = 0; step < options.max_new_tokens; ++step) {
    arena.reset();
    Tape tape(*device, arena, false);
    std::vector<int32_t> rows;
    for (int64_t s = 0; s < sequences; ++s) rows.push_back(batch.offsets[s + 1] - 1);
    Tensor soft_rows;
    if (step == 0 && !soft.empty())
      soft_rows = tape.from_host(soft.data(), static_cast<int64_t>(soft.size()) / model.config().embed_size,
                                 model.config().embed_size);
    const Tensor out = model.logits(tape, model.hidden(tape, batch, soft_rows, rows, &cache));
    device->download(logits.data(), out.data, logits.size() * sizeof(float));
    LlmBatch next;
    bool all_finished = true;
    for (int64_t s = 0; s < sequences; ++s) {
      float* row = logits.data() + s * vocabulary;
      if (options.repetition_penalty != 1.0f)
        for (int64_t v = 0; v < vocabulary; ++v)
          if (penalised[s][v])
            row[v] =
                row[v] < 0.0f ? row[v] * options.repetition_penalty : row[v] / options.repetition_penalty;
      const auto best = static_cast<int32_t>(std::max_element(row, row + vocabulary) - row);
      if (!finished[s]) {
        result[s].push_back(best);
        penalised[s][best] = 1;
        finished[s] = best == options.eos_id;
      }
      all_finished = all_finished && finished[s];
      next.ids.push_back(best);
      next.offsets.push_back(static_cast<int32_t>(next.ids.size()));
      next.positions.push_back(++position[s]);
      if (position[s] >= model.config().max_positions)
        finished[s] = 1, next.positions.back() = model.config().max_positions - 1;
    }
    if (all_finished || (on_step && !on_step())) break;
    batch = std::move(next);
  }
  return result;
}

}  // namespace allmrec
