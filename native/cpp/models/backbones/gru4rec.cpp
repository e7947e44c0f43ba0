#include <algorithm>
#include <cmath>
#include <limits>

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
    std::vector<int32_t> rows;
    const Tensor states = run(tape, batch, &rows, nullptr);
    return output(tape, ops::gather_rows(tape, states, tape.ints(rows)));
  }

  Tensor user_vectors(Tape& tape, const SequenceBatch& histories, const std::vector<int32_t>&) override {
    std::vector<int32_t> last;
    const Tensor states = run(tape, histories, nullptr, &last);
    return spread(tape, output(tape, ops::gather_rows(tape, states, tape.ints(last))), histories);
  }

  Tensor item_table(Tape&) override { return table_->value; }
  Parameter* item_embedding() override { return table_; }

 private:
  struct Layer {
    Parameter *w_ih, *w_hh, *b_ih, *b_hh;
  };

  // Hidden states (B · S, units) of the histories, each padded behind its end to the longest. rows: of the
  // items; last: of the last item of each history that is not empty.
  Tensor run(Tape& tape, const SequenceBatch& batch, std::vector<int32_t>* rows,
             std::vector<int32_t>* last) const {
    check(batch);
    int32_t steps = 1;
    for (int64_t s = 0; s < batch.size(); ++s)
      steps = std::max(steps, batch.offsets[s + 1] - batch.offsets[s]);
    std::vector<int32_t> ids(static_cast<size_t>(batch.size() * steps), 0);
    for (int64_t s = 0; s < batch.size(); ++s) {
      const int32_t begin = batch.offsets[s], length = batch.offsets[s + 1] - begin;
      const auto first = static_cast<int32_t>(s * steps);
      for (int32_t i = 0; i < length; ++i) {
        ids[static_cast<size_t>(first + i)] = batch.items[begin + i];
        if (rows) rows->push_back(first + i);
      }
      if (last && length > 0) last->push_back(first + length - 1);
    }
    ops::EmbeddingInput in;
    in.ids = tape.ints(ids);
    in.table = table_;
    in.dropout_rate = dropout_rate_;
    Tensor x = ops::embedding(tape, in);
    const Tensor start = tape.zeros(batch.size(), units_);
    for (const Layer& l : layers_)
      x = ops::gru_layer(tape, x, batch.size(), steps, *l.w_ih, *l.w_hh, *l.b_ih, *l.b_hh, start);
    return x;
  }

  Tensor output(Tape& tape, const Tensor& states) const {
    return ops::linear(tape, states, dense_weight_, dense_bias_);
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
