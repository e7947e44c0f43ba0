#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "../nn/adam.h"
#include "opt.h"
#include "training_step.h"

namespace allmrec {

enum class ProjectorKind {
  mlp,     // Linear, LayerNorm, LeakyReLU (user) or GELU (item), Linear: the paper's
  linear,  // one linear layer
};

struct ProjectorConfig {
  ProjectorKind kind = ProjectorKind::mlp;
  int user_size = 50;    // d
  int joint_size = 128;  // d'
  int token_size = 768;  // the LLM's input width; also the MLPs' hidden width
};

// Stage 2's two projections into the language model's token space: O_u = F_U(x^u), O_i = F_I(e_i). Names are
// the authors': log_emb_proj = user, item_emb_proj = item.
class Projector {
 public:
  Projector(std::shared_ptr<Device> device, const ProjectorConfig& config);
  // Xavier-normal weights. `scale`: the last layers' weights are multiplied by it, so that soft tokens start
  // near the length of the LLM's own embeddings.
  void initialise(uint64_t seed, float scale);
  void load(const std::vector<std::string>& paths);

  Tensor users(Tape& tape, const Tensor& x);  // (U, d) → (U, token_size)
  Tensor items(Tape& tape, const Tensor& e);  // (I, d') → (I, token_size)

  const ProjectorConfig& config() const { return config_; }
  ParameterSet& parameters() { return parameters_; }

 private:
  struct Mlp {
    Parameter *w0, *b0, *norm_w, *norm_b, *w3, *b3;
  };
  Mlp add(const std::string& name, int64_t in);
  Tensor run(Tape& tape, const Mlp& mlp, const Tensor& x, int activation);

  ProjectorConfig config_;
  ParameterSet parameters_;
  Mlp user_, item_;
};

// Prompts whose soft tokens are: first the batch's users, then its items. Row k of `users` is soft token k,
// row k of `items` soft token (number of users) + k.
struct SoftInputs {
  std::vector<float> users;  // (U, d)
  std::vector<float> items;  // (I, d')
};

// What to predict: hidden rows (ascending, each once) and one target token for each.
struct TokenTargets {
  std::vector<int32_t> rows;
  std::vector<int32_t> tokens;
};

// Throws ErrorCode::invalid_argument for targets that are none, or outside the vocabulary.
void expect_targets(const TokenTargets& targets, const OptConfig& config);
// The target tokens' losses over `total_targets` (0 = their number), of the final hidden states of their
// rows.
void target_loss(Tape& tape, Opt& llm, const Tensor& hidden, const TokenTargets& targets,
                 int64_t total_targets = 0);

// Stage 2: the projector learns through the frozen language model.
class ProjectionTrainer {
 public:
  ProjectionTrainer(Projector& projector, Opt& llm, const AdamOptions& options, uint64_t seed);

  // The sum of the target tokens' losses over `total_targets`, 0 = their number: a step's mean loss. A step
  // may come in parts, all of them with the step's number of target tokens: every part but the last goes to
  // `accumulate`, and the parts' losses add up to the step's.
  std::map<std::string, double> step(const LlmBatch& batch, const SoftInputs& soft,
                                     const TokenTargets& targets, int64_t total_targets = 0);
  std::map<std::string, double> accumulate(const LlmBatch& batch, const SoftInputs& soft,
                                           const TokenTargets& targets, int64_t total_targets);
  std::map<std::string, double> evaluate(const LlmBatch& batch, const SoftInputs& soft,
                                         const TokenTargets& targets, bool keep_gradients);
  Adam& optimizer() { return adam_; }
  size_t peak_arena_bytes() const { return arena_.peak_bytes(); }

 private:
  std::map<std::string, double> forward(Tape& tape, const LlmBatch& batch, const SoftInputs& soft,
                                        const TokenTargets& targets, int64_t total_targets, bool backward);
  std::map<std::string, double> gradients(const LlmBatch& batch, const SoftInputs& soft,
                                          const TokenTargets& targets, int64_t total_targets);
  Training training();

  Projector& projector_;
  Opt& llm_;
  uint64_t seed_;
  Arena arena_;
  Adam adam_;
};

// Trains a language model's own weights on packed sequences, soft tokens given as plain vectors: how the
// embedded tiny models are made.
class LlmTrainer {
 public:
  // frozen: names of weights that stay as they are.
  LlmTrainer(Opt& llm, const AdamOptions& options, const std::vector<std::string>& frozen = {});

  struct Result {
    std::map<std::string, double> losses;
    std::vector<float> soft_gradient;  // (S, embed), when asked for
  };
  Result step(const LlmBatch& batch, const std::vector<float>& soft, const TokenTargets& targets);
  Result evaluate(const LlmBatch& batch, const std::vector<float>& soft, const TokenTargets& targets,
                  bool keep_gradients);
  Adam& optimizer() { return adam_; }

 private:
  Result forward(Tape& tape, const LlmBatch& batch, const std::vector<float>& soft,
                 const TokenTargets& targets, bool backward, bool soft_gradient);
  Opt& llm_;
  Arena arena_;
  Adam adam_;
};

}  // namespace allmrec
