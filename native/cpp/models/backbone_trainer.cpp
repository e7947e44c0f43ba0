#include "backbone_trainer.h"

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

std::string not_finite(const Backbone& model, const char* what) {
  return std::string(model.name()) + "'s " + what + " are not finite";
}

}  // namespace

BackboneTrainer::BackboneTrainer(Backbone& model, Sequences train, Sequences known,
                                 const BackboneTrainOptions& options)
    : model_(model),
      train_(std::move(train)),
      known_(std::move(known)),
      options_(options),
      arena_(model.parameters().device()),
      adam_(model.parameters().device(), model.parameters().train_all(), options.adam),
      graph_(model.parameters().device()),
      loss_sum_(model.parameters().device(), sizeof(float)) {
  model_.start_training(options_.model, train_);
  known_.sort();
  sampling_ = model_.negatives(options_.model);
  examples_ = examples_of(model_, options_.model, train_, known_);
}

std::vector<int64_t> BackboneTrainer::examples_of(const Backbone& model, const NamedOptions& options,
                                                  const Sequences& train, const Sequences& known) {
  const int64_t items = model.num_items();
  const bool sequences = model.examples() == ExampleKind::sequences;
  const bool draws = model.negatives(options).per_positive > 0;
  std::vector<int64_t> examples;
  std::vector<int64_t> seen_by(static_cast<size_t>(items) + 1, -1);  // the user an item was last met with
  for (int64_t u = 0; u < train.users(); ++u) {
    if (train.length(u) < (sequences ? 2 : 1)) continue;  // nothing to predict
    int64_t distinct = 0;
    for (int64_t i = known.offsets[u]; i < known.offsets[u + 1]; ++i) {
      int64_t& seen = seen_by[static_cast<size_t>(known.items[i])];
      distinct += seen != u;
      seen = u;
    }
    if (draws && distinct == items) continue;
    if (sequences) examples.push_back(u);
    for (int64_t at = train.offsets[u]; !sequences && at < train.offsets[u + 1]; ++at) examples.push_back(at);
  }
  if (examples.empty())
    throw Error(ErrorCode::invalid_argument, std::string(sequences ? "No user has two training items or more"
                                                                   : "No user has a training item") +
                                                 ", so there is nothing to train " + model.name() + " on.");
  return examples;
}

int64_t BackboneTrainer::steps_per_epoch() const {
  return (examples_per_epoch() + options_.batch_size - 1) / options_.batch_size;
}

bool BackboneTrainer::is_known(int64_t user, int32_t item) const {
  return std::binary_search(known_.items.begin() + known_.offsets[user],
                            known_.items.begin() + known_.offsets[user + 1], item);
}

Examples BackboneTrainer::compose(int64_t step) {
  const int64_t epoch = step / steps_per_epoch();
  if (epoch != order_epoch_) {
    order_ = examples_;
    for (size_t i = order_.size(); i > 1; --i)
      std::swap(order_[i - 1],
                order_[draw(options_.seed, kOrderStream + static_cast<uint64_t>(epoch), i, i)]);
    order_epoch_ = epoch;
  }
  const int64_t first = step % steps_per_epoch() * options_.batch_size;
  const int64_t last = std::min<int64_t>(first + options_.batch_size, static_cast<int64_t>(order_.size()));
  const auto items = static_cast<uint64_t>(model_.num_items());
  uint64_t counter = 0;
  const auto drawn = [&] {
    return 1 + static_cast<int32_t>(
                   draw(options_.seed, kNegativeStream + static_cast<uint64_t>(step), counter++, items));
  };
  Examples examples;
  const auto add_negatives = [&](int64_t user, int64_t positives) {
    for (int64_t j = 0; j < positives * sampling_.per_positive; ++j) {
      int32_t negative;
      do negative = drawn();
      while (is_known(user, negative));
      examples.negatives.push_back(negative);
    }
  };
  for (int64_t i = first; i < last; ++i) {
    if (model_.examples() == ExampleKind::interactions) {
      const auto next = std::upper_bound(train_.offsets.begin(), train_.offsets.end(), order_[i]);
      const int64_t user = next - train_.offsets.begin() - 1;
      examples.users.push_back(static_cast<int32_t>(user));
      examples.positives.push_back(train_.items[order_[i]]);
      add_negatives(user, 1);
      continue;
    }
    const int64_t user = order_[i];
    const int64_t length = train_.length(user) - 1;
    examples.histories.add(train_.begin(user), length, model_.max_length());
    const int64_t kept = std::min<int64_t>(length, model_.max_length());
    const int32_t* next = train_.begin(user) + 1 + (length - kept);
    examples.positives.insert(examples.positives.end(), next, next + kept);
    add_negatives(user, kept);
  }
  for (int j = 0; j < sampling_.shared; ++j) examples.negatives.push_back(drawn());
  return examples;
}

