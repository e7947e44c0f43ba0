#include "sentence_encoder.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "training_step.h"

namespace allmrec {

SentenceEncoder::SentenceEncoder(std::shared_ptr<Device> device, const EncoderConfig& config)
    : config_(config), activation_dtype_(config.activation_dtype), parameters_(std::move(device)) {
  if (std::strcmp(parameters_.device()->backend_name(), "cpu") == 0) {
    activation_dtype_ = ALLMREC_F32;
    if (config.activation_dtype == ALLMREC_BF16) precision_.compute_dtype = ALLMREC_BF16;
  }
  const int64_t c = config.hidden_size, f = config.intermediate_size;
  if (config.num_heads < 1 || c % config.num_heads != 0)
    throw Error(ErrorCode::checkpoint, "Encoder config: hidden size " + std::to_string(c) +
                                           " is not a multiple of the number of heads " +
                                           std::to_string(config.num_heads) + ".");
  const bool bert = config.kind == EncoderKind::bert;
  const int32_t d = config.weight_dtype;
  auto add = [this](const std::string& name, std::vector<int64_t> shape) {
    return &parameters_.add(name, std::move(shape));
  };
  word_embeddings_ = &parameters_.add("embeddings.word_embeddings.weight", {config.vocab_size, c}, d);
  position_embeddings_ = add("embeddings.position_embeddings.weight", {config.max_positions, c});
  if (bert)
    token_type_embeddings_ = add("embeddings.token_type_embeddings.weight", {config.type_vocab_size, c});
  norm_weight_ = add("embeddings.LayerNorm.weight", {c});
  norm_bias_ = add("embeddings.LayerNorm.bias", {c});
  for (int i = 0; i < config.num_layers; ++i) {
    const std::string p = (bert ? "encoder.layer." : "transformer.layer.") + std::to_string(i) + ".";
    auto pair = [&](Parameter*& weight, Parameter*& bias, const std::string& name, int64_t out, int64_t in) {
      weight = in ? &parameters_.add(p + name + ".weight", {out, in}, d) : add(p + name + ".weight", {out});
      bias = add(p + name + ".bias", {out});
    };
    Layer l{};
    // Queries, keys and values lie side by side and take one product.
    std::vector<ParameterSet::Entry> weights, biases;
    for (const char* part : {"query", "key", "value"}) {
      const std::string name = bert ? p + "attention.self." + part : p + "attention." + part[0] + "_lin";
      weights.push_back({name + ".weight", {c, c}});
      biases.push_back({name + ".bias", {c}});
    }
    const std::vector<Parameter*> w = parameters_.add_together(weights, d),
                                  b = parameters_.add_together(biases);
    l.q_weight = w[0], l.k_weight = w[1], l.v_weight = w[2];
    l.q_bias = b[0], l.k_bias = b[1], l.v_bias = b[2];
    pair(l.out_weight, l.out_bias, bert ? "attention.output.dense" : "attention.out_lin", c, c);
    pair(l.attention_norm_weight, l.attention_norm_bias,
         bert ? "attention.output.LayerNorm" : "sa_layer_norm", c, 0);
    pair(l.fc1_weight, l.fc1_bias, bert ? "intermediate.dense" : "ffn.lin1", f, c);
    pair(l.fc2_weight, l.fc2_bias, bert ? "output.dense" : "ffn.lin2", c, f);
    pair(l.output_norm_weight, l.output_norm_bias, bert ? "output.LayerNorm" : "output_layer_norm", c, 0);
    layers_.push_back(l);
  }
}

void SentenceEncoder::initialise(uint64_t seed, float std) {
  for (const auto& p : parameters_.all()) {
    const bool norm =
        p->name.find("LayerNorm") != std::string::npos || p->name.find("layer_norm") != std::string::npos;
    if (p->shape.size() > 1)
      parameters_.normal(*p, seed, std);
    else
      parameters_.fill(*p, norm && p->name.find("weight") != std::string::npos ? 1.0f : 0.0f);
  }
}

void SentenceEncoder::load(const std::vector<std::string>& paths) {
  const std::string prefix = config_.kind == EncoderKind::bert ? "bert." : "distilbert.";
  parameters_.load(open_files(paths), [&prefix](const std::string& name) {
    std::vector<std::string> names{name, prefix + name, "0.auto_model." + name};
    // TensorFlow's spelling, kept by old conversions.
    const size_t at = name.find("LayerNorm.");
    if (at != std::string::npos) {
      const std::string old =
          name.substr(0, at) +
          (name.find("weight") != std::string::npos ? "LayerNorm.gamma" : "LayerNorm.beta");
      names.push_back(old);
      names.push_back(prefix + old);
    }
    return names;
  });
}

Tensor SentenceEncoder::hidden_states(Tape& tape, const TokenBatch& batch) {
  return layers(tape, embeddings(tape, batch), ops::self_attention_plan(tape, batch.offsets, false));
}

Tensor SentenceEncoder::embeddings(Tape& tape, const TokenBatch& batch) {
  std::vector<int32_t> positions(batch.ids.size());
  for (int64_t b = 0; b < batch.size(); ++b) {
    const int32_t length = batch.offsets[b + 1] - batch.offsets[b];
    if (length > config_.max_positions)
      throw Error(ErrorCode::invalid_argument, "A text of " + std::to_string(length) +
                                                   " tokens exceeds the encoder's " +
                                                   std::to_string(config_.max_positions) + " positions.");
    for (int32_t i = 0; i < length; ++i) positions[batch.offsets[b] + i] = i;
  }
  for (int32_t id : batch.ids)
    if (id < 0 || id >= config_.vocab_size)
      throw Error(ErrorCode::invalid_argument, "Token " + std::to_string(id) +
                                                   " is outside the encoder's vocabulary of " +
                                                   std::to_string(config_.vocab_size) + ".");
  ops::EmbeddingInput in;
  in.ids = tape.ints(batch.ids);
  in.table = word_embeddings_;
  in.positions = position_embeddings_;
  in.position_ids = tape.ints(positions);
  in.dtype = activation_dtype_;
  if (token_type_embeddings_) in.constant = ParameterView(token_type_embeddings_, 0, 1);
  return ops::embedding(tape, in);
}

Tensor SentenceEncoder::layers(Tape& tape, const Tensor& embedded, const ops::AttentionPlan& plan) {
  const WithPrecision with(tape, precision_);
  const float p = config_.dropout_rate;
  const int64_t c = config_.hidden_size;
  Tensor x = ops::layer_norm(tape, embedded, *norm_weight_, *norm_bias_, config_.layer_norm_eps);
  x = ops::dropout(tape, x, p);
  for (const Layer& l : layers_) {
    ops::AttentionInput a;
    a.q = a.kv = ops::projections(
        tape, {{x, l.q_weight, l.q_bias}, {x, l.k_weight, l.k_bias}, {x, l.v_weight, l.v_bias}});
    a.k_column = c;
    a.v_column = 2 * c;
    a.heads = config_.num_heads;
    a.head_dim = static_cast<int>(c / config_.num_heads);
    a.plan = plan;
    a.dropout_rate = p;
    a.drop_columns = config_.max_positions;
    const Tensor attended = ops::attention(tape, a);
    // Dropout falls on the sub-layer's output, before the residual.
    auto with_residual = [&](const Tensor& input, Parameter* w, Parameter* b, const Tensor& residual) {
      if (!tape.recording() || p == 0.0f) return ops::linear(tape, input, w, b, ALLMREC_ACT_NONE, &residual);
      return ops::dropout(tape, ops::linear(tape, input, w, b), p, &residual);
    };
    x = ops::layer_norm(tape, with_residual(attended, l.out_weight, l.out_bias, x), *l.attention_norm_weight,
                        *l.attention_norm_bias, config_.layer_norm_eps);
    const Tensor hidden =
        ops::activation(tape, config_.activation, ops::linear(tape, x, l.fc1_weight, l.fc1_bias));
    x = ops::layer_norm(tape, with_residual(hidden, l.fc2_weight, l.fc2_bias, x), *l.output_norm_weight,
                        *l.output_norm_bias, config_.layer_norm_eps);
  }
  return x;
}

Tensor SentenceEncoder::pooled(Tape& tape, const TokenBatch& batch) {
  return ops::cast(tape, ops::segment_mean(tape, hidden_states(tape, batch), tape.ints(batch.offsets)),
                   ALLMREC_F32);
}

std::vector<float> SentenceEncoder::encode(const TokenBatch& texts, int64_t tokens_per_batch) {
  const int64_t c = config_.hidden_size;
  std::vector<float> result(static_cast<size_t>(texts.size() * c));
  std::vector<int64_t> order(static_cast<size_t>(texts.size()));
  std::iota(order.begin(), order.end(), int64_t{0});
  auto length = [&texts](int64_t b) { return texts.offsets[b + 1] - texts.offsets[b]; };
  // Longest first, so that the arena is sized by the first batch.
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return length(a) > length(b); });
  std::shared_ptr<Device> device = parameters_.device();
  Arena arena(device);
  std::vector<float> host;
  for (size_t first = 0; first < order.size();) {
    TokenBatch batch;
    size_t last = first;
    while (
        last < order.size() &&
        (last == first || static_cast<int64_t>(batch.ids.size()) + length(order[last]) <= tokens_per_batch)) {
      const int64_t b = order[last++];
      batch.ids.insert(batch.ids.end(), texts.ids.begin() + texts.offsets[b],
                       texts.ids.begin() + texts.offsets[b + 1]);
      batch.offsets.push_back(static_cast<int32_t>(batch.ids.size()));
    }
    arena.reset();
    Tape tape(*device, arena, false);
    const Tensor vectors = pooled(tape, batch);
    host.resize(static_cast<size_t>(vectors.size()));
    device->download(host.data(), vectors.data, host.size() * sizeof(float));
    expect_finite(host.data(), vectors.size(), "The sentence encoder's vectors are not finite",
                  {&parameters_}, [&] { pooled(tape, batch); });
    for (size_t i = first; i < last; ++i)
      std::copy_n(host.begin() + static_cast<int64_t>(i - first) * c, c, result.begin() + order[i] * c);
    first = last;
  }
  return result;
}

}  // namespace allmrec
