#include "device_decoder.h"

#include <algorithm>
#include <limits>

namespace allmrec {

DeviceDecoder::DeviceDecoder(Opt& model, const KvCache& cache, const std::vector<SequenceGroup*>& groups)
    : model_(model),
      cache_(cache),
      arena_(model.parameters().device()),
      step_arena_(model.parameters().device()),
      graph_(model.parameters().device()),
      most_steps_(std::numeric_limits<int32_t>::max()) {
  Tape tape(*model.parameters().device(), arena_, false);
  std::vector<int32_t> ids, positions, kv_len, rows, starts, offsets{0};
  bool log_probs = false;
  for (SequenceGroup* group : groups) {
    const SequenceGroup::Branch& branch = group->branches().front();
    requests_.push_back(group->request().id);
    log_probs = log_probs || group->request().options.log_probs;
    // A row that nobody reads any more must not leave what was reserved for it.
    most_steps_ = std::min(most_steps_, group->rows_left(branch));
    ids.push_back(branch.pending.front());
    positions.push_back(group->next_position(branch) + kOptPositionOffset);
    kv_len.push_back(branch.cache.length + 1);
    rows.push_back(static_cast<int32_t>(branch.cache.start + branch.cache.length));
    starts.push_back(static_cast<int32_t>(branch.cache.start));
    offsets.push_back(static_cast<int32_t>(ids.size()));
  }
  const auto sequences = static_cast<int64_t>(groups.size());
  state_.max_kv_length = *std::max_element(kv_len.begin(), kv_len.end()) + most_steps_;
  state_.ids = tape.ints(ids);
  state_.positions = tape.ints(positions);
  state_.kv_len = tape.ints(kv_len);
  state_.cache_row = tape.ints(rows);
  state_.zeros = tape.ints(std::vector<int32_t>(ids.size(), 0));
  state_.kv_start = tape.ints(starts);
  state_.q_offsets = tape.ints(offsets);
  state_.best = tape.tensor(sequences, 1);
  if (log_probs) state_.log_prob = tape.tensor(sequences, 1);
  ids_.resize(ids.size());
  chosen_.resize(ids.size());
  log_probs_.assign(ids.size(), std::numeric_limits<float>::quiet_NaN());
}

bool DeviceDecoder::serves(const std::vector<SequenceGroup*>& groups) const {
  if (steps_ >= most_steps_ || 2 * groups.size() < requests_.size()) return false;
  size_t row = 0;
  for (SequenceGroup* group : groups) {
    while (row < requests_.size() && requests_[row] != group->request().id) ++row;
    if (row == requests_.size()) return false;
  }
  return true;
}

std::vector<NextTokens> DeviceDecoder::step(const std::vector<SequenceGroup*>& groups) {
  Device& device = *model_.parameters().device();
  auto run = [&] {
    Tape tape(device, step_arena_, false);
    model_.decode_step(tape, cache_, state_);
  };
  // The first step runs as it is: it brings the arena to its size, which a recording could not change.
  if (!graph_.recorded()) step_arena_.reset();
  if (steps_ == 0) {
    run();
  } else {
    if (!graph_.recorded()) graph_.record(run);
    graph_.launch();
  }
  ++steps_;
  device.download(ids_.data(), state_.ids.data, ids_.size() * sizeof(int32_t));
  if (state_.log_prob.data)
    device.download(log_probs_.data(), state_.log_prob.data, log_probs_.size() * sizeof(float));
  std::vector<NextTokens> next;
  size_t row = 0;
  for (SequenceGroup* group : groups) {
    while (requests_[row] != group->request().id) ++row;
    if (ids_[row] < 0) fail_not_finite_logits();
    // Of the logit only log p is known: logit 0, log-sum −log p.
    chosen_[row] = 0.0f;
    next.push_back({&ids_[row], &chosen_[row], 1, -static_cast<double>(log_probs_[row])});
    ++row;
  }
  return next;
}

}  // namespace allmrec