Training BackboneTrainer::training() {
  return {model_.name(), adam_, {&model_.parameters()}};
}

Losses BackboneTrainer::step(const Examples& examples) {
  return finite_step(training(), [&] { return compute(examples); });
}

Losses BackboneTrainer::gradients(const Examples& examples) {
  return finite_losses(training(), [&] { return compute(examples); });
}

Losses BackboneTrainer::compute(const Examples& examples) {
  arena_.reset();
  Device& device = *model_.parameters().device();
  Tape tape(device, arena_, true, options_.seed, static_cast<uint64_t>(adam_.steps()));
  enqueue(tape, examples);
  // The padding row takes no part in the model; its gradient is zero by construction. λ‖E‖₂ has the gradient
  // λE/‖E‖₂.
  Parameter* table = model_.item_embedding();
  if (options_.l2_embedding > 0.0f && table) {
    const float* pointers[1] = {table->value.f32()};
    const int64_t sizes[1] = {table->value.size()};
    const Tensor squared = tape.tensor(1, 1);
    device.squared_norm({pointers, sizes, 1, squared.f32()});
    float host = 0.0f;
    device.download(&host, squared.data, sizeof host);
    if (host > 0.0f)
      device.add({table->value.size(), options_.l2_embedding / std::sqrt(host), table->value.data, 0.0f,
                  nullptr, table->grad, 1, ALLMREC_F32});
  }
  return tape.read_losses();
}

void BackboneTrainer::enqueue(Tape& tape, const Examples& examples) {
  model_.loss(tape, examples);
  tape.backward();
}

