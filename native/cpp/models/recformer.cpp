#include "recformer.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "training_step.h"

namespace allmrec {
namespace {

// A token at place i sees [CLS] and the places from i − window / 2 to i + window / 2; [CLS] sees all.
ops::AttentionPlan windowed_plan(Tape& tape, const std::vector<int32_t>& offsets, int32_t window) {
  ops::AttentionPlan plan = ops::self_attention_plan(tape, offsets, false);
  const auto tokens = static_cast<size_t>(plan.tokens);
  std::vector<int32_t> prefix(tokens, 1), begin(tokens), end(tokens);
  for (size_t s = 0; s + 1 < offsets.size(); ++s) {
    const int32_t length = offsets[s + 1] - offsets[s];
    for (int32_t i = 0; i < length; ++i) {
      const auto t = static_cast<size_t>(offsets[s] + i);
      begin[t] = std::max(1, i - window / 2);
      end[t] = std::min(length, i + window / 2 + 1);
    }
    const auto cls = static_cast<size_t>(offsets[s]);
    prefix[cls] = begin[cls] = 0;
    end[cls] = length;
  }
  plan.prefix = tape.ints(prefix);
  plan.own_begin = tape.ints(begin);
  plan.own_end = tape.ints(end);
  return plan;
}

[[noreturn]] void fail(const std::string& message) {
  throw Error(ErrorCode::invalid_argument, message);
}

}  // namespace

RecFormer::RecFormer(std::shared_ptr<Device> device, const RecFormerConfig& config)
    : encoder_(std::move(device), config.encoder), window_(config.window), max_items_(config.max_items) {
  types_ = &encoder_.parameters().add("embeddings.text_type_embeddings.weight", {kRecFormerTypes, size()});
  items_ = &encoder_.parameters().add("embeddings.item_position_embeddings.weight",
                                      {static_cast<int64_t>(max_items_) + 1, size()});
}

void RecFormer::check(const RecFormerBatch& batch) const {
  if (batch.types.size() != batch.texts.ids.size() || batch.items.size() != batch.texts.ids.size())
    fail("Expected a type and an item for each of " + std::to_string(batch.texts.ids.size()) + " tokens.");
  for (int64_t b = 0; b < batch.texts.size(); ++b)
    if (batch.texts.offsets[b] == batch.texts.offsets[b + 1])
      fail("Text " + std::to_string(b) + " has no token.");
  for (size_t t = 0; t < batch.types.size(); ++t)
    if (batch.types[t] < 0 || batch.types[t] >= kRecFormerTypes || batch.items[t] < 0 ||
        batch.items[t] > max_items_)
      fail("Token " + std::to_string(t) + " has the type " + std::to_string(batch.types[t]) +
           " and the item " + std::to_string(batch.items[t]) + "; there are " +
           std::to_string(kRecFormerTypes) + " types and " + std::to_string(max_items_) + " items.");
}

Tensor RecFormer::hidden_states(Tape& tape, const RecFormerBatch& batch) {
  check(batch);
  Tensor x = encoder_.embeddings(tape, batch.texts);
  x = ops::add(tape, x, ops::gather_rows(tape, *types_, tape.ints(batch.types), x.dtype));
  x = ops::add(tape, x, ops::gather_rows(tape, *items_, tape.ints(batch.items), x.dtype));
  return encoder_.layers(tape, x, windowed_plan(tape, batch.texts.offsets, window_));
}

Tensor RecFormer::vectors(Tape& tape, const RecFormerBatch& batch) {
  const Tensor states = hidden_states(tape, batch);
  const IntTensor cls = tape.ints(batch.texts.offsets.data(), batch.texts.size());
  return ops::cast(tape, ops::gather_rows(tape, states, cls), ALLMREC_F32);
}

RecFormerTrainer::RecFormerTrainer(RecFormer& model, const AdamOptions& options, float temperature,
                                   uint64_t seed)
    : model_(model),
      temperature_(temperature),
      seed_(seed),
      arena_(model.parameters().device()),
      adam_(model.parameters().device(), model.parameters().train_all(), options) {}

void RecFormerTrainer::set_items(std::vector<float> vectors) {
  const auto c = static_cast<size_t>(model_.size());
  for (size_t row = 0; row < vectors.size(); row += c) {
    double squares = 0.0;
    for (size_t i = row; i < row + c; ++i) squares += static_cast<double>(vectors[i]) * vectors[i];
    const double length = std::max(std::sqrt(squares), 1e-12);
    for (size_t i = row; i < row + c; ++i) vectors[i] = static_cast<float>(vectors[i] / length);
  }
  const std::shared_ptr<Device> device = model_.parameters().device();
  const size_t bytes = vectors.size() * sizeof(float);
  if (items_.bytes() != bytes) items_ = DeviceBuffer(device, bytes, "item vectors");
  device->upload(items_.as<float>(), vectors.data(), bytes);
  num_items_ = static_cast<int64_t>(vectors.size() / c);
}

void RecFormerTrainer::expect_targets(const std::vector<int32_t>& targets, int64_t histories,
                                      int64_t items) const {
  if (targets.empty() || static_cast<int64_t>(targets.size()) != histories)
    fail("Expected a target for each of " + std::to_string(histories) + " histories, got " +
         std::to_string(targets.size()) + ".");
  for (const int32_t target : targets)
    if (target < 0 || target >= items)
      fail("The target " + std::to_string(target) + " is none of " + std::to_string(items) + " items.");
}

Tensor RecFormerTrainer::logits(Tape& tape, const RecFormerBatch& texts, int64_t histories, bool contrast) {
  const Tensor vectors = ops::l2_normalize(tape, model_.vectors(tape, texts));
  if (!contrast) {
    Tensor items;
    items.data = items_.as<float>();
    items.rows = num_items_;
    items.cols = model_.size();
    return ops::matmul_transposed(tape, vectors, items, 1.0f / temperature_);
  }
  std::vector<int32_t> first(static_cast<size_t>(histories)),
      rest(static_cast<size_t>(texts.texts.size() - histories));
  std::iota(first.begin(), first.end(), 0);
  std::iota(rest.begin(), rest.end(), static_cast<int32_t>(histories));
  return ops::matmul_transposed(tape, ops::gather_rows(tape, vectors, tape.ints(first)),
                                ops::gather_rows(tape, vectors, tape.ints(rest)), 1.0f / temperature_);
}

RecFormerTrainer::Losses RecFormerTrainer::compute(const RecFormerBatch& texts,
                                                   const std::vector<int32_t>& targets, bool contrast) {
  arena_.reset();
  Tape tape(*model_.parameters().device(), arena_, true, seed_, static_cast<uint64_t>(adam_.steps()));
  const Tensor scores = logits(tape, texts, static_cast<int64_t>(targets.size()), contrast);
  ops::cross_entropy_loss(tape, "crossEntropy", scores, tape.ints(targets),
                          1.0f / static_cast<float>(targets.size()), 1.0f);
  tape.backward();
  return tape.read_losses();
}

RecFormerTrainer::Losses RecFormerTrainer::step(const RecFormerBatch& histories,
                                                const std::vector<int32_t>& targets) {
  expect_targets(targets, histories.texts.size(), num_items_);
  return finite_step({"RecFormer", adam_, {&model_.parameters()}},
                     [&] { return compute(histories, targets, false); });
}

RecFormerTrainer::Losses RecFormerTrainer::gradients(const RecFormerBatch& histories,
                                                     const std::vector<int32_t>& targets) {
  expect_targets(targets, histories.texts.size(), num_items_);
  return compute(histories, targets, false);
}

RecFormerTrainer::Losses RecFormerTrainer::contrast(const RecFormerBatch& texts,
                                                    const std::vector<int32_t>& targets) {
  const auto histories = static_cast<int64_t>(targets.size());
  expect_targets(targets, std::min(histories, texts.texts.size()), texts.texts.size() - histories);
  return finite_step({"RecFormer's pre-training", adam_, {&model_.parameters()}},
                     [&] { return compute(texts, targets, true); });
}

RecFormerTrainer::Losses RecFormerTrainer::evaluate(const RecFormerBatch& histories,
                                                    const std::vector<int32_t>& targets) {
  expect_targets(targets, histories.texts.size(), num_items_);
  arena_.reset();
  Device& device = *model_.parameters().device();
  Tape tape(device, arena_, false);
  const Tensor scores = logits(tape, histories, histories.texts.size(), false);
  std::vector<float> host(static_cast<size_t>(scores.size()));
  device.download(host.data(), scores.data, host.size() * sizeof(float));
  expect_finite(host.data(), scores.size(), "RecFormer's scores are not finite", {&model_.parameters()},
                [&] { logits(tape, histories, histories.texts.size(), false); });
  double loss = 0.0, ndcg = 0.0;
  for (size_t b = 0; b < targets.size(); ++b) {
    const float* row = host.data() + b * static_cast<size_t>(num_items_);
    const float own = row[targets[b]], most = *std::max_element(row, row + num_items_);
    double sum = 0.0;
    int64_t before = 0;
    for (int64_t i = 0; i < num_items_; ++i) {
      sum += std::exp(static_cast<double>(row[i] - most));
      before += row[i] > own || (row[i] == own && i < targets[b]);
    }
    loss += std::log(sum) + most - own;
    if (before < 10) ndcg += 1.0 / std::log2(static_cast<double>(before) + 2.0);
  }
  const auto n = static_cast<double>(targets.size());
  return {{"loss", loss / n}, {"ndcg", ndcg / n}};
}

}  // namespace allmrec
