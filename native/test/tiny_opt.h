#pragma once

// A tiny language model with random weights, and requests of every kind for it.

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "../cpp/models/generation/request.h"
#include "../cpp/models/opt.h"

namespace allmrec::test {

inline OptConfig tiny_config(int32_t dtype) {
  OptConfig config;
  config.vocab_size = 72;
  config.hidden_size = 32;
  config.embed_size = 32;
  config.num_layers = 2;
  config.num_heads = 2;
  config.ffn_size = 64;
  config.max_positions = 64;
  config.dtype = dtype;
  return config;
}

inline std::unique_ptr<Opt> tiny_model(const std::shared_ptr<Device>& device, int32_t dtype = ALLMREC_F32) {
  auto model = std::make_unique<Opt>(device, tiny_config(dtype));
  std::mt19937_64 engine(11);
  std::normal_distribution<float> normal;
  for (const auto& parameter : model->parameters().all()) {
    std::vector<float> values(static_cast<size_t>(parameter->value.size()));
    const bool norm = parameter->name.find("norm.weight") != std::string::npos;
    for (float& x : values) x = 0.3f * normal(engine) + (norm ? 1.0f : 0.0f);
    model->parameters().upload(*parameter, values.data());
  }
  return model;
}

inline std::vector<int32_t> tokens(std::mt19937_64& engine, int64_t n) {
  std::vector<int32_t> ids(static_cast<size_t>(n));
  for (int32_t& id : ids) id = 3 + static_cast<int32_t>(engine() % 69);
  return ids;
}

inline std::vector<GenerationRequest> mixed_requests() {
  std::mt19937_64 engine(3);
  std::vector<GenerationRequest> requests;
  const auto trie = std::make_shared<TokenTrie>(std::vector<int32_t>{0, 3, 5, 6},
                                                std::vector<int32_t>{7, 8, 9, 7, 30, 12}, 2);
  for (int64_t i = 0; i < 24; ++i) {
    GenerationRequest request;
    request.id = i;
    request.ids = tokens(engine, 1 + static_cast<int64_t>(engine() % 20));
    request.options.max_new_tokens = 1 + static_cast<int32_t>(engine() % 16);
    request.options.eos_id = i % 3 == 0 ? -1 : 2;
    switch (i % 6) {
      case 1:
        request.options.repetition_penalty = 1.3f;
        request.seen = request.ids;
        break;
      case 2:
        request.options.sampling = {true, 1.5f, 20, 0.9f, static_cast<uint64_t>(i)};
        request.options.sequences = 3;
        break;
      case 3:
        request.options.beam.beams = 4;
        request.options.sequences = 4;
        break;
      case 4:
        request.trie = trie;
        request.options.eos_id = 2;
        break;
      default:
        break;
    }
    requests.push_back(std::move(request));
  }
  return requests;
}

}  // namespace allmrec::test
