#include "lora.h"

#include <cmath>

namespace allmrec {

Lora::Lora(std::shared_ptr<Device> device, const LoraConfig& config)
    : config_(config), parameters_(device), constants_(std::move(device)) {
  zeros_ = &constants_.add("zeros", {config.hidden_size, config.rank});
  constants_.fill(*zeros_, 0.0f);
  for (int i = 0; i < config.num_layers; ++i) {
    query_.push_back(add(i, "q_proj"));
    value_.push_back(add(i, "v_proj"));
  }
}

Lora::Pair Lora::add(int layer, const char* projection) {
  const std::string name =
      "base_model.model.model.decoder.layers." + std::to_string(layer) + ".self_attn." + projection;
  Parameter& a = parameters_.add(name + ".lora_A.weight", {config_.rank, config_.hidden_size});
  Parameter& b = parameters_.add(name + ".lora_B.weight", {config_.hidden_size, config_.rank});
  return {&a, &b};
}

void Lora::initialise(uint64_t seed) {
  const float bound = 1.0f / std::sqrt(static_cast<float>(config_.hidden_size));
  for (const auto* pairs : {&query_, &value_})
    for (const Pair& pair : *pairs) {
      parameters_.uniform(*pair.a, seed, bound);
      parameters_.fill(*pair.b, 0.0f);
    }
}

void Lora::load(const std::vector<std::string>& paths) {
  parameters_.load(open_files(paths), [](const std::string& name) { return std::vector<std::string>{name}; });
}

Tensor Lora::down(Tape& tape, const Pair& pair, const Tensor& x) const {
  const Tensor input = ops::dropout(tape, x, config_.dropout);
  return ops::scale(tape, ops::linear(tape, input, pair.a), factor());
}

Tensor Lora::query(Tape& tape, int layer, const Tensor& x, const Tensor& q) {
  const Pair& pair = query_[static_cast<size_t>(layer)];
  return ops::linear(tape, down(tape, pair, x), pair.b, {}, ALLMREC_ACT_NONE, &q);
}

Tensor Lora::value(Tape& tape, int layer, const Tensor& x, const Tensor& kv) {
  const Pair& pair = value_[static_cast<size_t>(layer)];
  const Tensor low = down(tape, pair, x);
  return ops::add(tape, kv, ops::projections(tape, {{low, zeros_, {}}, {low, pair.b, {}}}));
}

void Lora::expect_fits(const OptConfig& llm) const {
  if (llm.hidden_size == config_.hidden_size && llm.num_layers == config_.num_layers) return;
  throw Error(ErrorCode::invalid_argument,
              "The adapter is of a language model with " + std::to_string(config_.num_layers) +
                  " layers and hidden size " + std::to_string(config_.hidden_size) + ", this one has " +
                  std::to_string(llm.num_layers) + " and " + std::to_string(llm.hidden_size) + ".");
}

void Lora::merge_into(Opt& llm) const {
  expect_fits(llm.config());
  const std::shared_ptr<Device> device = parameters_.device();
  const int64_t c = config_.hidden_size;
  if (llm.config().dtype == ALLMREC_I8 || llm.config().dtype == ALLMREC_I4)
    throw Error(ErrorCode::unsupported,
                "An adapter cannot be merged into int8 or int4 weights, which would round it away; load it "
                "with mergeAdapter: false.");
  const auto merge = [&](const Pair& pair, Parameter& weight) {
    const bool wide = weight.dtype() == ALLMREC_F32;
    const DeviceBuffer buffer(device, wide ? 0 : static_cast<size_t>(c * c) * sizeof(float));
    float* sum = wide ? weight.value.f32() : buffer.as<float>();
    if (!wide) device->cast({c * c, weight.value.data, weight.dtype(), sum, ALLMREC_F32});
    allmrec_gemm_args g{};
    g.m = g.n = c;
    g.k = config_.rank;
    g.a = pair.b->value.data;
    g.lda = config_.rank;
    g.b = pair.a->value.data;
    g.ldb = c;
    g.c = sum;
    g.ldc = c;
    g.alpha = factor();
    g.accumulate = 1;
    device->gemm(g);
    if (!wide) device->cast({c * c, sum, ALLMREC_F32, weight.value.data, weight.dtype()});
  };
  for (int i = 0; i < config_.num_layers; ++i) {
    merge(query_[static_cast<size_t>(i)], llm.query_weight(i));
    merge(value_[static_cast<size_t>(i)], llm.value_weight(i));
  }
}

WithAdapter::WithAdapter(Opt& llm, std::shared_ptr<Lora> adapter) : llm_(llm), before_(llm.adapter()) {
  if (!adapter || adapter == before_) return;
  if (before_)
    throw Error(ErrorCode::invalid_argument,
                "The language model has an adapter already; load that one with mergeAdapter: true.");
  llm_.set_adapter(std::move(adapter));
}

WithAdapter::~WithAdapter() {
  if (llm_.adapter() != before_) llm_.set_adapter(before_);
}

LoraTrainer::LoraTrainer(std::shared_ptr<Lora> lora, Opt& llm, const AdamOptions& options, uint64_t seed)
    : lora_(std::move(lora)),
      llm_(llm),
      seed_(seed),
      arena_(lora_->parameters().device()),
      adam_(lora_->parameters().device(), lora_->parameters().train_all(), options) {
  lora_->expect_fits(llm.config());
  llm.parameters().set_trainable(false);
}

Losses LoraTrainer::forward(const LlmBatch& batch, const std::vector<float>& soft,
                            const TokenTargets& targets, int64_t total_targets, bool backward,
                            uint64_t dropout_step) {
  expect_targets(targets, llm_.config());
  const WithAdapter with(llm_, lora_);
  arena_.reset();
  Tape tape(*lora_->parameters().device(), arena_, backward, seed_, dropout_step);
  Tensor soft_rows;
  if (!soft.empty()) {
    const int64_t width = llm_.config().embed_size;
    soft_rows = tape.from_host(soft.data(), static_cast<int64_t>(soft.size()) / width, width);
  }
  target_loss(tape, llm_, llm_.hidden(tape, batch, soft_rows, targets.rows), targets, total_targets);
  if (backward) tape.backward();
  return tape.read_losses();
}

Training LoraTrainer::training() {
  return {"The adapter", adam_, {&lora_->parameters(), &llm_.parameters()}};
}

Losses LoraTrainer::step(const LlmBatch& batch, const std::vector<float>& soft, const TokenTargets& targets,
                         int64_t total_targets) {
  const auto number = static_cast<uint64_t>(adam_.steps());
  return finite_step(training(), [&] { return forward(batch, soft, targets, total_targets, true, number); });
}

Losses LoraTrainer::accumulate(const LlmBatch& batch, const std::vector<float>& soft,
                               const TokenTargets& targets, int64_t total_targets) {
  const auto number = static_cast<uint64_t>(adam_.steps());
  return finite_losses(training(),
                       [&] { return forward(batch, soft, targets, total_targets, true, number); });
}

Losses LoraTrainer::evaluate(const LlmBatch& batch, const std::vector<float>& soft,
                             const TokenTargets& targets, bool keep_gradients) {
  return finite_losses(training(), [&] { return forward(batch, soft, targets, 0, keep_gradients, 0); });
}

}  // namespace allmrec
