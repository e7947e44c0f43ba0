#include "opt_memory.h"

#include <algorithm>

namespace allmrec {
namespace {

const std::string kRoot = "model.decoder.";

size_t bytes(int32_t dtype, int64_t n) {
  return Arena::rounded(static_cast<size_t>(bytes_of(dtype, n)));
}

}  // namespace

int32_t opt_activation_dtype(const OptConfig& config, bool on_cpu) {
  if (config.dtype == ALLMREC_F32 || on_cpu) return ALLMREC_F32;
  return config.dtype == ALLMREC_BF16 ? ALLMREC_BF16 : ALLMREC_F16;
}

int32_t opt_cache_dtype(const OptConfig& config, bool on_cpu) {
  const int32_t activation = opt_activation_dtype(config, on_cpu);
  if (config.dtype == ALLMREC_F32 || activation != ALLMREC_F32) return activation;
  return config.dtype == ALLMREC_BF16 ? ALLMREC_BF16 : ALLMREC_F16;
}

std::vector<ParameterSet::Entry> opt_layout(const OptConfig& config) {
  const int64_t c = config.hidden_size, e = config.embed_size, f = config.ffn_size;
  const int32_t d = config.dtype;
  std::vector<ParameterSet::Entry> entries;
  const auto norm = [&](const std::string& name) {
    if (!config.norm_affine) return;
    entries.push_back({name + ".weight", {c}});
    entries.push_back({name + ".bias", {c}});
  };
  const auto linear = [&](const std::string& name, int64_t out, int64_t in) {
    entries.push_back({name + ".weight", {out, in}, d});
    if (config.bias) entries.push_back({name + ".bias", {out}});
  };
  entries.push_back({kRoot + "embed_tokens.weight", {config.vocab_size, e}, d});
  if (!config.tied_head) entries.push_back({"lm_head.weight", {config.vocab_size, e}, d});
  entries.push_back({kRoot + "embed_positions.weight", {config.max_positions + kOptPositionOffset, c}});
  if (e != c) {
    entries.push_back({kRoot + "project_in.weight", {c, e}, d});
    entries.push_back({kRoot + "project_out.weight", {e, c}, d});
  }
  if (config.norm_before && config.final_norm) norm(kRoot + "final_layer_norm");
  for (int i = 0; i < config.num_layers; ++i) {
    const std::string p = kRoot + "layers." + std::to_string(i) + ".";
    // Queries, keys and values lie side by side and take one product.
    for (const char* which : {"q", "k", "v"})
      entries.push_back({p + "self_attn." + which + "_proj.weight", {c, c}, d, *which != 'q'});
    if (config.bias)
      for (const char* which : {"q", "k", "v"})
        entries.push_back({p + "self_attn." + which + "_proj.bias", {c}, ALLMREC_F32, *which != 'q'});
    linear(p + "self_attn.out_proj", c, c);
    norm(p + "self_attn_layer_norm");
    linear(p + "fc1", f, c);
    linear(p + "fc2", c, f);
    norm(p + "final_layer_norm");
  }
  return entries;
}

size_t opt_hidden_bytes(const OptConfig& config, bool on_cpu, const OptPass& pass) {
  const int64_t c = config.hidden_size, e = config.embed_size, f = config.ffn_size;
  const int64_t t = pass.tokens, r = pass.rows;
  const int32_t a = opt_activation_dtype(config, on_cpu), cache = opt_cache_dtype(config, on_cpu);
  // Eight arrays over tokens, four over rows and five over sequences.
  const size_t integers =
      8 * bytes(ALLMREC_I32, t) + 4 * bytes(ALLMREC_I32, r) + 5 * bytes(ALLMREC_I32, pass.sequences + 1);
  const size_t x = bytes(a, t * c), rows = bytes(a, r * c);
  const size_t embedded = e != c ? bytes(a, t * c) + bytes(a, t * e) : 0;
  const size_t normed = config.norm_before ? bytes(a, t * c) : 0;
  const size_t copy = pass.cached && cache != a ? bytes(cache, 3 * t * c) : 0;
  const size_t attention = normed + bytes(a, 3 * t * c) + std::max(copy, bytes(a, t * c));
  const size_t last_copy = pass.cached && cache != a ? bytes(cache, 2 * t * c) : 0;
  const size_t last_attention = normed + bytes(a, 2 * t * c) + 3 * rows + std::max(last_copy, rows);
  const int64_t inner = (config.activation == ALLMREC_ACT_RELU ? 1 : 2) * f;
  const size_t feed_forward = bytes(a, t * c) + bytes(a, t * inner);
  const size_t last_feed_forward = 2 * rows + bytes(a, r * inner);
  return integers + x + embedded + std::max({attention, last_attention, feed_forward, last_feed_forward});
}

int64_t opt_logit_rows(const OptConfig& config, bool on_cpu, int64_t rows) {
  const int64_t budget = on_cpu ? int64_t{4} << 20 : int64_t{32} << 20;
  return std::max<int64_t>(1, std::min(rows, budget / config.vocab_size));
}

size_t opt_log_probs_bytes(const OptConfig& config, bool on_cpu, int64_t rows, int64_t pairs) {
  return bytes(ALLMREC_F32, opt_logit_rows(config, on_cpu, rows) * config.vocab_size) +
         2 * bytes(ALLMREC_F32, rows + pairs) + 2 * bytes(ALLMREC_F32, rows);
}

OptMemory opt_memory(const OptConfig& config, bool on_cpu, const OptPass& pass, int64_t capacity,
                     int threads) {
  OptMemory memory;
  const ParameterSet::Sizes weights = ParameterSet::sizes(opt_layout(config));
  memory.parameters = weights.numbers;
  memory.weights = weights.bytes;
  const size_t hidden = opt_hidden_bytes(config, on_cpu, pass);
  if (pass.cached) {
    memory.cache = config.num_layers * bytes_of(opt_cache_dtype(config, on_cpu),
                                                pass.sequences * capacity * 2 * config.hidden_size);
    memory.arena = static_cast<int64_t>(hidden + bytes(ALLMREC_F32, pass.rows * config.vocab_size));
  } else {
    memory.arena = static_cast<int64_t>(hidden + opt_log_probs_bytes(config, on_cpu, pass.rows, pass.rows));
  }
  // Products pack up to 4 MiB of an operand for all threads, or a strip of it for each.
  if (on_cpu) memory.work = (int64_t{4} << 20) + threads * (int64_t{1} << 20);
  return memory;
}

}  // namespace allmrec
