#include "sequence_loss.h"

#include <algorithm>

namespace allmrec {

SequenceLoss SequenceLoss::read(const NamedOptions& options) {
  SequenceLoss loss;
  if (!options.has("loss")) return loss;
  loss.kind =
      static_cast<SequenceLossKind>(options.choice("loss", {"bce", "softmax", "sampledSoftmax", "gbce"}));
  if (loss.shared()) loss.negatives = options.size("negatives");
  if (loss.kind == SequenceLossKind::gbce) loss.calibration = options.number("calibration", 0, 1);
  return loss;
}

NegativeSampling SequenceLoss::sampling() const {
  if (kind == SequenceLossKind::bce) return {1, 0};
  if (shared()) return {0, negatives};
  return {};
}

void SequenceLoss::record(Tape& tape, const Tensor& features, Parameter& table,
                          const Examples& examples) const {
  const auto count = static_cast<int64_t>(examples.positives.size());
  const float scale = 1.0f / static_cast<float>(std::max<int64_t>(count, 1));
  if (kind == SequenceLossKind::softmax) {
    std::vector<int32_t> classes(examples.positives);
    for (int32_t& row : classes) row -= 1;  // the padding row is no class
    ops::linear_cross_entropy_loss(tape, "softmax", features, ParameterView(&table, 1, table.value.rows - 1),
                                   tape.ints(classes), scale, 1.0f);
    return;
  }
  const Tensor positive = ops::gather_rows(tape, table, tape.ints(examples.positives));
  const Tensor negative = ops::gather_rows(tape, table, tape.ints(examples.negatives));
  if (kind == SequenceLossKind::bce) {
    ops::bce_loss(tape, "bce", ops::row_dot(tape, features, positive), 1.0f, scale, 1.0f);
    ops::bce_loss(tape, "bce", ops::row_dot(tape, features, negative), 0.0f, scale, 1.0f);
    return;
  }
  const Tensor next = ops::row_dot(tape, features, positive);
  const Tensor logits = ops::matmul_transposed(tape, features, negative);
  if (kind == SequenceLossKind::sampled_softmax) {
    // Every item is drawn equally often, so correcting by the log of the chance would add the same to all.
    const Tensor others = ops::add(tape, logits, accidental_hits(tape, examples, -1e9f, 0.0f));
    const std::vector<int32_t> first(examples.positives.size(), 0);
    ops::cross_entropy_loss(tape, "sampledSoftmax", ops::concat_columns(tape, next, others), tape.ints(first),
                            scale, 1.0f);
    return;
  }
  // −β log σ(s⁺) − Σ log(1 − σ(s⁻)), the mean over the positive and its negatives; β = 1 − t(1 − α), which is
  // the paper's α(t(1 − 1/α) + 1/α), with α the share of the other items that is drawn.
  const float alpha =
      std::min(static_cast<float>(negatives) / static_cast<float>(table.value.rows - 2), 1.0f);
  const float beta = 1.0f - calibration * (1.0f - alpha);
  const float each = scale / static_cast<float>(negatives + 1);
  ops::bce_loss(tape, "gbce", next, 1.0f, each * beta, 1.0f);
  ops::bce_loss(tape, "gbce", logits, 0.0f, each, 1.0f, accidental_hits(tape, examples, 0.0f, 1.0f).f32());
}

Tensor SequenceLoss::accidental_hits(Tape& tape, const Examples& examples, float hit, float other) const {
  const auto count = static_cast<int64_t>(examples.positives.size());
  std::vector<float> values(static_cast<size_t>(count * negatives), other);
  for (int64_t p = 0; p < count; ++p)
    for (int n = 0; n < negatives; ++n)
      if (examples.negatives[n] == examples.positives[p])
        values[static_cast<size_t>(p * negatives + n)] = hit;
  return tape.from_host(values.data(), count, negatives);
}

}  // namespace allmrec
