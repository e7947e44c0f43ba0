#include <algorithm>
#include <numeric>

#include "opt.h"

namespace allmrec {
namespace {

// Greedy decoding without a repetition penalty: what the next step reads stays on the device, so on a device
// with graphs one recorded step is launched again and again. Only the new ids come back.
class DeviceDecoder {
 public:
  DeviceDecoder(Opt& model, KvCache& cache, const std::vector<int32_t>& ids,
                const std::vector<int32_t>& positions)
      : model_(model),
        cache_(cache),
        arena_(model.parameters().device()),
        step_arena_(model.parameters().device()),
        graph_(model.parameters().device()) {
    const auto sequences = static_cast<int32_t>(ids.size());
    Tape tape(*model.parameters().device(), arena_, false);
    std::vector<int32_t> rows, lengths, starts, offsets{0};
    for (int32_t s = 0; s < sequences; ++s) {
      const int32_t length = cache.lengths()[static_cast<size_t>(s)];
      starts.push_back(static_cast<int32_t>(s * cache.capacity()));
      rows.push_back(starts.back() + length);
      lengths.push_back(length + 1);
      offsets.push_back(s + 1);
    }
    state_.ids = tape.ints(ids);
    state_.positions = tape.ints(positions);
    state_.kv_len = tape.ints(lengths);
    state_.cache_row = tape.ints(rows);
    state_.zeros = tape.ints(std::vector<int32_t>(ids.size(), 0));
    state_.kv_start = tape.ints(starts);
    state_.q_offsets = tape.ints(offsets);
    state_.best = tape.tensor(sequences, 1);
  }

  std::vector<int32_t> step() {
    Device& device = *model_.parameters().device();
    auto run = [&] {
      step_arena_.reset();
      Tape tape(device, step_arena_, false);
      model_.decode_step(tape, cache_, state_);
    };
    if (!device.has_graphs()) {
      run();
    } else {
      // The first step runs as it is: it brings the arena to its size, which a recording could not change.
      if (steps_ == 1) graph_.record(run);
      if (steps_ == 0)
        run();
      else
        graph_.launch();
    }
    ++steps_;
    std::vector<int32_t> ids(static_cast<size_t>(state_.ids.size));
    device.download(ids.data(), state_.ids.data, ids.size() * sizeof(int32_t));
    for (int32_t& length : cache_.lengths()) ++length;
    return ids;
  }

 private:
  Opt& model_;
  KvCache& cache_;
  Arena arena_, step_arena_;
  Graph graph_;
  DecodeState state_;
  int64_t steps_ = 0;
};

// The largest logit of a row, with the penalty on tokens seen before.
int32_t best_token(float* row, int64_t vocabulary, float penalty, const std::vector<char>& penalised) {
  if (penalty != 1.0f)
    for (int64_t v = 0; v < vocabulary; ++v)
      if (penalised[static_cast<size_t>(v)]) row[v] = row[v] < 0.0f ? row[v] * penalty : row[v] / penalty;
  return static_cast<int32_t>(std::max_element(row, row + vocabulary) - row);
}

}  // namespace

std::vector<std::vector<int32_t>> generate_greedy(Opt& model, const LlmBatch& prompts,
                                                  const std::vector<float>& soft,
                                                  const std::vector<std::vector<int32_t>>& seen,
                                                  const GenerateOptions& options,
                                                  const std::function<bool()>& on_step) {
  std::shared_ptr<Device> device = model.parameters().device();
  const auto sequences = static_cast<size_t>(prompts.sequences());
  if (sequences == 0) return {};
  const int64_t vocabulary = model.config().vocab_size;
  const int32_t last_position = model.config().max_positions - 1;
  int64_t longest = 0;
  for (size_t s = 0; s < sequences; ++s) {
    if (prompts.offsets[s + 1] == prompts.offsets[s])
      throw Error(ErrorCode::invalid_argument, "Cannot generate from an empty prompt.");
    longest = std::max<int64_t>(longest, prompts.offsets[s + 1] - prompts.offsets[s]);
  }
  KvCache cache(device, model.config(), static_cast<int64_t>(sequences), longest + options.max_new_tokens,
                model.cache_dtype());
  Arena arena(device);
  std::vector<std::vector<int32_t>> result(sequences);
  const bool penalty = options.repetition_penalty != 1.0f;
  std::vector<std::vector<char>> penalised(
      sequences, std::vector<char>(penalty ? static_cast<size_t>(vocabulary) : 0, 0));
  if (penalty)
    for (size_t s = 0; s < seen.size(); ++s)
      for (int32_t id : seen[s])
        if (id >= 0 && id < vocabulary) penalised[s][static_cast<size_t>(id)] = 1;
  std::vector<char> finished(sequences, 0);
  std::vector<float> logits(sequences * static_cast<size_t>(vocabulary));
  LlmBatch batch = prompts;
  std::vector<int32_t> position(sequences);
  for (size_t s = 0; s < sequences; ++s) position[s] = prompts.positions[prompts.offsets[s + 1] - 1];
  std::unique_ptr<DeviceDecoder> decoder;
  for (int step = 0; step < options.max_new_tokens; ++step) {
    std::vector<int32_t> best(sequences);
    // A sequence at the end of its positions stays there; the decoder on the device would step beyond.
    const bool room = *std::max_element(position.begin(), position.end()) < last_position;
    if (decoder && room) {
      best = decoder->step();
    } else {
      arena.reset();
      Tape tape(*device, arena, false);
      std::vector<int32_t> rows;
      for (size_t s = 0; s < sequences; ++s) rows.push_back(batch.offsets[s + 1] - 1);
      Tensor soft_rows;
      if (step == 0 && !soft.empty())
        soft_rows = tape.from_host(soft.data(), static_cast<int64_t>(soft.size()) / model.config().embed_size,
                                   model.config().embed_size);
      const Tensor out = model.logits(tape, model.hidden(tape, batch, soft_rows, rows, &cache));
      device->download(logits.data(), out.data, logits.size() * sizeof(float));
      for (size_t s = 0; s < sequences; ++s)
        best[s] = best_token(logits.data() + static_cast<int64_t>(s) * vocabulary, vocabulary,
                             options.repetition_penalty, penalised[s]);
    }
    LlmBatch next;
    bool all_finished = true;
    for (size_t s = 0; s < sequences; ++s) {
      if (!finished[s]) {
        result[s].push_back(best[s]);
        if (penalty) penalised[s][static_cast<size_t>(best[s])] = 1;
        finished[s] = best[s] == options.eos_id;
      }
      all_finished = all_finished && finished[s];
      next.ids.push_back(best[s]);
      next.offsets.push_back(static_cast<int32_t>(next.ids.size()));
      position[s] = std::min(position[s] + 1, last_position + 1);
      if (position[s] > last_position) finished[s] = 1;
      next.positions.push_back(std::min(position[s], last_position));
    }
    if (all_finished || (on_step && !on_step())) break;
    batch = std::move(next);
    if (!penalty && !decoder && *std::max_element(position.begin(), position.end()) < last_position) {
      std::vector<int32_t> rows(batch.positions);
      for (int32_t& row : rows) row += kOptPositionOffset;
      decoder = std::make_unique<DeviceDecoder>(model, cache, batch.ids, rows);
    }
  }
  return result;
}

}  // namespace allmrec
