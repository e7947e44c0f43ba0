#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../autograd/ops.h"
#include "../nn/parameter_set.h"

namespace allmrec {

// Which of the two published layouts a block follows.
enum class SasRecVariant {
  reference,  // Q = LN(x); x = Q + MHA(Q, x, x); x = LN(x); x = x + FFN(x); padded positions re-zeroed
  pre_norm,   // pmixer/SASRec.pytorch with norm_first
  post_norm,  // pmixer/SASRec.pytorch without
};

struct SasRecConfig {
  int64_t num_items = 0;  // item ids 1 … num_items; row 0 is padding
  int max_length = 50;
  int hidden_units = 50;
  int num_blocks = 2;
  int num_heads = 1;
  float dropout_rate = 0.5f;
  SasRecVariant variant = SasRecVariant::reference;
};

// Histories of a batch without their padding: sequence s holds items[offsets[s]] … items[offsets[s + 1] − 1],
// at most max_length of them, oldest first.
struct SequenceBatch {
  std::vector<int32_t> items;
  std::vector<int32_t> offsets{0};

  int64_t size() const { return static_cast<int64_t>(offsets.size()) - 1; }
  void add(const int32_t* history, int64_t length, int max_length);  // keeps the latest max_length
};

// SASRec (Kang and McAuley, 2018) over packed sequences. Left padding is never computed: in every layer all
// padding positions hold one constant key and value, so each sequence sees one virtual key whose score gets +
// log(n_pad).
class SasRec {
 public:
  SasRec(std::shared_ptr<Device> device, const SasRecConfig& config);

  void initialise(
      uint64_t seed);  // xavier-normal matrices, PyTorch's defaults elsewhere, row 0 of the items zero
  void load(const std::vector<std::string>& paths);

  // Features at every packed position (T, C), after the last layer norm.
  Tensor features(Tape& tape, const SequenceBatch& batch);
  // Features at the last position of each sequence only (B, C): the user representations x^u. An empty
  // sequence gives zeros. Cheaper than `features`: the last block is computed at those rows alone.
  Tensor last_features(Tape& tape, const SequenceBatch& batch);

  const SasRecConfig& config() const { return config_; }
  ParameterSet& parameters() { return parameters_; }
  Parameter& item_embedding() { return *item_embedding_; }

 private:
  struct Block {
    Parameter *attention_norm_weight, *attention_norm_bias;
    Parameter *in_proj_weight, *in_proj_bias, *out_proj_weight, *out_proj_bias;
    Parameter *forward_norm_weight, *forward_norm_bias;
    Parameter *conv1_weight, *conv1_bias, *conv2_weight, *conv2_bias;
  };
  struct Packed {
    ops::AttentionPlan plan;
    IntTensor pad_count;
    Tensor pad;  // (1, C): the padding position's state, where it is not re-zeroed
  };

  Tensor run(Tape& tape, const SequenceBatch& batch, bool last_only);
  Tensor embed(Tape& tape, const SequenceBatch& batch, Packed& packed);
  Tensor block(Tape& tape, const Block& b, const Tensor& x, Packed& packed, const IntTensor* rows,
               const ops::AttentionPlan& plan);
  Tensor feed_forward(Tape& tape, const Block& b, const Tensor& x, const Tensor* residual);
  void advance_pad(Tape& tape, const Block& b, Packed& packed, const Tensor& pad_values);

  SasRecConfig config_;
  ParameterSet parameters_;
  Parameter* item_embedding_;
  Parameter* position_embedding_;
  std::vector<Block> blocks_;
  Parameter* last_norm_weight_;
  Parameter* last_norm_bias_;
};

}  // namespace allmrec
