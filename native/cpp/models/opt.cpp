#include "opt.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace allmrec {
namespace {

constexpr float kEps = 1e-5f;

int32_t activation_dtype_of(const Device& device, int32_t weights) {
  if (weights == ALLMREC_F32 || std::strcmp(device.backend_name(), "cpu") == 0) return ALLMREC_F32;
  return weights == ALLMREC_BF16 ? ALLMREC_BF16 : ALLMREC_F16;
}

}  // namespace

void LlmBatch::number_positions() {
  positions.resize(ids.size());
  for (int64_t s = 0; s < sequences(); ++s)
    for (int32_t t = offsets[s]; t < offsets[s + 1]; ++t) positions[t] = t - offsets[s];
}

Opt::Opt(std::shared_ptr<Device> device, const OptConfig& config)
    : config_(config),
      activation_dtype_(activation_dtype_of(*device, config.dtype)),
      parameters_(std::move(device)) {
  const int64_t c = config.hidden_size, e = config.embed_size, f = config.ffn_size;
  if (config.num_heads < 1 || c % config.num_heads != 0)
    throw Error(ErrorCode::checkpoint, "OPT config: hidden size " + std::to_string(c) +
                                           " is not a multiple of the number of heads " +
                                           std::to_string(config.num_heads) + ".");
  const std::string root = "model.decoder.";
  const int32_t d = config.dtype;
  auto matrix = [&](const std::string& name, int64_t rows, int64_t cols) {
    return &parameters_.add(name, {rows, cols}, d);
  };
  auto vector = [&](const std::string& name, int64_t size) { return &parameters_.add(name, {size}); };
  embed_tokens_ = matrix(root + "embed_tokens.weight", config.vocab_size, e);
  embed_positions_ =
      &parameters_.add(root + "embed_positions.weight", {config.max_positions + kOptPositionOffset, c});
  if (e != c) {
    project_in_ = matrix(root + "project_in.weight", c, e);
    project_out_ = matrix(root + "project_out.weight", e, c);
  }
  if (config.norm_before && config.final_norm) {
    final_norm_weight_ = vector(root + "final_layer_norm.weight", c);
    final_norm_bias_ = vector(root + "final_layer_norm.bias", c);
  }
  for (int i = 0; i < config.num_layers; ++i) {
    const std::string p = root + "layers." + std::to_string(i) + ".";
    auto pair = [&](Parameter*& weight, Parameter*& bias, const std::string& name, int64_t out, int64_t in) {
      weight = in ? matrix(p + name + ".weight", out, in) : vector(p + name + ".weight", out);
      bias = vector(p + name + ".bias", out);
    };
    Layer l{};
    // Queries, keys and values lie side by side and take one product.
    const std::string a = p + "self_attn.";
    const std::vector<Parameter*> weights = parameters_.add_together(
        {{a + "q_proj.weight", {c, c}}, {a + "k_proj.weight", {c, c}}, {a + "v_proj.weight", {c, c}}}, d);
    const std::vector<Parameter*> biases = parameters_.add_together(
        {{a + "q_proj.bias", {c}}, {a + "k_proj.bias", {c}}, {a + "v_proj.bias", {c}}});
    l.q_weight = weights[0], l.k_weight = weights[1], l.v_weight = weights[2];
    l.q_bias = biases[0], l.k_bias = biases[1], l.v_bias = biases[2];
    pair(l.out_weight, l.out_bias, "self_attn.out_proj", c, c);
    pair(l.attention_norm_weight, l.attention_norm_bias, "self_attn_layer_norm", c, 0);
    pair(l.fc1_weight, l.fc1_bias, "fc1", f, c);
    pair(l.fc2_weight, l.fc2_bias, "fc2", c, f);
    pair(l.final_norm_weight, l.final_norm_bias, "final_layer_norm", c, 0);
    layers_.push_back(l);
  }
}

int32_t Opt::cache_dtype() const {
  if (config_.dtype == ALLMREC_F32 || activation_dtype_ != ALLMREC_F32) return activation_dtype_;
  return config_.dtype == ALLMREC_BF16 ? ALLMREC_BF16 : ALLMREC_F16;
}

Precision Opt::precision(const Tape& tape) const {
  return {config_.dtype == ALLMREC_BF16 ? ALLMREC_BF16 : ALLMREC_F32, tape.precision().fixed_order};
}

