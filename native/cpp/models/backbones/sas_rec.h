#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../sequence_loss.h"

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

// SASRec (Kang and McAuley, 2018) over packed sequences. Left padding is never computed: in every layer all
// padding positions hold one constant key and value, so each sequence sees one virtual key whose score gets +
// log(n_pad).
class SasRec : public Backbone {
 public:
  SasRec(std::shared_ptr<Device> device, const SasRecConfig& config);
  // numItems, maxLength, hiddenUnits, numBlocks, numHeads, dropoutRate, variant
  SasRec(std::shared_ptr<Device> device, const NamedOptions& config);

  const char* name() const override { return "SASRec"; }
  int64_t size() const override { return config_.hidden_units; }
  // Xavier-normal matrices, PyTorch's defaults elsewhere, row 0 of the items zero.
  void initialise(uint64_t seed) override;

  NegativeSampling negatives(const NamedOptions& options) const override;
  void start_training(const NamedOptions& options, const Sequences& train) override;
  void loss(Tape& tape, const Examples& examples) override;

  // After the last layer norm.
  Tensor features(Tape& tape, const SequenceBatch& batch) override;
  // Features at the last position of each sequence only. Cheaper than `features`: the last block is computed
  // at those rows alone.
  Tensor user_vectors(Tape& tape, const SequenceBatch& histories, const std::vector<int32_t>& users) override;
  Tensor item_table(Tape& tape) override;

  const SasRecConfig& config() const { return config_; }
  Parameter* item_embedding() override { return item_embedding_; }

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
  SequenceLoss loss_;
  Parameter* item_embedding_;
  Parameter* position_embedding_;
  std::vector<Block> blocks_;
  Parameter* last_norm_weight_;
  Parameter* last_norm_bias_;
};

}  // namespace allmrec
