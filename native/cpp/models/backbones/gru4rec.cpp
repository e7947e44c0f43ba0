#include <cmath>
#include <limits>

#include "../padded_sequences.h"
#include "../sequence_loss.h"

namespace allmrec {
namespace {

// GRU4Rec (Hidasi et al., 2016) over whole histories: item embedding, dropout, GRU layers, a linear layer
// back to the item table's width. Score = <state, E_i>.
class Gru4Rec final : public Backbone {
 public:
  // numItems, maxLength, hiddenUnits (d), gruUnits, numLayers, dropoutRate
  Gru4Rec(std::shared_ptr<Device> device, const NamedOptions& config)
      : Backbone(std::move(device), config.integer("numItems", 1, std::numeric_limits<int32_t>::max() - 1), 0,
                 config.size("maxLength")),
        size_(config.size("hiddenUnits")),
        units_(config.size("gruUnits")),
        dropout_rate_(config.number("dropoutRate", 0, 1)) {
    const int layers = config.size("numLayers", 1, 1024);
    table_ = &parameters_.add("item_embedding.weight", {num_items_ + 1, size_});
    for (int i = 0; i < layers; ++i) {
      const std::string suffix = "_l" + std::to_string(i);
      Layer layer{};
      layer.w_ih = &parameters_.add("gru_layers.weight_ih" + suffix, {3 * units_, i == 0 ? size_ : units_});
      layer.w_hh = &parameters_.add("gru_layers.weight_hh" + suffix, {3 * units_, units_});
      layer.b_ih = &parameters_.add("gru_layers.bias_ih" + suffix, {3 * units_});
      layer.b_hh = &parameters_.add("gru_layers.bias_hh" + suffix, {3 * units_});
      layers_.push_back(layer);
    }
    dense_weight_ = &parameters_.add("dense.weight", {size_, units_});
    dense_bias_ = &parameters_.add("dense.bias", {size_});
  }

  const char* name() const override { return "GRU4Rec"; }
  int64_t size() const override { return size_; }

  // PyTorch's defaults, but for the item table: xavier-normal as SASRec's, row 0 zero.
  void initialise(uint64_t seed) override {
    const float bound = 1.0f / std::sqrt(static_cast<float>(units_));
    for (const auto& p : parameters_.all())
      if (p.get() != table_) parameters_.uniform(*p, seed, bound);
    parameters_.xavier_normal(*table_, seed);
    parameters_.device()->fill(table_->value.f32(), size_, 0.0f);
  }

  NegativeSampling negatives(const NamedOptions& options) const override {
    return SequenceLoss::read(options).sampling();
  }
  void start_training(const NamedOptions& options, const Sequences&) override {
    loss_ = SequenceLoss::read(options);
  }
  void loss(Tape& tape, const Examples& examples) override {
    loss_.record(tape, features(tape, examples.histories), *table_, examples);
  }

  Tensor features(Tape& tape, const SequenceBatch& batch) override {
    check(batch);
    const PaddedSequences padded(batch);
    return at(tape, run(tape, padded), padded.rows);
  }

  Tensor user_vectors(Tape& tape, const SequenceBatch& histories, const std::vector<int32_t>&) override {
    check(histories);
    const PaddedSequences padded(histories);
    return spread(tape, at(tape, run(tape, padded), padded.last), histories);
  }

  Tensor item_table(Tape&) override { return table_->value; }
  Parameter* item_embedding() override { return table_; }

 private:
  struct Layer {
    Parameter *w_ih, *w_hh, *b_ih, *b_hh;
  };

  // Hidden states (B · S, units).
  Tensor run(Tape& tape, const PaddedSequences& padded) const {
    ops::EmbeddingInput in;
    in.ids = tape.ints(padded.ids);
    in.table = table_;
    in.dropout_rate = dropout_rate_;
    Tensor x = ops::embedding(tape, in);
    const Tensor start = tape.zeros(padded.batch, units_);
    for (const Layer& l : layers_)
      x = ops::gru_layer(tape, x, padded.batch, padded.steps, *l.w_ih, *l.w_hh, *l.b_ih, *l.b_hh, start);
    return x;
  }

  Tensor at(Tape& tape, const Tensor& states, const std::vector<int32_t>& rows) const {
    return ops::linear(tape, ops::gather_rows(tape, states, tape.ints(rows)), dense_weight_, dense_bias_);
  }

  int64_t size_, units_;
  float dropout_rate_;
  SequenceLoss loss_;
  std::vector<Layer> layers_;
  Parameter *table_, *dense_weight_, *dense_bias_;
};

const BackboneKind kGru4Rec("gru4rec", construct_backbone<Gru4Rec>);

}  // namespace
}  // namespace allmrec