double BackboneTrainer::run_recorded(int64_t steps) {
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
      const Examples examples = compose(adam_.steps());
      arena_.reset();  // gives memory back, which a recording could not
      graph_.record([&] {
        Tape tape(device, arena_, true, options_.seed, static_cast<uint64_t>(adam_.steps()));
        enqueue(tape, examples);
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

double BackboneTrainer::run_watched(int64_t steps) {
  double sum = 0.0;
  int64_t done = 0;
  for (; done < steps; ++done) {
    sum += step(compose(adam_.steps()))["loss"];
  }
  return done ? sum / static_cast<double>(done) : 0.0;
}

double BackboneTrainer::run(int64_t steps) {
  const bool waits =
      options_.l2_embedding > 0.0f || adam_.options().clip_norm > 0.0f;  // for a norm, each step
  const double mean =
      !waits && model_.parameters().device()->has_graphs() ? run_recorded(steps) : run_watched(steps);
  if (adam_.steps() % steps_per_epoch() == 0) model_.end_epoch();
  return mean;
}

std::vector<float> user_vectors(Backbone& model, const Sequences& histories,
                                const std::vector<int32_t>& users) {
  constexpr int64_t kBatch = 128;
  const int64_t c = model.size();
  std::vector<float> vectors(static_cast<size_t>(histories.users() * c), 0.0f);
  std::shared_ptr<Device> device = model.parameters().device();
  const std::string what = not_finite(model, "user vectors");
  Arena arena(device);
  for (int64_t first = 0; first < histories.users(); first += kBatch) {
    arena.reset();
    Tape tape(*device, arena, false);
    const WithPrecision fixed(tape, kScorePrecision);
    SequenceBatch batch;
    const int64_t last = std::min(first + kBatch, histories.users());
    for (int64_t u = first; u < last; ++u)
      batch.add(histories.begin(u), histories.length(u), model.max_length());
    std::vector<int32_t> ids;
    if (!users.empty()) ids.assign(users.begin() + first, users.begin() + last);
    const Tensor x = model.user_vectors(tape, batch, ids);
    float* rows = vectors.data() + first * c;
    device->download(rows, x.data, static_cast<size_t>(x.size()) * sizeof(float));
    expect_finite(rows, x.size(), what.c_str(), {&model.parameters()},
                  [&] { model.user_vectors(tape, batch, ids); });
  }
  return vectors;
}

std::vector<float> item_table(Backbone& model) {
  std::shared_ptr<Device> device = model.parameters().device();
  Arena arena(device);
  Tape tape(*device, arena, false);
  const Tensor table = model.item_table(tape);
  std::vector<float> host(static_cast<size_t>(table.size()));
  device->download(host.data(), table.data, host.size() * sizeof(float));
  return host;
}

namespace {

// items_of(tape, first, count): the item rows of `count` scores from the first.
template <typename ItemsOf>
std::vector<float> score_pairs(Backbone& model, const std::vector<float>& users, int64_t per_user,
                               ItemsOf&& items_of) {
  const int64_t batch =
      std::max<int64_t>(1, 4096 / std::max<int64_t>(per_user, 1));  // gathered rows stay in the cache
  const int64_t c = model.size();
  const int64_t count = static_cast<int64_t>(users.size()) / c;
  std::vector<float> result(static_cast<size_t>(count * per_user));
  std::shared_ptr<Device> device = model.parameters().device();
  const std::string what = not_finite(model, "scores");
  Arena arena(device);
  for (int64_t first = 0; first < count; first += batch) {
    arena.reset();
    Tape tape(*device, arena, false);
    const WithPrecision fixed(tape, kScorePrecision);
    const int64_t rows = std::min(batch, count - first);
    const Tensor x = tape.from_host(users.data() + first * c, rows, c);
    std::vector<int32_t> repeat(static_cast<size_t>(rows * per_user));
    for (size_t i = 0; i < repeat.size(); ++i)
      repeat[i] = static_cast<int32_t>(static_cast<int64_t>(i) / per_user);
    const Tensor left = ops::gather_rows(tape, x, tape.ints(repeat));
    const Tensor right = items_of(tape, first * per_user, rows * per_user);
    const Tensor scores = model.scores(tape, left, right);
    float* values = result.data() + first * per_user;
    device->download(values, scores.data, static_cast<size_t>(scores.size()) * sizeof(float));
    expect_finite(values, scores.size(), what.c_str(), {&model.parameters()},
                  [&] { model.scores(tape, left, right); });
  }
  return result;
}

}  // namespace

std::vector<float> score_candidates(Backbone& model, const std::vector<float>& users,
                                    const std::vector<int32_t>& candidates, int64_t per_user) {
  return score_pairs(model, users, per_user, [&](Tape& tape, int64_t first, int64_t count) {
    return ops::gather_rows(tape, model.item_table(tape), tape.ints(candidates.data() + first, count));
  });
}

std::vector<float> score_vectors(Backbone& model, const std::vector<float>& users,
                                 const std::vector<float>& items, int64_t per_user) {
  const int64_t c = model.size();
  return score_pairs(model, users, per_user, [&](Tape& tape, int64_t first, int64_t count) {
    return tape.from_host(items.data() + first * c, count, c);
  });
}

FullRanking rank_catalogue(Backbone& model, const std::vector<float>& users,
                           const std::vector<int32_t>& targets, const Sequences& exclude, int k) {
  const int64_t c = model.size();
  const int64_t count = static_cast<int64_t>(users.size()) / c;
  const int64_t items = model.num_items();
  const int64_t block =
      std::max<int64_t>(1, std::min<int64_t>(256, (int64_t{2} << 20) / std::max<int64_t>(items, 1)));
  FullRanking result;
  result.greater.resize(targets.size());
  result.ties.resize(targets.size());
  result.top.resize(static_cast<size_t>(count * k));
  result.top_scores.resize(static_cast<size_t>(count * k));
  std::shared_ptr<Device> device = model.parameters().device();
  Arena arena(device);
  const std::string what = not_finite(model, "scores");
  std::vector<float> host;
  for (int64_t first = 0; first < count; first += block) {
    arena.reset();
    Tape tape(*device, arena, false);
    const WithPrecision fixed(tape, kScorePrecision);
    const int64_t rows = std::min(block, count - first);
    const Tensor x = tape.from_host(users.data() + first * c, rows, c);
    Tensor table = model.item_table(tape);
    table.data = table.at(1);  // items from 1
    table.rows = items;
    const Tensor scores = model.catalogue_scores(tape, x, table);
    const auto fail_scores = [&] {
      fail_not_finite(what, {&model.parameters()}, [&] { model.catalogue_scores(tape, x, table); });
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
