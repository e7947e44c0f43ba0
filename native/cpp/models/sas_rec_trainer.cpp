#include "sas_rec_trainer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "../core/philox.h"

namespace allmrec {
namespace {

__extension__ typedef unsigned __int128 Wide;

constexpr uint64_t kOrderStream = 0x6f72646572000000ull;     // shuffling users, + epoch
constexpr uint64_t kNegativeStream = 0x6e65676174000000ull;  // drawing negatives, + step

// Uniform in [0, n) from counter `index` of a stream, without modulo bias to speak of (64 bits over n).
uint64_t draw(uint64_t seed, uint64_t stream, uint64_t index, uint64_t n) {
  const PhiloxWords words = philox(seed, stream, index);
  const uint64_t bits = static_cast<uint64_t>(words.word[1]) << 32 | words.word[0];
  return static_cast<uint64_t>((static_cast<Wide>(bits) * n) >> 64);
}

constexpr const char* kScoresNotFinite = "SASRec's scores are not finite";

}  // namespace

SasRecTrainer::SasRecTrainer(SasRec& model, Sequences train, Sequences known,
                             const SasRecTrainOptions& options)
    : model_(model),
      train_(std::move(train)),
      known_(std::move(known)),
      options_(options),
      arena_(model.parameters().device()),
      adam_(model.parameters().device(), model.parameters().train_all(), options.adam),
      graph_(model.parameters().device()),
      loss_sum_(model.parameters().device(), sizeof(float)) {
  known_.sort();
  users_ = users_to_train(train_, known_, model.config().num_items, options.loss);
}

void Sequences::sort() {
  for (int64_t u = 0; u < users(); ++u) std::sort(items.begin() + offsets[u], items.begin() + offsets[u + 1]);
}

std::vector<int32_t> SasRecTrainer::users_to_train(const Sequences& train, const Sequences& known,
                                                   int64_t items, SequenceLoss loss) {
  std::vector<int32_t> users;
  std::vector<int64_t> seen_by(static_cast<size_t>(items) + 1, -1);  // the user an item was last met with
  for (int64_t u = 0; u < train.users(); ++u) {
    if (train.length(u) < 2) continue;  // nothing to predict
    int64_t distinct = 0;
    for (int64_t i = known.offsets[u]; i < known.offsets[u + 1]; ++i) {
      int64_t& seen = seen_by[static_cast<size_t>(known.items[i])];
      distinct += seen != u;
      seen = u;
    }
    if (distinct < items || loss == SequenceLoss::softmax) users.push_back(static_cast<int32_t>(u));
  }
  if (users.empty())
    throw Error(ErrorCode::invalid_argument,
                "No user has two training items or more, so there is nothing to train SASRec on.");
  return users;
}

int64_t SasRecTrainer::steps_per_epoch() const {
  return (static_cast<int64_t>(users_.size()) + options_.batch_size - 1) / options_.batch_size;
}

bool SasRecTrainer::is_known(int64_t user, int32_t item) const {
  return std::binary_search(known_.items.begin() + known_.offsets[user],
                            known_.items.begin() + known_.offsets[user + 1], item);
}

void SasRecTrainer::compose(int64_t step, SequenceBatch& batch, std::vector<int32_t>& positives,
                            std::vector<int32_t>& negatives) {
  const int64_t epoch = step / steps_per_epoch();
  if (epoch != order_epoch_) {
    order_ = users_;
    for (size_t i = order_.size(); i > 1; --i)
      std::swap(order_[i - 1],
                order_[draw(options_.seed, kOrderStream + static_cast<uint64_t>(epoch), i, i)]);
    order_epoch_ = epoch;
  }
  const int64_t first = step % steps_per_epoch() * options_.batch_size;
  const int64_t last = std::min<int64_t>(first + options_.batch_size, static_cast<int64_t>(order_.size()));
  uint64_t counter = 0;
  const auto items = static_cast<uint64_t>(model_.config().num_items);
  for (int64_t i = first; i < last; ++i) {
    const int64_t user = order_[i];
    const int64_t length = train_.length(user) - 1;
    batch.add(train_.begin(user), length, model_.config().max_length);
    const int64_t kept = std::min<int64_t>(length, model_.config().max_length);
    const int32_t* next = train_.begin(user) + 1 + (length - kept);
    positives.insert(positives.end(), next, next + kept);
    if (options_.loss != SequenceLoss::bce) continue;
    for (int64_t j = 0; j < kept; ++j) {
      int32_t negative;
      do {
        negative = 1 + static_cast<int32_t>(draw(options_.seed, kNegativeStream + static_cast<uint64_t>(step),
                                                 counter++, items));
      } while (is_known(user, negative));
      negatives.push_back(negative);
    }
  }
}

Training SasRecTrainer::training() {
  return {"SASRec", adam_, {&model_.parameters()}};
}

Losses SasRecTrainer::step(const SequenceBatch& batch, const std::vector<int32_t>& positives,
                           const std::vector<int32_t>& negatives) {
  return finite_step(training(), [&] { return compute(batch, positives, negatives); });
}

Losses SasRecTrainer::gradients(const SequenceBatch& batch, const std::vector<int32_t>& positives,
                                const std::vector<int32_t>& negatives) {
  return finite_losses(training(), [&] { return compute(batch, positives, negatives); });
}

Losses SasRecTrainer::compute(const SequenceBatch& batch, const std::vector<int32_t>& positives,
                              const std::vector<int32_t>& negatives) {
  arena_.reset();
  Device& device = *model_.parameters().device();
  Tape tape(device, arena_, true, options_.seed, static_cast<uint64_t>(adam_.steps()));
  enqueue(tape, batch, positives, negatives);
  // The padding row takes no part in the model; its gradient is zero by construction. λ‖E‖₂ has the gradient
  // λE/‖E‖₂.
  if (options_.l2_embedding > 0.0f) {
    Parameter& table = model_.item_embedding();
    const float* pointers[1] = {table.value.f32()};
    const int64_t sizes[1] = {table.value.size()};
    const Tensor squared = tape.tensor(1, 1);
    device.squared_norm({pointers, sizes, 1, squared.f32()});
    float host = 0.0f;
    device.download(&host, squared.data, sizeof host);
    if (host > 0.0f)
      device.add({table.value.size(), options_.l2_embedding / std::sqrt(host), table.value.data, 0.0f,
                  nullptr, table.grad, 1, ALLMREC_F32});
  }
  return tape.read_losses();
}

void SasRecTrainer::enqueue(Tape& tape, const SequenceBatch& batch, const std::vector<int32_t>& positives,
                            const std::vector<int32_t>& negatives) {
  const Tensor features = model_.features(tape, batch);
  const float scale = 1.0f / static_cast<float>(std::max<size_t>(positives.size(), 1));
  Parameter& table = model_.item_embedding();
  if (options_.loss == SequenceLoss::bce) {
    const Tensor positive = ops::gather_rows(tape, table, tape.ints(positives));
    const Tensor negative = ops::gather_rows(tape, table, tape.ints(negatives));
    ops::bce_loss(tape, "bce", ops::row_dot(tape, features, positive), 1.0f, scale, 1.0f);
    ops::bce_loss(tape, "bce", ops::row_dot(tape, features, negative), 0.0f, scale, 1.0f);
  } else {
    std::vector<int32_t> rows(positives);
    for (int32_t& row : rows) row -= 1;  // the padding row is no class
    ops::linear_cross_entropy_loss(tape, "softmax", features,
                                   ParameterView(&table, 1, model_.config().num_items), tape.ints(rows),
                                   scale, 1.0f);
  }
  tape.backward();
}

double SasRecTrainer::run_recorded(int64_t steps) {
  Device& device = *model_.parameters().device();
  auto* sum = loss_sum_.as<float>();
  double mean = 0.0;
  adam_.save(before_);
  device.fill(sum, 1, 0.0f);
  int64_t done = 0;
  {
    const std::atomic<bool>* cancelled = Cancellation::flag();
    const Cancellation whole(nullptr);  // no recording is left half-way, and no step unlooked at
    for (; done < steps && !(cancelled && cancelled->load(std::memory_order_relaxed)); ++done) {
      SequenceBatch batch;
      std::vector<int32_t> positives, negatives;
      compose(adam_.steps(), batch, positives, negatives);
      arena_.reset();  // gives memory back, which a recording could not
      graph_.record([&] {
        Tape tape(device, arena_, true, options_.seed, static_cast<uint64_t>(adam_.steps()));
        enqueue(tape, batch, positives, negatives);
        tape.add_losses_to(sum);
        adam_.step_unseen();
      });
      graph_.launch();
    }
    float total = 0.0f;
    device.download(&total, sum, sizeof total);
    if (!std::isfinite(total) || !adam_.weights_finite()) {
      // Which step it was is found by running them again one by one, each looked at before its weights
      // change.
      adam_.restore(before_);
      model_.parameters().zero_grad();
      return run_watched(done);
    }
    mean = done ? static_cast<double>(total) / static_cast<double>(done) : 0.0;
  }
  Cancellation::poll();
  return mean;
}

double SasRecTrainer::run_watched(int64_t steps) {
  double sum = 0.0;
  int64_t done = 0;
  for (; done < steps; ++done) {
    SequenceBatch batch;
    std::vector<int32_t> positives, negatives;
    compose(adam_.steps(), batch, positives, negatives);
    sum += step(batch, positives, negatives)["loss"];
  }
  return done ? sum / static_cast<double>(done) : 0.0;
}

double SasRecTrainer::run(int64_t steps) {
  const bool waits =
      options_.l2_embedding > 0.0f || adam_.options().clip_norm > 0.0f;  // for a norm, each step
  if (!waits && model_.parameters().device()->has_graphs()) return run_recorded(steps);
  return run_watched(steps);
}

std::vector<float> user_vectors(SasRec& model, const Sequences& histories) {
  constexpr int64_t kBatch = 128;
  const int64_t c = model.config().hidden_units;
  std::vector<float> vectors(static_cast<size_t>(histories.users() * c), 0.0f);
  std::shared_ptr<Device> device = model.parameters().device();
  Arena arena(device);
  for (int64_t first = 0; first < histories.users(); first += kBatch) {
    arena.reset();
    Tape tape(*device, arena, false);
    const WithPrecision fixed(tape, kScorePrecision);
    SequenceBatch batch;
    const int64_t last = std::min(first + kBatch, histories.users());
    for (int64_t u = first; u < last; ++u)
      batch.add(histories.begin(u), histories.length(u), model.config().max_length);
    const Tensor x = model.last_features(tape, batch);
    float* rows = vectors.data() + first * c;
    device->download(rows, x.data, static_cast<size_t>(x.size()) * sizeof(float));
    expect_finite(rows, x.size(), "SASRec's user vectors are not finite", {&model.parameters()},
                  [&] { model.last_features(tape, batch); });
  }
  return vectors;
}

std::vector<float> score_candidates(SasRec& model, const std::vector<float>& users,
                                    const std::vector<int32_t>& candidates, int64_t per_user) {
  const int64_t batch =
      std::max<int64_t>(1, 4096 / std::max<int64_t>(per_user, 1));  // gathered rows stay in the cache
  const int64_t c = model.config().hidden_units;
  const int64_t count = static_cast<int64_t>(users.size()) / c;
  std::vector<float> scores(static_cast<size_t>(count * per_user));
  std::shared_ptr<Device> device = model.parameters().device();
  Arena arena(device);
  for (int64_t first = 0; first < count; first += batch) {
    arena.reset();
    Tape tape(*device, arena, false);
    const int64_t rows = std::min(batch, count - first);
    const Tensor x = tape.from_host(users.data() + first * c, rows, c);
    std::vector<int32_t> repeat(static_cast<size_t>(rows * per_user));
    for (size_t i = 0; i < repeat.size(); ++i)
      repeat[i] = static_cast<int32_t>(static_cast<int64_t>(i) / per_user);
    const Tensor left = ops::gather_rows(tape, x, tape.ints(repeat));
    const Tensor right = ops::gather_rows(tape, model.item_embedding(),
                                          tape.ints(candidates.data() + first * per_user, rows * per_user));
    const Tensor dots = ops::row_dot(tape, left, right);
    float* values = scores.data() + first * per_user;
    device->download(values, dots.data, static_cast<size_t>(dots.size()) * sizeof(float));
    expect_finite(values, dots.size(), kScoresNotFinite, {&model.parameters()},
                  [&] { ops::row_dot(tape, left, right); });
  }
  return scores;
}

FullRanking rank_catalogue(SasRec& model, const std::vector<float>& users,
                           const std::vector<int32_t>& targets, const Sequences& exclude, int k) {
  const int64_t c = model.config().hidden_units;
  const int64_t count = static_cast<int64_t>(users.size()) / c;
  const int64_t items = model.config().num_items;
  const int64_t block =
      std::max<int64_t>(1, std::min<int64_t>(256, (int64_t{2} << 20) / std::max<int64_t>(items, 1)));
  FullRanking result;
  result.greater.resize(targets.size());
  result.ties.resize(targets.size());
  result.top.resize(static_cast<size_t>(count * k));
  result.top_scores.resize(static_cast<size_t>(count * k));
  std::shared_ptr<Device> device = model.parameters().device();
  Arena arena(device);
  Tensor table = model.item_embedding().value;
  table.data = table.at(1);  // items from 1
  table.rows = items;
  std::vector<float> host;
  for (int64_t first = 0; first < count; first += block) {
    arena.reset();
    Tape tape(*device, arena, false);
    const WithPrecision fixed(tape, kScorePrecision);
    const int64_t rows = std::min(block, count - first);
    const Tensor x = tape.from_host(users.data() + first * c, rows, c);
    const Tensor scores = ops::matmul_transposed(tape, x, table);
    const auto fail_scores = [&] {
      fail_not_finite(kScoresNotFinite, {&model.parameters()},
                      [&] { ops::matmul_transposed(tape, x, table); });
    };
    std::vector<int32_t> offsets{0}, columns;
    for (int64_t u = first; u < first + rows; ++u) {
      const size_t begin = columns.size();
      for (int64_t i = exclude.offsets[u]; i < exclude.offsets[u + 1]; ++i)
        if (targets.empty() || exclude.items[i] != targets[u]) columns.push_back(exclude.items[i] - 1);
      std::sort(columns.begin() + static_cast<int64_t>(begin), columns.end());
      columns.erase(std::unique(columns.begin() + static_cast<int64_t>(begin), columns.end()), columns.end());
      offsets.push_back(static_cast<int32_t>(columns.size()));
    }
    if (k > 0) {
      allmrec_top_k_args a{};
      a.rows = rows;
      a.cols = items;
      a.scores = scores.f32();
      a.ld = items;
      a.exclude_offsets = tape.ints(offsets).data;
      a.exclude_columns = tape.ints(columns).data;
      a.k = k;
      a.indices = tape.ints(std::vector<int32_t>(static_cast<size_t>(rows * k))).data;
      const Tensor values = tape.tensor(rows, k);
      a.values = values.f32();
      device->top_k(a);
      device->download(result.top.data() + first * k, a.indices,
                       static_cast<size_t>(rows * k) * sizeof(int32_t));
      device->download(result.top_scores.data() + first * k, a.values,
                       static_cast<size_t>(rows * k) * sizeof(float));
      for (int64_t i = first * k; i < (first + rows) * k; ++i) {
        if (result.top[i] < 0) continue;
        if (!std::isfinite(result.top_scores[i])) fail_scores();
        result.top[i] += 1;
      }
    }
    if (targets.empty()) continue;
    host.resize(static_cast<size_t>(scores.size()));
    device->download(host.data(), scores.data, host.size() * sizeof(float));
    for (int64_t r = 0; r < rows; ++r) {
      const float* row = host.data() + r * items;
      const float target = row[targets[first + r] - 1];
      int32_t greater = 0, equal = 0, finite = 0;
      for (int64_t i = 0; i < items; ++i) {
        greater += row[i] > target;
        equal += row[i] == target;
        finite += std::abs(row[i]) <= std::numeric_limits<float>::max();
      }
      if (finite < items) fail_scores();
      for (int32_t i = offsets[r]; i < offsets[r + 1]; ++i) {
        greater -= row[columns[i]] > target;
        equal -= row[columns[i]] == target;
      }
      result.greater[first + r] = greater;
      result.ties[first + r] = equal - 1;
    }
  }
  return result;
}

}  // namespace allmrec
