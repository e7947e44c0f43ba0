#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "../nn/adam.h"
#include "sas_rec.h"
#include "training_step.h"

namespace allmrec {

// Histories of many users: user u's items are items[offsets[u]] … items[offsets[u + 1] − 1], oldest first.
struct Sequences {
  std::vector<int64_t> offsets{0};
  std::vector<int32_t> items;
  int64_t users() const { return static_cast<int64_t>(offsets.size()) - 1; }
  int64_t length(int64_t u) const { return offsets[u + 1] - offsets[u]; }
  const int32_t* begin(int64_t u) const { return items.data() + offsets[u]; }
  void sort();  // by item within each user
};

enum class SequenceLoss { bce, softmax };

struct SasRecTrainOptions {
  int batch_size = 128;
  SequenceLoss loss = SequenceLoss::bce;
  float l2_embedding = 0.0f;  // λ · ‖item table‖₂, as the reference's --l2_emb
  uint64_t seed = 0;
  AdamOptions adam;
};

// Trains SASRec one batch after another. All randomness (order of users, negatives, dropout) follows from the
// seed and the number of the step, so a run that goes on from a checkpoint equals one that was never stopped.
class SasRecTrainer {
 public:
  // known: every item of each user that must not be drawn as a negative, training items included.
  SasRecTrainer(SasRec& model, Sequences train, Sequences known, const SasRecTrainOptions& options);

  // The mean loss over `steps` steps. On a device with graphs every step is one launch and the host runs
  // ahead; the loss is then looked at after the last step only, and should it not be finite, the steps are
  // run again one by one from the weights before the first.
  double run(int64_t steps);
  // One step on a given batch: packed inputs with their next items and one negative each.
  std::map<std::string, double> step(const SequenceBatch& batch, const std::vector<int32_t>& positives,
                                     const std::vector<int32_t>& negatives);
  // The same without the step: adds to the gradients and leaves them.
  std::map<std::string, double> gradients(const SequenceBatch& batch, const std::vector<int32_t>& positives,
                                          const std::vector<int32_t>& negatives);

  // Those with something to predict and, for BCE, something left to draw as a negative. Throws
  // when there are none.
  static std::vector<int32_t> users_to_train(const Sequences& train, const Sequences& known, int64_t items,
                                             SequenceLoss loss);

  int64_t steps_per_epoch() const;
  int64_t sequences_per_epoch() const { return static_cast<int64_t>(users_.size()); }
  Adam& optimizer() { return adam_; }

 private:
  // Records forward, loss and backward on the tape.
  void enqueue(Tape& tape, const SequenceBatch& batch, const std::vector<int32_t>& positives,
               const std::vector<int32_t>& negatives);
  Losses compute(const SequenceBatch& batch, const std::vector<int32_t>& positives,
                 const std::vector<int32_t>& negatives);
  Training training();
  double run_recorded(int64_t steps);
  double run_watched(int64_t steps);
  void compose(int64_t step, SequenceBatch& batch, std::vector<int32_t>& positives,
               std::vector<int32_t>& negatives);
  bool is_known(int64_t user, int32_t item) const;

  SasRec& model_;
  Sequences train_;
  Sequences known_;  // sorted within each user
  SasRecTrainOptions options_;
  std::vector<int32_t> users_;  // those with something to predict
  std::vector<int32_t> order_;
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

// User representations (U, C) of packed histories, computed in batches.
std::vector<float> user_vectors(SasRec& model, const Sequences& histories);

// Scores of given candidates (U, N) for user vectors (U, C).
std::vector<float> score_candidates(SasRec& model, const std::vector<float>& users,
                                    const std::vector<int32_t>& candidates, int64_t per_user);

// targets: one per user, or empty for recommendation alone.
FullRanking rank_catalogue(SasRec& model, const std::vector<float>& users,
                           const std::vector<int32_t>& targets, const Sequences& exclude, int k);

}  // namespace allmrec
