#include "alignment.h"

#include <cmath>

namespace allmrec {

Alignment::Alignment(std::shared_ptr<Device> device, const AlignmentConfig& config)
    : config_(config), parameters_(std::move(device)) {
  auto add = [this](const std::string& name, std::vector<int64_t> shape) {
    return &parameters_.add(name, std::move(shape));
  };
  item_enc_w_ = add("mlp.fc1.weight", {config.joint_size, config.item_size});
  item_enc_b_ = add("mlp.fc1.bias", {config.joint_size});
  item_dec_w_ = add("mlp.fc2.weight", {config.item_size, config.joint_size});
  item_dec_b_ = add("mlp.fc2.bias", {config.item_size});
  text_enc_w_ = add("mlp2.fc1.weight", {config.joint_size, config.text_size});
  text_enc_b_ = add("mlp2.fc1.bias", {config.joint_size});
  text_dec_w_ = add("mlp2.fc2.weight", {config.text_size, config.joint_size});
  text_dec_b_ = add("mlp2.fc2.bias", {config.text_size});
}

void Alignment::initialise(uint64_t seed) {
  // PyTorch's default for a linear layer: weight and bias uniform in ±1/√fan_in.
  for (Parameter* p : {item_enc_w_, item_enc_b_, item_dec_w_, item_dec_b_, text_enc_w_, text_enc_b_,
                       text_dec_w_, text_dec_b_}) {
    const bool encoder = p->name.find("fc1") != std::string::npos;
    const bool item = p->name.rfind("mlp.", 0) == 0;
    const int fan_in = encoder ? (item ? config_.item_size : config_.text_size) : config_.joint_size;
    parameters_.uniform(*p, seed, 1.0f / std::sqrt(static_cast<float>(fan_in)));
  }
}

void Alignment::load(const std::vector<std::string>& paths) {
  parameters_.load(open_files(paths), [](const std::string& name) { return std::vector<std::string>{name}; });
}

Tensor Alignment::encode_items(Tape& tape, const Tensor& items) {
  return ops::activation(tape, config_.activation, ops::linear(tape, items, item_enc_w_, item_enc_b_));
}

Tensor Alignment::decode_items(Tape& tape, const Tensor& latents) {
  return ops::linear(tape, latents, item_dec_w_, item_dec_b_);
}

Tensor Alignment::encode_texts(Tape& tape, const Tensor& texts) {
  return ops::activation(tape, config_.activation, ops::linear(tape, texts, text_enc_w_, text_enc_b_));
}

Tensor Alignment::decode_texts(Tape& tape, const Tensor& latents) {
  return ops::linear(tape, latents, text_dec_w_, text_dec_b_);
}

void Alignment::losses(Tape& tape, const Tensor& users, const Tensor& positive_items,
                       const Tensor& negative_items, const Tensor& positive_texts,
                       const Tensor& negative_texts) {
  const float rows = static_cast<float>(users.rows);
  const float dot_scale = config_.reference_compat ? 1.0f / static_cast<float>(config_.item_size) : 1.0f;
  auto side = [&](const Tensor& items, const Tensor& texts, bool positive) {
    const Tensor e = encode_items(tape, items);
    const Tensor decoded = decode_items(tape, e);
    const Tensor logits = ops::row_dot(tape, users, decoded, dot_scale);
    ops::bce_loss(tape, "recommendation", logits, positive ? 1.0f : 0.0f, 1.0f / rows,
                  config_.recommendation_weight);
    if (!positive && !config_.reference_compat) return;
    const Tensor q = encode_texts(tape, texts);
    ops::mse_loss(tape, "matching", e, q, config_.matching_weight);
    ops::mse_loss(tape, "itemReconstruction", decoded, items, config_.item_reconstruction_weight);
    ops::mse_loss(tape, "textReconstruction", decode_texts(tape, q),
                  config_.reference_compat ? ops::detach(texts) : texts, config_.text_reconstruction_weight);
  };
  side(positive_items, positive_texts, true);
  side(negative_items, negative_texts, false);
}

AlignmentTrainer::AlignmentTrainer(Alignment& alignment, SentenceEncoder* encoder, bool train_encoder,
                                   const AdamOptions& options, uint64_t seed)
    : alignment_(alignment),
      encoder_(encoder),
      seed_(seed),
      arena_(alignment.parameters().device()),
      adam_(
          alignment.parameters().device(),
          [&] {
            alignment.parameters().set_trainable(true);
            std::vector<Parameter*> parameters = alignment.parameters().trainable();
            if (encoder) encoder->parameters().set_trainable(train_encoder);
            if (encoder && train_encoder)
              for (Parameter* p : encoder->parameters().trainable()) parameters.push_back(p);
            return parameters;
          }(),
          options) {}

std::map<std::string, double> AlignmentTrainer::forward(Tape& tape, const AlignmentBatch& batch,
                                                        bool backward) {
  const int64_t d = alignment_.config().item_size, dt = alignment_.config().text_size;
  const int64_t rows = static_cast<int64_t>(batch.users.size()) / d;
  auto matrix = [&](const std::vector<float>& values, int64_t cols) {
    if (static_cast<int64_t>(values.size()) != rows * cols)
      throw Error(ErrorCode::invalid_argument, "Stage 1 batch: expected " + std::to_string(rows) +
                                                   " rows of " + std::to_string(cols) + " numbers, got " +
                                                   std::to_string(values.size()) + ".");
    return tape.from_host(values.data(), rows, cols);
  };
  // The negative's text takes part in the authors' losses only.
  const bool both = alignment_.config().reference_compat;
  Tensor positive, negative;
  if (encoder_) {
    // Both sides go through the encoder as one batch.
    TokenBatch all = batch.positive_tokens;
    if (both) {
      all.ids.insert(all.ids.end(), batch.negative_tokens.ids.begin(), batch.negative_tokens.ids.end());
      for (size_t i = 1; i < batch.negative_tokens.offsets.size(); ++i)
        all.offsets.push_back(batch.positive_tokens.offsets.back() + batch.negative_tokens.offsets[i]);
    }
    const Tensor pooled = encoder_->pooled(tape, all);
    std::vector<int32_t> first(static_cast<size_t>(rows)), second(static_cast<size_t>(rows));
    for (int64_t i = 0; i < rows; ++i)
      first[i] = static_cast<int32_t>(i), second[i] = static_cast<int32_t>(rows + i);
    positive = both ? ops::gather_rows(tape, pooled, tape.ints(first)) : pooled;
    if (both) negative = ops::gather_rows(tape, pooled, tape.ints(second));
  } else {
    positive = matrix(batch.positive_texts, dt);
    if (both) negative = matrix(batch.negative_texts, dt);
  }
  alignment_.losses(tape, matrix(batch.users, d), matrix(batch.positive_items, d),
                    matrix(batch.negative_items, d), positive, negative);
  if (backward) tape.backward();
  return tape.read_losses();
}

Training AlignmentTrainer::training() {
  std::vector<ParameterSet*> weights{&alignment_.parameters()};
  if (encoder_) weights.push_back(&encoder_->parameters());
  return {"Stage 1", adam_, weights};
}

std::map<std::string, double> AlignmentTrainer::step(const AlignmentBatch& batch) {
  return finite_step(training(), [&] {
    arena_.reset();
    Tape tape(*alignment_.parameters().device(), arena_, true, seed_, static_cast<uint64_t>(adam_.steps()));
    return forward(tape, batch, true);
  });
}

std::map<std::string, double> AlignmentTrainer::evaluate(const AlignmentBatch& batch, bool keep_gradients) {
  return finite_losses(training(), [&] {
    arena_.reset();
    Tape tape(*alignment_.parameters().device(), arena_, keep_gradients, seed_, 0);
    return forward(tape, batch, keep_gradients);
  });
}

}  // namespace allmrec
