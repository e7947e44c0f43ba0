#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../autograd/ops.h"
#include "../nn/parameter_set.h"
#include "kv_cache.h"

namespace allmrec {

class Lora;

constexpr int kOptPositionOffset = 2;  // rows of the position table before position 0

struct OptConfig {
  int64_t vocab_size = 50272;
  int hidden_size = 768;
  int embed_size = 768;  // word_embed_proj_dim; a soft token has this width
  int num_layers = 12;
  int num_heads = 12;
  int ffn_size = 3072;
  int max_positions = 2048;
  bool norm_before = true;  // false: 350m's post-norm
  bool final_norm = true;   // pre-norm only
  int activation = ALLMREC_ACT_RELU;
  bool bias = true;             // of attention's and the feed-forward's products (enable_bias)
  bool norm_affine = true;      // norms have weights (layer_norm_elementwise_affine)
  bool tied_head = true;        // false: lm_head.weight is a matrix of its own
  int32_t dtype = ALLMREC_F32;  // of the weights; norms, biases and positions are always float32
};

// Packed sequences of tokens. ids: >= 0 a token, −k − 1 the row k of the soft tokens given beside. positions
// count from 0. Token t of a sequence sees, of that sequence, the tokens [0, prefix[t]) and [own_begin[t],
// t].
struct LlmBatch {
  std::vector<int32_t> ids;
  std::vector<int32_t> offsets{0};
  std::vector<int32_t> positions;
  std::vector<int32_t> prefix;     // empty = all 0
  std::vector<int32_t> own_begin;  // empty = all 0: causal
  int64_t sequences() const { return static_cast<int64_t>(offsets.size()) - 1; }

  // Positions 0, 1, 2, … in every sequence.
  void number_positions();
};

// The cache that the sequences of a packed batch go on in, one entry for each. The lengths are the caller's
// to keep. A batch's own prefix and own_begin count from the entry's first key.
struct CachedBatch {
  KvCache& cache;
  std::vector<CachedSequence> sequences;
};

// One token of every sequence, read from and advanced on the device: what a decoding step needs of its
// predecessor never leaves it, so that a recorded step can be launched again and again.
struct DecodeState {
  IntTensor ids;              // (B): the tokens to read, and after the step the most likely next ones
  IntTensor positions;        // (B): rows of the position table
  IntTensor kv_len;           // (B): keys each token sees, itself included
  IntTensor cache_row;        // (B): where its keys and values go
  IntTensor zeros;            // (B)
  IntTensor kv_start;         // (B)
  IntTensor q_offsets;        // (B + 1)
  Tensor best;                // (B, 1): the logits of `ids` after the step
  int64_t max_kv_length = 0;  // the most keys a token will see in any step
  Tensor log_prob;            // (B, 1): their log-probabilities; empty when nobody asks
};

// OPT (Zhang et al., 2022) and what shares its architecture (Galactica): learned positions with an offset
// of 2.
//
// See opt_memory.h for how activations are stored. Only float32 and bfloat16 activations carry gradients:
// those of float16 would be lost below 6e-8. Float32 activations beside bfloat16 weights are rounded by the
// products that read them.
class Opt {
 public:
  Opt(std::shared_ptr<Device> device, const OptConfig& config);

  void load(const std::vector<std::string>& paths);

  // Final hidden states (R, embed) of the packed tokens `rows` (ascending), ready for the head. soft (S,
  // embed) may be empty, and may want a gradient. With a cache, each sequence goes on where its entry ends,
  // causally: the batch has no prefix and own_begin then.
  Tensor hidden(Tape& tape, const LlmBatch& batch, const Tensor& soft, const std::vector<int32_t>& rows,
                const CachedBatch* cached = nullptr);
  Tensor logits(Tape& tape, const Tensor& hidden);  // (R, V), float32
  // One step of greedy decoding for every sequence of the state: reads state.ids, leaves the next ids and
  // advances everything else.
  void decode_step(Tape& tape, const KvCache& cache, const DecodeState& state);
  // log p(target | row) for pairs of a row of `hidden` and a token, (P, 1), without keeping all logits.
  std::vector<float> log_probs(Tape& tape, const Tensor& hidden, const std::vector<int32_t>& pair_rows,
                               const std::vector<int32_t>& pair_targets);

  const OptConfig& config() const { return config_; }
  ParameterSet& parameters() { return parameters_; }
  // What hidden states are multiplied with for logits (V, embed): the token embedding, unless untied.
  Parameter& head() { return *head_; }
  // What queries and values are computed with besides the weights; null = nothing.
  void set_adapter(std::shared_ptr<Lora> adapter) { adapter_ = std::move(adapter); }
  const std::shared_ptr<Lora>& adapter() const { return adapter_; }
  Parameter& query_weight(int layer) { return *layers_[static_cast<size_t>(layer)].q_weight; }
  Parameter& value_weight(int layer) { return *layers_[static_cast<size_t>(layer)].v_weight; }
  int32_t activation_dtype() const { return activation_dtype_; }
  // Of keys and values in a cache.
  int32_t cache_dtype() const;
  // Of products with the weights.
  Precision precision(const Tape& tape) const;

 private:
  struct Layer {
    Parameter *q_weight, *q_bias, *k_weight, *k_bias, *v_weight, *v_bias, *out_weight, *out_bias;
    Parameter *attention_norm_weight, *attention_norm_bias, *final_norm_weight, *final_norm_bias;
    Parameter *fc1_weight, *fc1_bias, *fc2_weight, *fc2_bias;
  };
  struct Plans {
    ops::AttentionPlan all, last;
    IntTensor last_rows;   // no data: all rows, in order
    IntTensor cache_rows;  // of the cache's layers, for the new keys and values
  };

  void check(const LlmBatch& batch, const Tensor& soft, const std::vector<int32_t>& rows,
             const CachedBatch* cached) const;
  Plans plan(Tape& tape, const LlmBatch& batch, const std::vector<int32_t>& rows,
             const CachedBatch* cached) const;
  Tensor embed(Tape& tape, const IntTensor& ids, const IntTensor& positions, const Tensor& soft);
  Tensor layer(Tape& tape, int index, const Tensor& x, const Plans& plans, bool last, const KvCache* cache);
  Tensor attention(Tape& tape, const Layer& l, const Tensor& input, const Tensor& rows, const Plans& plans,
                   int index, bool last, const KvCache* cache);
  Tensor layers(Tape& tape, Tensor x, const Plans& plans, const KvCache* cache);

  Parameter* parameter(const std::string& name);
  // In place of t when nothing is recorded, else a new tensor.
  Tensor add_linear(Tape& tape, const Tensor& x, Parameter* weight, Parameter* bias, const Tensor& t) const;

  OptConfig config_;
  bool on_cpu_;
  int32_t activation_dtype_;
  ParameterSet parameters_;
  ParameterSet constants_;  // of norms without weights
  Parameter *embed_tokens_, *embed_positions_, *head_;
  Parameter *project_in_ = nullptr, *project_out_ = nullptr;
  Parameter *final_norm_weight_ = nullptr, *final_norm_bias_ = nullptr;
  std::vector<Layer> layers_;
  std::shared_ptr<Lora> adapter_;
};

}  // namespace allmrec
