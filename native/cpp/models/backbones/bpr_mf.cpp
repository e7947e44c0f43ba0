#include "../user_table.h"

namespace allmrec {
namespace {

// Matrix factorisation learned by Bayesian personalised ranking (Rendle et al., 2009): −log σ(<p_u, q_i> −
// <p_u, q_j>) for an item i of the user and one j that is not.
class BprMf final : public UserTable {
 public:
  BprMf(std::shared_ptr<Device> device, const NamedOptions& config) : UserTable(std::move(device), config) {
    users_ = &parameters_.add("user_embedding.weight", {num_users_, size_});
    items_ = &parameters_.add("item_embedding.weight", {num_items_ + 1, size_});
    add_derived();
  }

  const char* name() const override { return "BPR-MF"; }

  // Xavier-normal, the padding row zero.
  void initialise(uint64_t seed) override {
    parameters_.xavier_normal(*users_, seed);
    parameters_.xavier_normal(*items_, seed);
    parameters_.device()->fill(items_->value.f32(), size_, 0.0f);
  }

  NegativeSampling negatives(const NamedOptions&) const override { return {1, 0}; }

  void loss(Tape& tape, const Examples& examples) override {
    const Tensor user = ops::gather_rows(tape, *users_, tape.ints(examples.users));
    const Tensor liked = ops::gather_rows(tape, *items_, tape.ints(examples.positives));
    const Tensor other = ops::gather_rows(tape, *items_, tape.ints(examples.negatives));
    const Tensor margin = ops::row_dot(tape, user, ops::add(tape, liked, ops::scale(tape, other, -1.0f)));
    ops::bce_loss(tape, "bpr", margin, 1.0f, 1.0f / static_cast<float>(examples.users.size()), 1.0f);
  }

  Tensor item_table(Tape&) override { return items_->value; }
  Parameter* item_embedding() override { return items_; }

 protected:
  Tensor user_table(Tape&) override { return users_->value; }

 private:
  Parameter *users_, *items_;
};

const BackboneKind kBprMf("bprmf", construct_backbone<BprMf>);

}  // namespace
}  // namespace allmrec
