#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "../nn/adam.h"
#include "opt.h"
#include "projector.h"
#include "training_step.h"

namespace allmrec {

struct LoraConfig {
  int rank = 8;
  float alpha = 16.0f;    // what B·A is multiplied with is alpha / rank
  float dropout = 0.05f;  // of the adapter's input, in training
  int hidden_size = 768;
  int num_layers = 12;
};

// Low-rank adapters (Hu et al., 2022) of OPT's query and value projections: W + alpha / rank · B·A, with A
// (rank, C) and B (C, rank). Names are PEFT's.
class Lora {
 public:
  Lora(std::shared_ptr<Device> device, const LoraConfig& config);
  // A uniform as PEFT's (Kaiming with a = √5), B zero: the adapted model is the plain one.
  void initialise(uint64_t seed);
  void load(const std::vector<std::string>& paths);

  // q (T, C) + its change for the layer's input x (T, C).
  Tensor query(Tape& tape, int layer, const Tensor& x, const Tensor& q);
  // Keys beside values, kv (T, 2C): the same for the values.
  Tensor value(Tape& tape, int layer, const Tensor& x, const Tensor& kv);

  // Adds the change to a model's weights for good. Throws ErrorCode::unsupported for quantised weights.
  void merge_into(Opt& llm) const;
  // Throws ErrorCode::invalid_argument for a model of another shape.
  void expect_fits(const OptConfig& llm) const;

  const LoraConfig& config() const { return config_; }
  ParameterSet& parameters() { return parameters_; }

 private:
  struct Pair {
    Parameter *a, *b;
  };
  Pair add(int layer, const char* projection);
  Tensor down(Tape& tape, const Pair& pair, const Tensor& x) const;
  float factor() const { return config_.alpha / static_cast<float>(config_.rank); }

  LoraConfig config_;
  ParameterSet parameters_;
  ParameterSet constants_;
  Parameter* zeros_;  // (C, rank): B of the keys
  std::vector<Pair> query_, value_;
};

// While it lives, the model computes with the adapter; null = as it is. Throws ErrorCode::invalid_argument
// where the model has another one, whose work would be lost.
class WithAdapter {
 public:
  WithAdapter(Opt& llm, std::shared_ptr<Lora> adapter);
  ~WithAdapter();
  WithAdapter(const WithAdapter&) = delete;
  WithAdapter& operator=(const WithAdapter&) = delete;

 private:
  Opt& llm_;
  std::shared_ptr<Lora> before_;
};

// An adapter learns from packed sequences and their target tokens; the language model stays as it is.
class LoraTrainer {
 public:
  LoraTrainer(std::shared_ptr<Lora> lora, Opt& llm, const AdamOptions& options, uint64_t seed);

  // As ProjectionTrainer's; soft (S, embed) are plain vectors.
  Losses step(const LlmBatch& batch, const std::vector<float>& soft, const TokenTargets& targets,
              int64_t total_targets = 0);
  Losses accumulate(const LlmBatch& batch, const std::vector<float>& soft, const TokenTargets& targets,
                    int64_t total_targets);
  Losses evaluate(const LlmBatch& batch, const std::vector<float>& soft, const TokenTargets& targets,
                  bool keep_gradients);
  Adam& optimizer() { return adam_; }

 private:
  Losses forward(const LlmBatch& batch, const std::vector<float>& soft, const TokenTargets& targets,
                 int64_t total_targets, bool backward, uint64_t dropout_step);
  Training training();

  std::shared_ptr<Lora> lora_;
  Opt& llm_;
  uint64_t seed_;
  Arena arena_;
  Adam adam_;
};

}  // namespace allmrec
