#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../autograd/ops.h"
#include "../nn/parameter_set.h"

namespace allmrec {

enum class EncoderKind { distilbert, bert };

struct EncoderConfig {
  EncoderKind kind = EncoderKind::distilbert;
  int64_t vocab_size = 30522;
  int hidden_size = 768;
  int num_layers = 6;
  int num_heads = 12;
  int intermediate_size = 3072;
  int max_positions = 512;
  int type_vocab_size = 2;  // BERT only
  float layer_norm_eps = 1e-12f;
  int activation = ALLMREC_ACT_GELU;
  float dropout_rate = 0.0f;  // hidden and attention dropout while training
  // Activations: float32, or bfloat16 (and, without training, float16) with float32 sums. Weights: float32
  // when they are trained, which are then rounded as each product reads them; halves when they are frozen.
  // On the CPU activations stay float32 and bfloat16 is what products round their operands to.
  int32_t activation_dtype = ALLMREC_F32;
  int32_t weight_dtype = ALLMREC_F32;
};

// Token ids of several texts without padding: text b holds ids[offsets[b]] … ids[offsets[b + 1] − 1].
struct TokenBatch {
  std::vector<int32_t> ids;
  std::vector<int32_t> offsets{0};
  int64_t size() const { return static_cast<int64_t>(offsets.size()) - 1; }
};

// DistilBERT and BERT encoders with mean pooling (Sentence-BERT), over packed texts.
class SentenceEncoder {
 public:
  SentenceEncoder(std::shared_ptr<Device> device, const EncoderConfig& config);

  void initialise(uint64_t seed, float std);
  // Names with or without the prefix `distilbert.` / `bert.`; LayerNorm.gamma/beta of old files too.
  void load(const std::vector<std::string>& paths);

  // Hidden states of every token (T, C).
  Tensor hidden_states(Tape& tape, const TokenBatch& batch);
  // Its two parts: sums of embeddings before their norm, and all that follows, under any plan of attention.
  Tensor embeddings(Tape& tape, const TokenBatch& batch);
  Tensor layers(Tape& tape, const Tensor& embedded, const ops::AttentionPlan& plan);
  // Mean over each text's tokens (B, C): Q_i.
  Tensor pooled(Tape& tape, const TokenBatch& batch);
  // The same for many texts without a tape: sorted by length, packed up to `tokens_per_batch`.
  std::vector<float> encode(const TokenBatch& texts, int64_t tokens_per_batch);

  const EncoderConfig& config() const { return config_; }
  ParameterSet& parameters() { return parameters_; }

 private:
  struct Layer {
    Parameter *q_weight, *q_bias, *k_weight, *k_bias, *v_weight, *v_bias, *out_weight, *out_bias;
    Parameter *attention_norm_weight, *attention_norm_bias;
    Parameter *fc1_weight, *fc1_bias, *fc2_weight, *fc2_bias;
    Parameter *output_norm_weight, *output_norm_bias;
  };

  EncoderConfig config_;
  int32_t activation_dtype_;
  Precision precision_;
  ParameterSet parameters_;
  Parameter *word_embeddings_, *position_embeddings_, *token_type_embeddings_ = nullptr;
  Parameter *norm_weight_, *norm_bias_;
  std::vector<Layer> layers_;
};

}  // namespace allmrec
