#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../autograd/ops.h"
#include "../nn/parameter_set.h"
#include "named_options.h"

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

// Histories of a batch without their padding: sequence s holds items[offsets[s]] … items[offsets[s + 1] − 1],
// at most max_length of them, oldest first.
struct SequenceBatch {
  std::vector<int32_t> items;
  std::vector<int32_t> offsets{0};

  int64_t size() const { return static_cast<int64_t>(offsets.size()) - 1; }
  void add(const int32_t* history, int64_t length, int max_length);  // keeps the latest max_length
};

// What a backbone learns from in one step.
enum class ExampleKind {
  sequences,     // each position of a user's history with the item that came next
  interactions,  // pairs of a user and an item
};

// How many items a step draws that were not chosen, uniformly.
struct NegativeSampling {
  int per_positive = 0;  // of each positive, outside the user's own items
  int shared = 0;        // of the whole step, the same for every positive
};

// The examples of one step. P positives: the packed positions of `histories`, or the interactions.
struct Examples {
  SequenceBatch histories;         // sequences only
  std::vector<int32_t> users;      // (P), interactions only: dense users from 0
  std::vector<int32_t> positives;  // (P): the next item, or the user's item
  std::vector<int32_t> negatives;  // (P · per_positive), then (shared)
};

// A recommender of stage 0: an item table E, user representations x^u, scores. A new one is a file of
// `backbones/` that derives from this, and a BackboneKind in it. d: the width of both.
class Backbone {
 public:
  Backbone(std::shared_ptr<Device> device, int64_t num_items, int64_t num_users, int max_length);
  virtual ~Backbone() = default;
  Backbone(const Backbone&) = delete;
  Backbone& operator=(const Backbone&) = delete;

  // As people call it, for messages.
  virtual const char* name() const = 0;
  virtual int64_t size() const = 0;  // d
  virtual void initialise(uint64_t seed) = 0;
  void load(const std::vector<std::string>& paths);

  virtual ExampleKind examples() const { return ExampleKind::sequences; }
  // Of a training with these options, which are checked.
  virtual NegativeSampling negatives(const NamedOptions& options) const = 0;
  // Before the first step. train: what is learned from.
  virtual void start_training(const NamedOptions& options, const Sequences& train) = 0;
  // Records forward and loss terms of a step.
  virtual void loss(Tape& tape, const Examples& examples) = 0;
  // Brings up to date what follows from the weights, before they are saved or used.
  virtual void end_epoch() {}

  // Features at every packed position (T, d). Throws unsupported where a backbone knows no order.
  virtual Tensor features(Tape& tape, const SequenceBatch& batch);
  // x^u (B, d); an empty history of a user that is not known gives zeros. users: dense ids from 0, −1 where
  // not known, or empty.
  virtual Tensor user_vectors(Tape& tape, const SequenceBatch& histories,
                              const std::vector<int32_t>& users) = 0;
  // E (num_items + 1, d); row 0 is padding.
  virtual Tensor item_table(Tape& tape) = 0;
  // (R, 1): the score of each row of users (R, d) for that row of items (R, d). Default: <x, E_i>.
  virtual Tensor scores(Tape& tape, const Tensor& users, const Tensor& items);
  // (U, N): of every user for every item. Default: x · Eᵀ.
  virtual Tensor catalogue_scores(Tape& tape, const Tensor& users, const Tensor& items);

  int64_t num_items() const { return num_items_; }
  int64_t num_users() const { return num_users_; }  // 0: users are known by their histories alone
  int max_length() const { return max_length_; }    // latest items of a history that are read
  ParameterSet& parameters() { return parameters_; }
  // What `l2Embedding` keeps small; null where a backbone has no such table.
  virtual Parameter* item_embedding() { return nullptr; }

 protected:
  // Items outside 1 … num_items and histories above max_length throw.
  void check(const SequenceBatch& batch) const;
  // Of a model's own rows (B, d) for histories that are not empty; zeros for the others.
  Tensor spread(Tape& tape, const Tensor& rows, const SequenceBatch& batch) const;

  int64_t num_items_;
  int64_t num_users_;
  int max_length_;
  ParameterSet parameters_;
};

// Makes the backbone of a kind. Throws invalid_argument for an unknown one.
std::unique_ptr<Backbone> make_backbone(const std::string& kind, std::shared_ptr<Device> device,
                                        const NamedOptions& config);

// A static one in each file of `backbones/` makes its class known under the name of the kind. Those files are
// linked as objects, not from a library, which would leave them out.
class BackboneKind {
 public:
  using Make = std::unique_ptr<Backbone> (*)(std::shared_ptr<Device> device, const NamedOptions& config);
  BackboneKind(const char* kind, Make make);
};

template <typename T>
std::unique_ptr<Backbone> construct_backbone(std::shared_ptr<Device> device, const NamedOptions& config) {
  return std::make_unique<T>(std::move(device), config);
}

}  // namespace allmrec
