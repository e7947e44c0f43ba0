#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "../nn/adam.h"
#include "sentence_encoder.h"
#include "training_step.h"

namespace allmrec {

struct AlignmentConfig {
  int item_size = 50;                    // d, the recommender's width
  int text_size = 768;                   // d_t, the sentence encoder's width
  int joint_size = 128;                  // d'
  int activation = ALLMREC_ACT_SIGMOID;  // of both encoders' outputs
  float matching_weight = 1.0f;
  float item_reconstruction_weight = 0.5f;  // α
  float text_reconstruction_weight = 0.5f;  // β
  float recommendation_weight = 1.0f;
  // As the authors' code: losses on the negative item too, logits the mean over d instead of the sum, and no
  // gradient into the encoder through the reconstruction's target.
  bool reference_compat = false;
};

// Stage 1's two autoencoders, which meet in a joint space of width d':
//   e = f_I^enc(E), ê = f_I^dec(e)   and   q = f_T^enc(Q), Q̂ = f_T^dec(q).
// Names are the authors': mlp = item, mlp2 = text, fc1 = encoder, fc2 = decoder.
class Alignment {
 public:
  Alignment(std::shared_ptr<Device> device, const AlignmentConfig& config);
  void initialise(uint64_t seed);
  void load(const std::vector<std::string>& paths);

  Tensor encode_items(Tape& tape, const Tensor& items);    // (R, d) → (R, d')
  Tensor decode_items(Tape& tape, const Tensor& latents);  // (R, d') → (R, d)
  Tensor encode_texts(Tape& tape, const Tensor& texts);    // (R, d_t) → (R, d')
  Tensor decode_texts(Tape& tape, const Tensor& latents);  // (R, d') → (R, d_t)

  // Adds every loss term of a batch. users (B, d): x^u; items (B, d) and texts (B, d_t) of the positive and
  // of the negative item.
  void losses(Tape& tape, const Tensor& users, const Tensor& positive_items, const Tensor& negative_items,
              const Tensor& positive_texts, const Tensor& negative_texts);

  const AlignmentConfig& config() const { return config_; }
  ParameterSet& parameters() { return parameters_; }

 private:
  AlignmentConfig config_;
  ParameterSet parameters_;
  Parameter *item_enc_w_, *item_enc_b_, *item_dec_w_, *item_dec_b_;
  Parameter *text_enc_w_, *text_enc_b_, *text_dec_w_, *text_dec_b_;
};

// One batch of stage 1: rows of the recommender's item table, user representations, and texts, either as
// tokens (the encoder learns, or is run each time) or as vectors encoded before (frozen encoder).
struct AlignmentBatch {
  std::vector<float> users;           // (B, d)
  std::vector<float> positive_items;  // (B, d)
  std::vector<float> negative_items;  // (B, d)
  TokenBatch positive_tokens, negative_tokens;
  std::vector<float> positive_texts, negative_texts;  // (B, d_t), when there are no tokens
};

// Stage 1's training step: the alignment's weights and, unless frozen, the sentence encoder's.
class AlignmentTrainer {
 public:
  // encoder: null when the texts come as vectors.
  AlignmentTrainer(Alignment& alignment, SentenceEncoder* encoder, bool train_encoder,
                   const AdamOptions& options, uint64_t seed);

  std::map<std::string, double> step(const AlignmentBatch& batch);
  // The same losses without learning; with `keep_gradients` the gradients are left for inspection.
  std::map<std::string, double> evaluate(const AlignmentBatch& batch, bool keep_gradients);
  Adam& optimizer() { return adam_; }

 private:
  std::map<std::string, double> forward(Tape& tape, const AlignmentBatch& batch, bool backward);
  Training training();

  Alignment& alignment_;
  SentenceEncoder* encoder_;
  uint64_t seed_;
  Arena arena_;
  Adam adam_;
};

}  // namespace allmrec