void Opt::load(const std::vector<std::string>& paths) {
  parameters_.load(open_files(paths), [](const std::string& name) {
    // Files of the hub come with the full prefix, without `model.`, or as the bare decoder.
    return std::vector<std::string>{name, name.substr(6), name.substr(14)};
  });
}

void Opt::check(const LlmBatch& batch, const Tensor& soft, const std::vector<int32_t>& rows,
                const CachedBatch* cached) const {
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
  if (cached && (cached->sequences.size() != static_cast<size_t>(batch.sequences()) ||
                 !batch.prefix.empty() || !batch.own_begin.empty()))
    throw Error(ErrorCode::internal,
                "A key-value cache needs an entry for every sequence, and causal sequences.");
  for (int64_t s = 0; s < batch.sequences(); ++s) {
    for (int32_t t = batch.offsets[s]; t < batch.offsets[s + 1]; ++t) {
      const int32_t at = t - batch.offsets[s];
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
                     const CachedBatch* cached) const {
  const int64_t sequences = batch.sequences();
  const bool shared = cached && std::any_of(cached->sequences.begin(), cached->sequences.end(),
                                            [](const CachedSequence& c) { return c.prefix > 0; });
  std::vector<int32_t> kv_start, kv_len, own_end(batch.ids.size()), row_offsets{0}, cache_rows;
  std::vector<int32_t> prefix = shared ? std::vector<int32_t>(batch.ids.size(), 0) : batch.prefix;
  int64_t longest = 0, longest_rows = 0, longest_keys = 0;
  std::vector<int32_t> own_begin =
      batch.own_begin.empty() ? std::vector<int32_t>(batch.ids.size(), 0) : batch.own_begin;
  size_t row = 0;
  for (int64_t s = 0; s < sequences; ++s) {
    const CachedSequence entry = cached ? cached->sequences[static_cast<size_t>(s)] : CachedSequence{};
    const int32_t before = entry.begin + entry.length;
    const int32_t length = batch.offsets[s + 1] - batch.offsets[s];
    kv_start.push_back(cached ? static_cast<int32_t>(entry.start) : batch.offsets[s]);
    kv_len.push_back(before + length);
    for (int32_t i = 0; i < length; ++i) {
      const int32_t t = batch.offsets[s] + i;
      own_end[t] = before + i + 1;
      if (!cached) continue;
      if (shared) prefix[t] = entry.prefix;
      own_begin[t] = entry.begin;
      cache_rows.push_back(kv_start.back() + before + i);
    }
    while (row < rows.size() && rows[row] < batch.offsets[s + 1]) ++row;
    longest = std::max<int64_t>(longest, length);
    longest_rows = std::max<int64_t>(longest_rows, static_cast<int64_t>(row) - row_offsets.back());
    longest_keys = std::max<int64_t>(longest_keys, kv_len.back());
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
  if (!prefix.empty()) plans.all.prefix = tape.ints(prefix);
  plans.all.own_begin = tape.ints(own_begin);
  plans.all.own_end = tape.ints(own_end);
  plans.all.max_q_length = longest;
  plans.all.max_kv_length = longest_keys;
  plans.last = plans.all;
  if (cached) plans.cache_rows = tape.ints(cache_rows);
  bool all_rows = rows.size() == batch.ids.size();
  for (size_t r = 0; all_rows && r < rows.size(); ++r) all_rows = rows[r] == static_cast<int32_t>(r);
  if (all_rows) return plans;
  plans.last.max_q_length = longest_rows;
  plans.last.tokens = static_cast<int64_t>(rows.size());
  plans.last.q_offsets = tape.ints(row_offsets);
  if (!prefix.empty()) plans.last.prefix = tape.ints(pick(prefix));
  plans.last.own_begin = tape.ints(pick(own_begin));
  plans.last.own_end = tape.ints(pick(own_end));
  plans.last_rows = tape.ints(rows);
  return plans;
}

Tensor Opt::embed(Tape& tape, const IntTensor& ids, const IntTensor& positions, const Tensor& soft) {
  ops::EmbeddingInput in;
  in.ids = ids;
  in.table = embed_tokens_;
  in.soft = soft;
  in.dtype = activation_dtype_;
  if (project_in_ == nullptr) {
    in.positions = embed_positions_;
    in.position_ids = positions;
    return ops::embedding(tape, in);
  }
  const Tensor position_rows = ops::gather_rows(tape, *embed_positions_, positions, activation_dtype_);
  return ops::linear(tape, ops::embedding(tape, in), project_in_, {}, ALLMREC_ACT_NONE, &position_rows);
}

Tensor Opt::layer(Tape& tape, int index, const Tensor& x, const Plans& plans, bool last,
                  const KvCache* cache) {
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
  if (last && plans.last_rows.data) {
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
    const Tensor fresh = a.kv.dtype == slab.dtype ? a.kv : ops::cast(tape, a.kv, slab.dtype);
    tape.device().put_rows({plans.cache_rows.size, 2 * c, plans.cache_rows.data, fresh.at(0, a.k_column),
                            fresh.cols, slab.data, slab.cols, slab.dtype});
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
                   const CachedBatch* cached) {
  check(batch, soft, rows, cached);
  if (cached) {
    if (tape.recording()) throw Error(ErrorCode::internal, "A key-value cache cannot be trained through.");
    for (int64_t s = 0; s < batch.sequences(); ++s) {
      const CachedSequence& entry = cached->sequences[static_cast<size_t>(s)];
      if (entry.start + entry.begin + entry.length + batch.offsets[s + 1] - batch.offsets[s] >
          cached->cache.rows())
        throw Error(ErrorCode::internal, "The key-value cache is full.");
    }
  }
  if (tape.recording() && activation_dtype_ == ALLMREC_F16)
    throw Error(
        ErrorCode::unsupported,
        "Gradients through a language model in float16, int8 or int4 would be lost to rounding; load it in "
        "bfloat16 or float32 to train the projector.");
  const Plans plans = plan(tape, batch, rows, cached);
  std::vector<int32_t> positions(batch.positions);
  for (int32_t& p : positions) p += kOptPositionOffset;
  return layers(tape, embed(tape, tape.ints(batch.ids), tape.ints(positions), soft), plans,
                cached ? &cached->cache : nullptr);
}

Tensor Opt::layers(Tape& tape, Tensor x, const Plans& plans, const KvCache* cache) {
  const WithPrecision with(tape, precision(tape));
  for (int i = 0; i < config_.num_layers; ++i)
    x = layer(tape, i, x, plans, i + 1 == config_.num_layers, cache);
  if (config_.num_layers == 0 && plans.last_rows.data) x = ops::gather_rows(tape, x, plans.last_rows);
  if (final_norm_weight_) x = ops::layer_norm(tape, x, *final_norm_weight_, *final_norm_bias_, kEps);
  return project_out_ ? ops::linear(tape, x, project_out_) : x;
}

void Opt::decode_step(Tape& tape, const KvCache& cache, const DecodeState& state) {
  const int64_t sequences = state.ids.size;
  Plans plans;
  plans.all.num_sequences = sequences;
  plans.all.tokens = sequences;
  plans.all.q_offsets = state.q_offsets;
  plans.all.kv_start = state.kv_start;
  plans.all.kv_len = state.kv_len;
  plans.all.own_begin = state.zeros;
  plans.all.own_end = state.kv_len;
  plans.all.max_q_length = 1;
  plans.all.max_kv_length = state.max_kv_length;
  plans.last = plans.all;
  plans.cache_rows = state.cache_row;
  const Tensor x = layers(tape, embed(tape, state.ids, state.positions, {}), plans, &cache);
  allmrec_top_k_args best{};
  best.rows = sequences;
  best.cols = config_.vocab_size;
  best.scores = logits(tape, x).f32();
  best.ld = config_.vocab_size;
  best.k = 1;
  best.indices = state.ids.data;
  best.values = state.best.f32();
  Device& device = tape.device();
  device.top_k(best);
  if (state.log_prob.data) {
    allmrec_cross_entropy_args entropy{};
    entropy.rows = sequences;
    entropy.cols = config_.vocab_size;
    entropy.logits = best.scores;
    entropy.ld = config_.vocab_size;
    entropy.targets = state.ids.data;
    entropy.scale = 1.0f;
    entropy.log_prob = state.log_prob.f32();
    device.cross_entropy(entropy);
  }
  device.advance({sequences, state.positions.data, 1});
  device.advance({sequences, state.kv_len.data, 1});
  device.advance({sequences, state.cache_row.data, 1});
}

Tensor Opt::logits(Tape& tape, const Tensor& hidden) {
  const WithPrecision with(tape, precision(tape));
  return ops::linear(tape, hidden, embed_tokens_, {}, ALLMREC_ACT_NONE, nullptr, ALLMREC_F32);
}

std::vector<float> Opt::log_probs(Tape& tape, const Tensor& hidden, const std::vector<int32_t>& pair_rows,
                                  const std::vector<int32_t>& pair_targets) {
  // Logits of a block of rows at a time; from each row its log-sum-exp, which is the logit of token 0 less
  // its log-probability, and the logits of its targets.
  Device& device = tape.device();
  const int64_t vocabulary = config_.vocab_size, rows = hidden.rows;
  const int64_t budget =
      std::strcmp(device.backend_name(), "cpu") == 0 ? int64_t{4} << 20 : int64_t{32} << 20;
  const int64_t block = std::max<int64_t>(1, std::min(rows, budget / vocabulary));
  std::vector<size_t> order(pair_rows.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return pair_rows[a] < pair_rows[b]; });
  // Elements of a block's logits: each row's token 0, then the block's pairs.
  std::vector<int32_t> elements;
  std::vector<int64_t> first_element{0};
  size_t pair = 0;
  for (int64_t r = 0; r < rows; r += block) {
    const int64_t end = std::min(r + block, rows);
    for (int64_t i = r; i < end; ++i) elements.push_back(static_cast<int32_t>((i - r) * vocabulary));
    for (; pair < order.size() && pair_rows[order[pair]] < end; ++pair)
      elements.push_back(
          static_cast<int32_t>((pair_rows[order[pair]] - r) * vocabulary + pair_targets[order[pair]]));
    first_element.push_back(static_cast<int64_t>(elements.size()));
  }
  const IntTensor wanted = tape.ints(elements);
  const Tensor picked = tape.tensor(wanted.size, 1);
  const Tensor buffer = tape.tensor(block, vocabulary);
  const Tensor log_prob = tape.tensor(rows, 1);
  const IntTensor zeros = tape.ints(std::vector<int32_t>(static_cast<size_t>(rows), 0));
  for (int64_t r = 0, i = 0; r < rows; r += block, ++i) {
    allmrec_gemm_args g{};
    g.m = std::min(block, rows - r);
    g.n = vocabulary;
    g.k = hidden.cols;
    g.a = hidden.at(r);
    g.a_dtype = hidden.dtype;
    g.lda = hidden.cols;
    g.b = embed_tokens_->value.data;
    g.b_dtype = embed_tokens_->dtype();
    g.b_scales = embed_tokens_->scales;
    g.ldb = hidden.cols;
    g.trans_b = 1;
    g.c = buffer.data;
    g.ldc = vocabulary;
    g.alpha = 1.0f;
    g.compute_dtype = precision(tape).compute_dtype;
    g.fixed_order = tape.precision().fixed_order;
    device.gemm(g);
    const int64_t first = first_element[i], count = first_element[i + 1] - first;
    device.gather_rows({count, 1, wanted.data + first, buffer.data, 1, picked.at(first), 1, ALLMREC_F32});
    allmrec_cross_entropy_args a{};
    a.rows = g.m;
    a.cols = vocabulary;
    a.logits = buffer.f32();
    a.ld = vocabulary;
    a.targets = zeros.data + r;
    a.scale = 1.0f;
    a.log_prob = log_prob.f32() + r;
    device.cross_entropy(a);
  }
  std::vector<float> logits(static_cast<size_t>(wanted.size)), first_log_prob(static_cast<size_t>(rows));
  device.download(logits.data(), picked.data, logits.size() * sizeof(float));
  device.download(first_log_prob.data(), log_prob.data, first_log_prob.size() * sizeof(float));
  std::vector<float> result(pair_rows.size());
  pair = 0;
  for (int64_t r = 0, i = 0; r < rows; r += block, ++i) {
    const int64_t count = std::min(block, rows - r);
    const float* values = logits.data() + first_element[i];
    for (int64_t at = count; at < first_element[i + 1] - first_element[i]; ++at, ++pair) {
      const int32_t row = pair_rows[order[pair]];
      const float log_sum = values[row - r] - first_log_prob[static_cast<size_t>(row)];
      result[order[pair]] = values[at] - log_sum;
    }
  }
  return result;
}

}  // namespace allmrec
