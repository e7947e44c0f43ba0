#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "../nn/adam.h"
#include "backbone.h"
#include "training_step.h"

namespace allmrec {

struct BackboneTrainOptions {
  int batch_size = 128;       // users, or interactions
  float l2_embedding = 0.0f;  // λ · ‖item table‖₂, as the reference's --l2_emb
  uint64_t seed = 0;
  AdamOptions adam;
  NamedOptions model{"options"};  // what the backbone itself reads, e.g. its loss
};

// Trains a backbone one batch after another. All randomness (order of users, negatives, dropout) follows from
// the seed and the number of the step, so a run that goes on from a checkpoint equals one that was never
// stopped.
class BackboneTrainer {
 public:
  // known: every item of each user that must not be drawn as a negative, training items included.
  BackboneTrainer(Backbone& model, Sequences train, Sequences known, const BackboneTrainOptions& options);

  // The mean loss over `steps` steps. On a device with graphs every step is one launch and the host runs
  // ahead; the loss is then looked at after the last step only, and should it not be finite, the steps are
  // run again one by one from the weights before the first.
  double run(int64_t steps);
  // One step on given examples.
  Losses step(const Examples& examples);
  // The same without the step: adds to the gradients and leaves them.
  Losses gradients(const Examples& examples);

  // What an epoch goes through: users, or places of train.items; of users with something to predict and,
  // where negatives are drawn for each positive, something left to draw. Throws when there are none.
  static std::vector<int64_t> examples_of(const Backbone& model, const NamedOptions& options,
                                          const Sequences& train, const Sequences& known);

  int64_t steps_per_epoch() const;
  // Users, or interactions.
  int64_t examples_per_epoch() const { return static_cast<int64_t>(examples_.size()); }
  Adam& optimizer() { return adam_; }

 private:
  // Records forward, loss and backward on the tape.
  void enqueue(Tape& tape, const Examples& examples);
  Losses compute(const Examples& examples);
  Training training();
  double run_recorded(int64_t steps);
  double run_watched(int64_t steps);
  Examples compose(int64_t step);
  bool is_known(int64_t user, int32_t item) const;

  Backbone& model_;
  Sequences train_;
  Sequences known_;  // sorted within each user
  BackboneTrainOptions options_;
  NegativeSampling sampling_;
  std::vector<int64_t> examples_;
  std::vector<int64_t> order_;
  int64_t order_epoch_ = -1;
  Arena arena_;
  Adam adam_;
  Adam::State before_;  // the first step of a recorded run
  Graph graph_;
  DeviceBuffer loss_sum_;
};

// Ranks of one target per user among the whole catalogue, the user's `exclude` items left out.
struct FullRanking {
  std::vector<int32_t> greater;  // items scored above the target
  std::vector<int32_t> ties;     // other items scored the same
  std::vector<int32_t> top;      // (U, k) best items, −1 where fewer
  std::vector<float> top_scores;
};

// User representations (U, d), computed in batches. users: dense ids, −1 where not known, or empty.
std::vector<float> user_vectors(Backbone& model, const Sequences& histories,
                                const std::vector<int32_t>& users = {});

// E (num_items + 1, d).
std::vector<float> item_table(Backbone& model);

// Scores of given candidates (U, N) for user vectors (U, d).
std::vector<float> score_candidates(Backbone& model, const std::vector<float>& users,
                                    const std::vector<int32_t>& candidates, int64_t per_user);

// Scores of given item vectors (U · N, d) for user vectors (U, d): of items that are not in the table.
std::vector<float> score_vectors(Backbone& model, const std::vector<float>& users,
                                 const std::vector<float>& items, int64_t per_user);

// targets: one per user, or empty for recommendation alone.
FullRanking rank_catalogue(Backbone& model, const std::vector<float>& users,
                           const std::vector<int32_t>& targets, const Sequences& exclude, int k);

}  // namespace allmrec
