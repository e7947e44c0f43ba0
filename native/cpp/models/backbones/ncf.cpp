#include <cmath>

#include "../user_table.h"

namespace allmrec {
namespace {

// Two towers (the NCF of A-LLMRec's table, after He et al., 2017): a user's and an item's embedding, each
// through linear, ReLU, linear; score = the product of what comes out. Binary cross-entropy with drawn
// negatives.
class Ncf final : public UserTable {
 public:
  // beside UserTable's: embeddingSize, towerUnits
  Ncf(std::shared_ptr<Device> device, const NamedOptions& config) : UserTable(std::move(device), config) {
    const int64_t embedding = config.size("embeddingSize"), units = config.size("towerUnits");
    user_ = add("user", num_users_, embedding, units);
    item_ = add("item", num_items_ + 1, embedding, units);
    final_users_ = &parameters_.add("user_table", {num_users_, size_});
    final_items_ = &parameters_.add("item_table", {num_items_ + 1, size_});
    for (Parameter* p : {final_users_, final_items_}) p->derived = true;
    add_derived();
  }

  const char* name() const override { return "NCF"; }

  // Xavier-normal tables, PyTorch's default of the linear layers.
  void initialise(uint64_t seed) override {
    for (const Tower* tower : {&user_, &item_}) {
      parameters_.xavier_normal(*tower->table, seed);
      const float in = 1.0f / std::sqrt(static_cast<float>(tower->w0->value.cols));
      const float hidden = 1.0f / std::sqrt(static_cast<float>(tower->w1->value.cols));
      for (Parameter* p : {tower->w0, tower->b0}) parameters_.uniform(*p, seed, in);
      for (Parameter* p : {tower->w1, tower->b1}) parameters_.uniform(*p, seed, hidden);
    }
    end_of_weights();
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
      repeated.push_back(static_cast<int32_t>(i) / negatives_);
    const Tensor user = run(tape, user_, ops::gather_rows(tape, *user_.table, tape.ints(examples.users)));
    const Tensor liked =
        run(tape, item_, ops::gather_rows(tape, *item_.table, tape.ints(examples.positives)));
    const Tensor others =
        run(tape, item_, ops::gather_rows(tape, *item_.table, tape.ints(examples.negatives)));
    ops::bce_loss(tape, "bce", ops::row_dot(tape, user, liked), 1.0f, scale, 1.0f);
    const Tensor same = ops::gather_rows(tape, user, tape.ints(repeated));
    ops::bce_loss(tape, "bce", ops::row_dot(tape, same, others), 0.0f, scale, 1.0f);
  }

  Tensor item_table(Tape&) override { return final_items_->value; }

 protected:
  Tensor user_table(Tape&) override { return final_users_->value; }

  void derive(Tape& tape) override {
    for (const auto& [tower, into] : {std::pair(&user_, final_users_), std::pair(&item_, final_items_)}) {
      const Tensor out = run(tape, *tower, tower->table->value);
      parameters_.device()->copy_bytes(into->value.data, out.data, static_cast<size_t>(out.bytes()));
    }
    parameters_.device()->fill(final_items_->value.f32(), size_, 0.0f);
  }

 private:
  struct Tower {
    Parameter *table, *w0, *b0, *w1, *b1;
  };

  Tower add(const std::string& name, int64_t rows, int64_t embedding, int64_t units) {
    Tower t{};
    t.table = &parameters_.add(name + "_embedding.weight", {rows, embedding});
    t.w0 = &parameters_.add(name + "_tower.0.weight", {units, embedding});
    t.b0 = &parameters_.add(name + "_tower.0.bias", {units});
    t.w1 = &parameters_.add(name + "_tower.2.weight", {size_, units});
    t.b1 = &parameters_.add(name + "_tower.2.bias", {size_});
    return t;
  }

  static Tensor run(Tape& tape, const Tower& t, const Tensor& x) {
    return ops::linear(tape, ops::linear(tape, x, t.w0, t.b0, ALLMREC_ACT_RELU), t.w1, t.b1);
  }

  void end_of_weights() {
    Arena arena(parameters_.device());
    Tape tape(*parameters_.device(), arena, false);
    derive(tape);
  }

  Tower user_, item_;
  Parameter *final_users_, *final_items_;
  int negatives_ = 1;
};

const BackboneKind kNcf("ncf", construct_backbone<Ncf>);

}  // namespace
}  // namespace allmrec
