#include "opt.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "lora.h"
#include "opt_memory.h"

namespace allmrec {
namespace {

constexpr float kEps = 1e-5f;
constexpr const char* kRoot = "model.decoder.";

}  // namespace

void LlmBatch::number_positions() {
  positions.resize(ids.size());
  for (int64_t s = 0; s < sequences(); ++s)
    for (int32_t t = offsets[s]; t < offsets[s + 1]; ++t) positions[t] = t - offsets[s];
}

Opt::Opt(std::shared_ptr<Device> device, const OptConfig& config)
    : config_(config),
      on_cpu_(std::strcmp(device->backend_name(), "cpu") == 0),
      activation_dtype_(opt_activation_dtype(config, on_cpu_)),
      parameters_(device),
      constants_(std::move(device)) {
  if (config.num_heads < 1 || config.hidden_size % config.num_heads != 0)
    throw Error(ErrorCode::checkpoint, "OPT config: hidden size " + std::to_string(config.hidden_size) +
                                           " is not a multiple of the number of heads " +
                                           std::to_string(config.num_heads) + ".");
  parameters_.add_all(opt_layout(config));
  Parameter *ones = nullptr, *zeros = nullptr;
  if (!config.norm_affine) {
    ones = &constants_.add("ones", {config.hidden_size});
    zeros = &constants_.add("zeros", {config.hidden_size});
    constants_.fill(*ones, 1.0f);
    constants_.fill(*zeros, 0.0f);
  }
  const auto norm = [&](Parameter*& weight, Parameter*& bias, const std::string& name) {
    weight = config.norm_affine ? parameter(name + ".weight") : ones;
    bias = config.norm_affine ? parameter(name + ".bias") : zeros;
  };
  const auto linear = [&](Parameter*& weight, Parameter*& bias, const std::string& name) {
    weight = parameter(name + ".weight");
    bias = config.bias ? parameter(name + ".bias") : nullptr;
  };
  const std::string root = kRoot;
  embed_tokens_ = parameter(root + "embed_tokens.weight");
  head_ = config.tied_head ? embed_tokens_ : parameter("lm_head.weight");
  embed_positions_ = parameter(root + "embed_positions.weight");
  if (config.embed_size != config.hidden_size) {
    project_in_ = parameter(root + "project_in.weight");
    project_out_ = parameter(root + "project_out.weight");
  }
  if (config.norm_before && config.final_norm)
    norm(final_norm_weight_, final_norm_bias_, root + "final_layer_norm");
  for (int i = 0; i < config.num_layers; ++i) {
    const std::string p = root + "layers." + std::to_string(i) + ".";
    Layer l{};
    linear(l.q_weight, l.q_bias, p + "self_attn.q_proj");
    linear(l.k_weight, l.k_bias, p + "self_attn.k_proj");
    linear(l.v_weight, l.v_bias, p + "self_attn.v_proj");
    linear(l.out_weight, l.out_bias, p + "self_attn.out_proj");
    norm(l.attention_norm_weight, l.attention_norm_bias, p + "self_attn_layer_norm");
    linear(l.fc1_weight, l.fc1_bias, p + "fc1");
    linear(l.fc2_weight, l.fc2_bias, p + "fc2");
    norm(l.final_norm_weight, l.final_norm_bias, p + "final_layer_norm");
    layers_.push_back(l);
  }
}

Parameter* Opt::parameter(const std::string& name) {
  Parameter* found = parameters_.find(name);
  if (found == nullptr) throw Error(ErrorCode::internal, "OPT has no weight `" + name + "`.");
  return found;
}

int32_t Opt::cache_dtype() const {
  return opt_cache_dtype(config_, on_cpu_);
}

Precision Opt::precision(const Tape& tape) const {
  return {config_.dtype == ALLMREC_BF16 ? ALLMREC_BF16 : ALLMREC_F32, tape.precision().fixed_order};
}

void Opt::load(const std::vector<std::string>& paths) {
  const std::string root = kRoot;
  const auto names = [&root](const std::string& name) {
    // Files of the hub come with the full prefix, without `model.`, or as the bare decoder.
    if (name.compare(0, root.size(), root) != 0) return std::vector<std::string>{name};
    return std::vector<std::string>{name, name.substr(6), name.substr(root.size())};
  };
  // Some checkpoints pad the vocabulary.
  parameters_.load(open_files(paths), names, {embed_tokens_, head_});
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
  if (cached && cached->sequences.size() != static_cast<size_t>(batch.sequences()))
    throw Error(ErrorCode::internal, "A key-value cache needs an entry for every sequence.");
  for (int64_t s = 0; s < batch.sequences(); ++s) {
    const CachedSequence entry = cached ? cached->sequences[static_cast<size_t>(s)] : CachedSequence{};
    if (entry.begin > 0 && !(batch.prefix.empty() && batch.own_begin.empty()))
      throw Error(ErrorCode::internal,
                  "What a token sees is said by the batch or by its cache, not by both.");
    for (int32_t t = batch.offsets[s]; t < batch.offsets[s + 1]; ++t) {
      const int32_t at = entry.length + t - batch.offsets[s];
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
      if (batch.own_begin.empty()) own_begin[t] = entry.begin;
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

Tensor Opt::add_linear(Tape& tape, const Tensor& x, Parameter* weight, Parameter* bias,
                       const Tensor& t) const {
  if (tape.recording()) return ops::linear(tape, x, weight, bias, ALLMREC_ACT_NONE, &t);
  ops::add_linear(tape, x, weight, bias, t);
  return t;
}

// When nothing is recorded, x is overwritten with the result (but for the last layer's wanted rows): with
// what lives beside it, opt_hidden_bytes is all a pass takes.
Tensor Opt::layer(Tape& tape, int index, const Tensor& x, const Plans& plans, bool last,
                  const KvCache* cache) {
  const Layer& l = layers_[static_cast<size_t>(index)];
  auto norm1 = [&](const Tensor& t) {
    return ops::layer_norm(tape, t, *l.attention_norm_weight, *l.attention_norm_bias, kEps);
  };
  auto norm2 = [&](const Tensor& t) {
    return ops::layer_norm(tape, t, *l.final_norm_weight, *l.final_norm_bias, kEps);
  };
  // In the last layer only the wanted rows need queries, output and feed-forward.
  const bool some_rows = last && plans.last_rows.data;
  Tensor y = some_rows ? ops::gather_rows(tape, x, plans.last_rows) : x;
  {
    const Tensor input = config_.norm_before ? norm1(x) : x;
    const Tensor attended = attention(tape, l, input, y, plans, index, last, cache);
    y = add_linear(tape, attended, l.out_weight, l.out_bias, y);
  }
  Tensor z = config_.norm_before ? y : norm1(y);
  const Tensor ffn_input = config_.norm_before ? norm2(z) : z;
  Tensor hidden;
  if (config_.activation == ALLMREC_ACT_RELU)
    hidden = ops::linear(tape, ffn_input, l.fc1_weight, l.fc1_bias, ALLMREC_ACT_RELU);
  else
    hidden =
        ops::activation(tape, config_.activation, ops::linear(tape, ffn_input, l.fc1_weight, l.fc1_bias));
  z = add_linear(tape, hidden, l.fc2_weight, l.fc2_bias, z);
  if (config_.norm_before) return z;
  if (tape.recording()) return norm2(z);
  tape.device().layer_norm({z.rows, z.cols, z.data, l.final_norm_weight->value.f32(),
                            l.final_norm_bias->value.f32(), kEps, y.data, nullptr, nullptr, z.dtype});
  return y;
}

// rows: those of the residual, whose queries are wanted in the last layer.
Tensor Opt::attention(Tape& tape, const Layer& l, const Tensor& input, const Tensor& rows, const Plans& plans,
                      int index, bool last, const KvCache* cache) {
  const int64_t c = config_.hidden_size;
  ops::AttentionInput a;
  const bool some_rows = last && plans.last_rows.data;
  if (some_rows || adapter_) {
    Tensor query_input = input;
    if (some_rows) query_input = config_.norm_before ? ops::gather_rows(tape, input, plans.last_rows) : rows;
    a.q = ops::linear(tape, query_input, l.q_weight, l.q_bias);
    a.kv = ops::projections(tape, {{input, l.k_weight, l.k_bias}, {input, l.v_weight, l.v_bias}});
    a.v_column = c;
    if (adapter_) {
      a.q = adapter_->query(tape, index, query_input, a.q);
      a.kv = adapter_->value(tape, index, input, a.kv);
    }
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
  return ops::attention(tape, a);
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
  if (!tape.recording())
    tape.arena().reserve(
        opt_hidden_bytes(config_, on_cpu_,
                         {static_cast<int64_t>(batch.ids.size()), static_cast<int64_t>(rows.size()),
                          batch.sequences(), cached != nullptr}));
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
  const Tensor scores = logits(tape, x);
  best.scores = scores.f32();
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
  return ops::linear(tape, hidden, head_, {}, ALLMREC_ACT_NONE, nullptr, ALLMREC_F32);
}

std::vector<float> Opt::log_probs(Tape& tape, const Tensor& hidden, const std::vector<int32_t>& pair_rows,
                                  const std::vector<int32_t>& pair_targets) {
  // Logits of a block of rows at a time; from each row its log-sum-exp, which is the logit of token 0 less
  // its log-probability, and the logits of its targets.
  Device& device = tape.device();
  const int64_t vocabulary = config_.vocab_size, rows = hidden.rows;
  const int64_t block = opt_logit_rows(config_, on_cpu_, rows);
  tape.arena().reserve(opt_log_probs_bytes(config_, on_cpu_, rows, static_cast<int64_t>(pair_rows.size())));
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
    g.b = head_->value.data;
    g.b_dtype = head_->dtype();
    g.b_scales = head_->scales;
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
