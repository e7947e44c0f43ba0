#include <algorithm>
#include <cmath>

#include "../user_table.h"

namespace allmrec {
namespace {

// NeuMF (He et al., 2017): logit = hᵀ[g_u ∘ g_i ; MLP(m_u, m_i)] + b, with a vector for matrix factorisation
// and one for the perceptron of each user and item, side by side: x^u = [g_u | m_u], E_i = [g_i | m_i]. Its
// scores are no products, so `scores` and `catalogue_scores` are its own.
class NeuMf final : public UserTable {
 public:
  // beside UserTable's, whose hiddenUnits is even: towerUnits
  NeuMf(std::shared_ptr<Device> device, const NamedOptions& config)
      : UserTable(std::move(device), config), half_(size_ / 2) {
    if (size_ % 2 != 0)
      throw Error(ErrorCode::invalid_argument,
                  "Expected `config.hiddenUnits` to be even, got `" + std::to_string(size_) + "`.");
    const int64_t units = config.size("towerUnits");
    users_ = &parameters_.add("user_embedding.weight", {num_users_, size_});
    items_ = &parameters_.add("item_embedding.weight", {num_items_ + 1, size_});
    user_weight_ = &parameters_.add("mlp.0.user_weight", {units, half_});
    item_weight_ = &parameters_.add("mlp.0.item_weight", {units, half_});
    hidden_bias_ = &parameters_.add("mlp.0.bias", {units});
    second_weight_ = &parameters_.add("mlp.2.weight", {half_, units});
    second_bias_ = &parameters_.add("mlp.2.bias", {half_});
    gmf_ = &parameters_.add("predict.gmf_weight", {1, half_});
    mlp_ = &parameters_.add("predict.mlp_weight", {1, half_});
    bias_ = &parameters_.add("predict.bias", {1});
    add_derived();
  }

  const char* name() const override { return "NeuMF"; }

  // Tables normal with deviation 0.01 as in the paper; PyTorch's defaults elsewhere; the padding row zero.
  void initialise(uint64_t seed) override {
    const auto bound = [](int64_t in) { return 1.0f / std::sqrt(static_cast<float>(in)); };
    for (Parameter* p : {users_, items_}) parameters_.normal(*p, seed, 0.01f);
    for (Parameter* p : {user_weight_, item_weight_, hidden_bias_})
      parameters_.uniform(*p, seed, bound(size_));
    for (Parameter* p : {second_weight_, second_bias_})
      parameters_.uniform(*p, seed, bound(second_weight_->value.cols));
    for (Parameter* p : {gmf_, mlp_, bias_}) parameters_.uniform(*p, seed, bound(size_));
    parameters_.device()->fill(items_->value.f32(), size_, 0.0f);
  }

  NegativeSampling negatives(const NamedOptions& options) const override {
    return {options.size("negatives", 1, 1024), 0};
  }
  void start_training(const NamedOptions& options, const Sequences& train) override {
    UserTable::start_training(options, train);
    negatives_ = options.size("negatives", 1, 1024);
  }

  void loss(Tape& tape, const Examples& examples) override {
    const float scale =
        1.0f / static_cast<float>(examples.users.size() * static_cast<size_t>(1 + negatives_));
    std::vector<int32_t> repeated;
    for (size_t i = 0; i < examples.negatives.size(); ++i)
      repeated.push_back(examples.users[i / static_cast<size_t>(negatives_)]);
    const auto logits = [&](const std::vector<int32_t>& users, const std::vector<int32_t>& items) {
      return scores(tape, ops::gather_rows(tape, *users_, tape.ints(users)),
                    ops::gather_rows(tape, *items_, tape.ints(items)));
    };
    ops::bce_loss(tape, "bce", logits(examples.users, examples.positives), 1.0f, scale, 1.0f);
    ops::bce_loss(tape, "bce", logits(repeated, examples.negatives), 0.0f, scale, 1.0f);
  }

  Tensor scores(Tape& tape, const Tensor& users, const Tensor& items) override {
    const Tensor product =
        ops::mul(tape, ops::columns(tape, users, 0, half_), ops::columns(tape, items, 0, half_));
    // The first layer over [m_u | m_i], in two products.
    const Tensor of_items = ops::linear(tape, ops::columns(tape, items, half_, half_), item_weight_);
    const Tensor hidden = ops::linear(tape, ops::columns(tape, users, half_, half_), user_weight_,
                                      hidden_bias_, ALLMREC_ACT_RELU, &of_items);
    const Tensor deep = ops::linear(tape, hidden, second_weight_, second_bias_, ALLMREC_ACT_RELU);
    const Tensor of_product = ops::linear(tape, product, gmf_);
    return ops::linear(tape, deep, mlp_, bias_, ALLMREC_ACT_NONE, &of_product);
  }

  Tensor catalogue_scores(Tape& tape, const Tensor& users, const Tensor& items) override {
    constexpr int64_t kPairs = int64_t{1} << 15;
    const Tensor all = tape.tensor(users.rows, items.rows);
    const int64_t pairs = users.rows * items.rows;
    for (int64_t first = 0; first < pairs; first += kPairs) {
      const int64_t count = std::min(kPairs, pairs - first);
      std::vector<int32_t> user(static_cast<size_t>(count)), item(static_cast<size_t>(count));
      for (int64_t p = 0; p < count; ++p) {
        user[static_cast<size_t>(p)] = static_cast<int32_t>((first + p) / items.rows);
        item[static_cast<size_t>(p)] = static_cast<int32_t>((first + p) % items.rows);
      }
      const Tensor part = scores(tape, ops::gather_rows(tape, users, tape.ints(user)),
                                 ops::gather_rows(tape, items, tape.ints(item)));
      tape.device().copy_bytes(all.f32() + first, part.data, static_cast<size_t>(part.bytes()));
    }
    return all;
  }

  Tensor item_table(Tape&) override { return items_->value; }
  Parameter* item_embedding() override { return items_; }

 protected:
  Tensor user_table(Tape&) override { return users_->value; }

 private:
  int64_t half_;
  int negatives_ = 1;
  Parameter *users_, *items_;
  Parameter *user_weight_, *item_weight_, *hidden_bias_, *second_weight_, *second_bias_;
  Parameter *gmf_, *mlp_, *bias_;
};

const BackboneKind kNeuMf("neumf", construct_backbone<NeuMf>);

}  // namespace
}  // namespace allmrec
