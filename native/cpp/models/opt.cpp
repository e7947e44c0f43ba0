#include "opt.h"

#include <algorithm>
#include <numeric>

namespace allmrec {
namespace {

constexpr int kPositionOffset = 2;
constexpr float kEps = 1e-5f;

}  // namespace

void LlmBatch::number_positions() {
  positions.resize(ids.size());
  for (int64_t s = 0; s < sequences(); ++s)
    for (int32_t t = offsets[s]; t < offsets[s + 1]; ++t) positions[t] = t - offsets[s];
}

KvCache::KvCache(std::shared_ptr<Device> device, const OptConfig& config, int64_t sequences, int64_t capacity)
    : capacity_(capacity),
      width_(2 * static_cast<int64_t>(config.hidden_size)),
      lengths_(static_cast<size_t>(sequences), 0) {
  for (int i = 0; i < config.num_layers; ++i)
    layers_.emplace_back(device, static_cast<size_t>(sequences * capacity * width_) * sizeof(float));
}

Tensor KvCache::layer(int i) const {
  Tensor t;
  t.data = layers_[static_cast<size_t>(i)].as<float>();
  t.rows = sequences() * capacity_;
  t.cols = width_;
  return t;
}

Opt::Opt(std::shared_ptr<Device> device, const OptConfig& config)
    : config_(config), parameters_(std::move(device)) {
  const int64_t c = config.hidden_size, e = config.embed_size, f = config.ffn_size;
  if (config.num_heads < 1 || c % config.num_heads != 0)
    throw Error(ErrorCode::checkpoint, "OPT config: hidden size " + std::to_string(c) +
                                           " is not a multiple of the number of heads " +
                                           std::to_string(config.num_heads) + ".");
  const std::string root = "model.decoder.";
  auto add = [this](const std::string& name, std::vector<int64_t> shape) {
    return &parameters_.add(name, std::move(shape));
  };
  embed_tokens_ = add(root + "embed_tokens.weight", {config.vocab_size, e});
  embed_positions_ = add(root + "embed_positions.weight", {config.max_positions + kPositionOffset, c});
  if (e != c) {
    project_in_ = add(root + "project_in.weight", {c, e});
    project_out_ = add(root + "project_out.weight", {e, c});
  }
  if (config.norm_before && config.final_norm) {
    final_norm_weight_ = add(root + "final_layer_norm.weight", {c});
    final_norm_bias_ = add(root + "final_layer_norm.bias", {c});
  }
  for (int i = 0; i < config.num_layers; ++i) {
    const std::string p = root + "layers." + std::to_string(i) + ".";
    auto pair = [&](Parameter*& weight, Parameter*& bias, const std::string& name, int64_t out, int64_t in) {
      weight = add(p + name + ".weight", in ? std::vector<int64_t>{out, in} : std::vector<int64_t>{out});
      bias = add(p + name + ".bias", {out});
    };
    Layer l{};
    pair(l.q_weight, l.q_bias, "self_attn.q_proj", c, c);
    pair(l.k_weight, l.k_bias, "self_attn.k_proj", c, c);
    pair(l.v_weight, l.v_bias, "self_attn.v_proj", c, c);
    pair(l.out_weight, l.out_bias, "self_attn.out_proj", c, c);
    pair(l.attention_norm_weight, l.attention_norm_bias, "self_attn_layer_norm", c, 0);
    pair(l.fc1_weight, l.fc1_bias, "fc1", f, c);
    pair(l.fc2_weight, l.fc2_bias, "fc2", c, f);
    pair(l.final_norm_weight, l.final_norm_bias, "final_layer_norm", c, 0);
    layers_.push_back(l);
  }
}

void Opt::load(const std::vector<std::string>& paths) {
  parameters_.load(open_files(paths), [](const std::string& name) {
    // Files of the hub come with the full prefix, without `model.`, or as the bare decoder.
    return std::vector<std::string>{name, name.substr(6), name.substr(14)};
  });
}

void Opt::check(const LlmBatch& batch, const Tensor& soft, const std::vector<int32_t>& rows,
                KvCache* cache) const {
  const auto fail = [](const std::string& message) { throw Error(ErrorCode::invalid_argument, message); };
  const auto tokens = static_cast<int32_t>(batch.ids.size());
  if (batch.offsets.empty() || batch.offsets.front() != 0 || batch.offsets.back() != tokens ||
      !std::is_sorted(batch.offsets.begin(), batch.offsets.end()))
    fail("Packed sequences: the offsets do not cover the tokens.");
  if (batch.positions.size() != batch.ids.size() ||
      (!batch.prefix.empty() && batch.prefix.size() != batch.ids.size()) ||
      (!batch.own_begin.empty() && batch.own_begin.size() != batch.ids.size()))
    fail("Packed sequences: positions, prefix and own_begin need one number for every token.");
  if (soft.rows > 0 && soft.cols != config_.embed_size)
    fail("Soft tokens must be " + std::to_string(config_.embed_size) + " wide, got " +
         std::to_string(soft.cols) + ".");
  for (int32_t t = 0; t < tokens; ++t) {
    const int32_t id = batch.ids[t];
    if (id >= config_.vocab_size || -static_cast<int64_t>(id) - 1 >= soft.rows)
      fail("Token " + std::to_string(id) + " is outside the vocabulary of " +
           std::to_string(config_.vocab_size) + " and the " + std::to_string(soft.rows) + " soft tokens.");
    if (batch.positions[t] < 0 || batch.positions[t] >= config_.max_positions)
      fail("Position " + std::to_string(batch.positions[t]) + " is outside the language model's " +
           std::to_string(config_.max_positions) + " positions; shorten the prompt.");
  }
  for (int64_t s = 0; s < batch.sequences(); ++s) {
    const int32_t cached = cache ? cache->lengths()[static_cast<size_t>(s)] : 0;
    for (int32_t t = batch.offsets[s]; t < batch.offsets[s + 1]; ++t) {
      const int32_t at = cached + t - batch.offsets[s];
      const int32_t prefix = batch.prefix.empty() ? 0 : batch.prefix[t];
      const int32_t begin = batch.own_begin.empty() ? 0 : batch.own_begin[t];
      if (prefix < 0 || prefix > begin || begin > at)
        fail("Packed sequences: a token's prefix or own_begin is out of order.");
    }
  }
  if (!std::is_sorted(rows.begin(), rows.end()) ||
      (!rows.empty() && (rows.front() < 0 || rows.back() >= tokens)))
    fail("The rows asked for must ascend within the packed tokens.");
}

Opt::Plans Opt::plan(Tape& tape, const LlmBatch& batch, const std::vector<int32_t>& rows,
                     KvCache* cache) const {
  const int64_t sequences = batch.sequences();
  std::vector<int32_t> kv_start, kv_len, own_end(batch.ids.size()), row_offsets{0};
  std::vector<int32_t> own_begin =
      batch.own_begin.empty() ? std::vector<int32_t>(batch.ids.size(), 0) : batch.own_begin;
  size_t row = 0;
  for (int64_t s = 0; s < sequences; ++s) {
    const int32_t cached = cache ? cache->lengths()[static_cast<size_t>(s)] : 0;
    const int32_t length = batch.offsets[s + 1] - batch.offsets[s];
    kv_start.push_back(cache ? static_cast<int32_t>(s * cache->capacity()) : batch.offsets[s]);
    kv_len.push_back(cached + length);
    for (int32_t i = 0; i < length; ++i) own_end[batch.offsets[s] + i] = cached + i + 1;
    while (row < rows.size() && rows[row] < batch.offsets[s + 1]) ++row;
    row_offsets.push_back(static_cast<int32_t>(row));
  }
  auto pick = [&rows](const std::vector<int32_t>& values) {
    std::vector<int32_t> picked;
    for (int32_t r : rows) picked.push_back(values[r]);
    return picked;
  };
  Plans plans;
  plans.all.num_sequences = sequences;
  plans.all.tokens = static_cast<int64_t>(batch.ids.size());
  plans.all.q_offsets = tape.ints(batch.offsets);
  plans.all.kv_start = tape.ints(kv_start);
  plans.all.kv_len = tape.ints(kv_len);
  if (!batch.prefix.empty()) plans.all.prefix = tape.ints(batch.prefix);
  plans.all.own_begin = tape.ints(own_begin);
  plans.all.own_end = tape.ints(own_end);
  plans.last = plans.all;
  plans.last.tokens = static_cast<int64_t>(rows.size());
  plans.last.q_offsets = tape.ints(row_offsets);
  if (!batch.prefix.empty()) plans.last.prefix = tape.ints(pick(batch.prefix));
  plans.last.own_begin = tape.ints(pick(own_begin));
  plans.last.own_end = tape.ints(pick(own_end));
  plans.last_rows = tape.ints(rows);
  return plans;
}

Tensor Opt::embed(Tape& tape, const LlmBatch& batch, const Tensor& soft) {
  std::vector<int32_t> positions(batch.positions);
  for (int32_t& p : positions) p += kPositionOffset;
  ops::EmbeddingInput in;
  in.ids = tape.ints(batch.ids);
  in.table = embed_tokens_;
  in.soft = soft;
  const IntTensor position_ids = tape.ints(positions);
  if (project_in_ == nullptr) {
    in.positions = embed_positions_;
    in.position_ids = position_ids;
    return ops::embedding(tape, in);
  }
  const Tensor position_rows = ops::gather_rows(tape, *embed_positions_, position_ids);
  return ops::linear(tape, ops::embedding(tape, in), project_in_, {}, ALLMREC_ACT_NONE, &position_rows);
}

Tensor Opt::layer(Tape& tape, int index, const Tensor& x, const LlmBatch& batch, const Plans& plans,
                  bool last, KvCache* cache) {
  const Layer& l = layers_[static_cast<size_t>(index)];
  const int64_t c = config_.hidden_size;
  auto norm1 = [&](const Tensor& t) {
    return ops::layer_norm(tape, t, *l.attention_norm_weight, *l.attention_norm_bias, kEps);
  };
  auto norm2 = [&](const Tensor& t) {
    return ops::layer_norm(tape, t, *l.final_norm_weight, *l.final_norm_bias, kEps);
  };
  const Tensor input = config_.norm_before ? norm1(x) : x;
  // In the last layer only the wanted rows need queries, output and feed-forward.
  Tensor residual = x;
  ops::AttentionInput a;
  if (last) {
    residual = ops::gather_rows(tape, x, plans.last_rows);
    const Tensor query_input =
        config_.norm_before ? ops::gather_rows(tape, input, plans.last_rows) : residual;
    a.q = ops::linear(tape, query_input, l.q_weight, l.q_bias);
    a.kv = ops::projections(tape, {{input, l.k_weight, l.k_bias}, {input, l.v_weight, l.v_bias}});
    a.v_column = c;
  } else {
    a.q = a.kv = ops::projections(
        tape, {{input, l.q_weight, l.q_bias}, {input, l.k_weight, l.k_bias}, {input, l.v_weight, l.v_bias}});
    a.k_column = c;
    a.v_column = 2 * c;
  }
  if (cache) {
    const Tensor slab = cache->layer(index);
    for (int64_t s = 0; s < batch.sequences(); ++s) {
      const int64_t first = s * cache->capacity() + cache->lengths()[static_cast<size_t>(s)];
      const int64_t rows = batch.offsets[s + 1] - batch.offsets[s];
      tape.device().copy_2d({rows, 2 * c, a.kv.data + batch.offsets[s] * a.kv.cols + a.k_column, a.kv.cols,
                             slab.data + first * slab.cols, slab.cols, 0});
    }
    a.kv = slab;
    a.k_column = 0;
    a.v_column = c;
  }
  a.heads = config_.num_heads;
  a.head_dim = static_cast<int>(c / config_.num_heads);
  a.plan = last ? plans.last : plans.all;
  Tensor y =
      ops::linear(tape, ops::attention(tape, a), l.out_weight, l.out_bias, ALLMREC_ACT_NONE, &residual);
  if (!config_.norm_before) y = norm1(y);
  const Tensor ffn_input = config_.norm_before ? norm2(y) : y;
  Tensor hidden;
  if (config_.activation == ALLMREC_ACT_RELU)
    hidden = ops::linear(tape, ffn_input, l.fc1_weight, l.fc1_bias, ALLMREC_ACT_RELU);
  else
    hidden =
        ops::activation(tape, config_.activation, ops::linear(tape, ffn_input, l.fc1_weight, l.fc1_bias));
  y = ops::linear(tape, hidden, l.fc2_weight, l.fc2_bias, ALLMREC_ACT_NONE, &y);
  return config_.norm_before ? y : norm2(y);
}

Tensor Opt::hidden(Tape& tape, const LlmBatch& batch, const Tensor& soft, const std::vector<int32_t>& rows,
                   KvCache* cache) {
  check(batch, soft, rows, cache);
  if (cache) {
    if (tape.recording()) throw Error(ErrorCode::internal, "A key-value cache cannot be trained through.");
    for (int64_t s = 0; s < batch.sequences(); ++s)
      if (cache->lengths()[static_cast<size_t>(s)] + batch.offsets[s + 1] - batch.offsets[s] >
          cache->capacity())
        throw Error(ErrorCode::internal, "The key-value cache is full.");
  }
  const Plans plans = plan(tape, batch, rows, cache);
  Tensor x = embed(tape, batch, soft);
  for (int i = 0; i < config_.num_layers; ++i)
    x = layer(tape, i, x, batch, plans, i + 1 == config_.num_layers, cache);
  if (config_.num_layers == 0) x = ops::gather_rows(tape, x, plans.last_rows);
  if (cache)
    for (int64_t s = 0; s < batch.sequences(); ++s)
      cache->lengths()[static_cast<size_t>(s)] += batch.offsets[s + 1] - batch.offsets[s];
  if (final_norm_weight_) x = ops::layer_norm(tape, x, *final_norm_weight_, *final_norm_bias_, kEps);
  return project_out_ ? ops::linear(tape, x, project_out_) : x;
}

Tensor Opt::logits(Tape& tape, const Tensor& hidden) {
  return ops::linear(tape, hidden, embed_tokens_);
}

std::vector<float> Opt::log_probs(Tape& tape, const Tensor& hidden, const std::vector<int32_t>& pair_rows,
                                  const std::vector<int32_t>& pair_targets) {
  Device& device = tape.device();
  const auto rows = static_cast<size_t>(hidden.rows);
  // log-sum-exp of each row, from the log-probability and the logit of token 0.
  std::vector<float> lse(rows), first_logit(rows), logit(pair_rows.size());
  const int64_t block =
      std::max<int64_t>(1, std::min<int64_t>(hidden.rows, (int64_t{4} << 20) / config_.vocab_size));
  const Tensor buffer = tape.tensor(block, config_.vocab_size);
  const Tensor log_prob = tape.tensor(hidden.rows, 1);
  const IntTensor zeros = tape.ints(std::vector<int32_t>(rows, 0));
  for (int64_t r = 0; r < hidden.rows; r += block) {
    allmrec_gemm_args g{};
    g.m = std::min(block, hidden.rows - r);
    g.n = config_.vocab_size;
    g.k = hidden.cols;
    g.a = hidden.data + r * hidden.cols;
    g.lda = hidden.cols;
    g.b = embed_tokens_->value.data;
    g.ldb = hidden.cols;
    g.trans_b = 1;
    g.c = buffer.data;
    g.ldc = config_.vocab_size;
    g.alpha = 1.0f;
    device.gemm(g);
    allmrec_cross_entropy_args a{};
    a.rows = g.m;
    a.cols = config_.vocab_size;
    a.logits = buffer.data;
    a.ld = config_.vocab_size;
    a.targets = zeros.data + r;
    a.scale = 1.0f;
    a.log_prob = log_prob.data + r;
    device.cross_entropy(a);
  }
  const Tensor plain = ops::detach(hidden);
  auto dots = [&](const Tensor& left, const IntTensor& targets, std::vector<float>& out) {
    const Tensor right = ops::gather_rows(tape, ops::detach(embed_tokens_->value), targets);
    const Tensor product = ops::row_dot(tape, left, right);
    device.download(out.data(), product.data, out.size() * sizeof(float));
  };
  dots(plain, zeros, first_logit);
  device.download(lse.data(), log_prob.data, rows * sizeof(float));
  for (size_t r = 0; r < rows; ++r) lse[r] = first_logit[r] - lse[r];
  dots(ops::gather_rows(tape, plain, tape.ints(pair_rows)), tape.ints(pair_targets), logit);
  for (size_t p = 0; p < logit.size(); ++p) logit[p] -= lse[static_cast<size_t>(pair_rows[p])];
  return logit;
}

}  // namespace allmrec
