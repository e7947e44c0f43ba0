#include "language_model.h"

#include <sstream>

namespace allmrec::bench {
namespace {

const OptSize kTiny{"opt-tiny", 200, 64, 2, 4, 128, 256};
const OptSize kSizes[] = {
    {"opt-125m", 50272, 768, 12, 12, 3072, 2048},
    {"opt-1.3b", 50272, 2048, 24, 32, 8192, 2048},
    {"opt-6.7b", 50272, 4096, 32, 32, 16384, 2048},
};

struct Kept {
  std::string name;
  int32_t dtype = -1;
  std::unique_ptr<Opt> model;
};
Kept& kept() {
  static Kept model;
  return model;
}

}  // namespace

std::vector<OptSize> opt_sizes(const Bench& bench) {
  if (bench.quick()) return {kTiny};
  std::string wanted = bench.options().models;
  if (wanted.empty()) wanted = bench.on_cpu() ? "125m" : "125m,6.7b";
  std::vector<OptSize> sizes;
  std::stringstream names(wanted);
  for (std::string name; std::getline(names, name, ',');) {
    bool found = false;
    for (const OptSize& size : kSizes) {
      if (size.name != "opt-" + name) continue;
      sizes.push_back(size);
      found = true;
    }
    if (!found)
      throw Error(ErrorCode::invalid_argument, "--models: expected 125m, 1.3b or 6.7b, got `" + name + "`.");
  }
  return sizes;
}

std::vector<int32_t> weight_dtypes(const Bench& bench) {
  std::vector<int32_t> dtypes{ALLMREC_F16, ALLMREC_BF16, ALLMREC_I8, ALLMREC_I4};
  // 27 GB of float32 weights are nobody's choice on a card.
  if (bench.on_cpu() || bench.quick()) dtypes.insert(dtypes.begin(), ALLMREC_F32);
  return dtypes;
}

OptConfig opt_config(const OptSize& size, int32_t dtype) {
  OptConfig c;
  c.vocab_size = size.vocabulary;
  c.hidden_size = c.embed_size = size.hidden;
  c.num_layers = size.layers;
  c.num_heads = size.heads;
  c.ffn_size = size.ffn;
  c.max_positions = size.positions;
  c.dtype = dtype;
  return c;
}

Opt& random_opt(Bench& bench, const OptSize& size, int32_t dtype) {
  Kept& last = kept();
  if (last.model && last.name == size.name && last.dtype == dtype) return *last.model;
  forget_opt();
  auto model = std::make_unique<Opt>(bench.shared_device(), opt_config(size, dtype));
  ParameterSet& parameters = model->parameters();
  for (const auto& p : parameters.all()) {
    const bool scale = p->name.find("norm.weight") != std::string::npos;
    if (p->shape.size() > 1)
      parameters.normal(*p, 1, 0.02f);
    else
      parameters.fill(*p, scale ? 1.0f : 0.0f);
  }
  parameters.set_trainable(false);
  last = {size.name, dtype, std::move(model)};
  return *last.model;
}

void forget_opt() {
  kept() = {};
}

LlmBatch random_prompts(const OptSize& size, int64_t sequences, int64_t tokens) {
  LlmBatch batch;
  uint32_t state = 4711;
  for (int64_t s = 0; s < sequences; ++s) {
    for (int64_t t = 0; t < tokens; ++t) {
      state = state * 1664525u + 1013904223u;
      const auto range = static_cast<uint64_t>(size.vocabulary - 4);
      batch.ids.push_back(4 + static_cast<int32_t>((static_cast<uint64_t>(state) * range) >> 32));
    }
    batch.offsets.push_back(static_cast<int32_t>(batch.ids.size()));
  }
  batch.number_positions();
  return batch;
}

Cost forward_cost(const OptSize& size, int32_t dtype, const LlmWork& w) {
  const double c = size.hidden, f = size.ffn, layers = size.layers;
  const auto vocabulary = static_cast<double>(size.vocabulary);
  const double layer = 4 * c * c + 2 * c * f;
  double flops = (layers - 1) * (2 * w.tokens * layer + 4 * w.pairs * c);
  flops += 2 * w.tokens * 2 * c * c + 2 * w.rows * (layer - 2 * c * c) + 4 * w.row_pairs * c;
  flops += 2 * w.rows * c * vocabulary;
  double bytes = costs::matrix_bytes(4 * c, c, dtype) + costs::matrix_bytes(f, c, dtype);
  bytes = layers * (bytes + costs::matrix_bytes(c, f, dtype)) + costs::matrix_bytes(vocabulary, c, dtype);
  const double half = dtype == ALLMREC_F32 ? 4 : 2;
  return {flops, bytes + layers * 2 * c * half * (w.cached + w.tokens)};
}

Cost frozen_backward_cost(const OptSize& size, int32_t dtype, const LlmWork& w) {
  const Cost forward = forward_cost(size, dtype, w);
  // Products with the weights a second time; attention's backward is two and a half forwards.
  const double c = size.hidden;
  const double attention = 4 * c * ((size.layers - 1) * w.pairs + w.row_pairs);
  return {2 * forward.flops + 1.5 * attention, 2 * forward.bytes};
}

}  // namespace allmrec::bench
