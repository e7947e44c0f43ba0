#pragma once

#include <vector>

#include "backbone.h"

namespace allmrec {

// A backbone with a vector for each user of the data set, learned from pairs of a user and an item. A user
// that is not known, or had no part in the training, gets W · (mean of the vectors of the history's items) +
// b: W and b are a ridge regression of the known users' vectors, fitted after each epoch and saved with the
// weights.
class UserTable : public Backbone {
 public:
  // numItems, numUsers, hiddenUnits (d)
  UserTable(std::shared_ptr<Device> device, const NamedOptions& config);

  int64_t size() const override { return size_; }
  ExampleKind examples() const override { return ExampleKind::interactions; }
  void start_training(const NamedOptions& options, const Sequences& train) override;
  void end_epoch() override;
  Tensor user_vectors(Tape& tape, const SequenceBatch& histories, const std::vector<int32_t>& users) override;

 protected:
  // Call it when the own weights are there.
  void add_derived();
  // x^u of all users (numUsers, d), from the weights as they are.
  virtual Tensor user_table(Tape& tape) = 0;
  // Before the tables are read: what else follows from the weights.
  virtual void derive(Tape&) {}

  int64_t size_;

 private:
  void fit(const std::vector<float>& users, const std::vector<float>& items);

  Sequences train_;
  Parameter* fold_in_weight_ = nullptr;  // (d, d)
  Parameter* fold_in_bias_ = nullptr;    // (d)
  Parameter* trained_ = nullptr;         // (numUsers): 1 where a user had a part in the training
};

}  // namespace allmrec
