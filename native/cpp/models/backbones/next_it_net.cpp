#include <cmath>
#include <limits>

#include "../padded_sequences.h"
#include "../sequence_loss.h"

namespace allmrec {
namespace {

constexpr float kEps = 1e-8f;
constexpr int kDilations[] = {1, 4};  // of the blocks in turn

// NextItNet (Yuan et al., 2019): residual blocks of two dilated causal convolutions, each with layer norm and
// ReLU, the second one twice as dilated; a linear layer at the end. Score = <state, E_i>.
class NextItNet final : public Backbone {
 public:
  // numItems, maxLength, hiddenUnits (d, the channels too), numBlocks, kernelSize
  NextItNet(std::shared_ptr<Device> device, const NamedOptions& config)
      : Backbone(std::move(device), config.integer("numItems", 1, std::numeric_limits<int32_t>::max() - 1), 0,
                 config.size("maxLength")),
        size_(config.size("hiddenUnits")) {
    const int blocks = config.size("numBlocks", 0, 1024), taps = config.size("kernelSize", 1, 64);
    table_ = &parameters_.add("item_embedding.weight", {num_items_ + 1, size_});
    for (int i = 0; i < blocks; ++i)
      for (int part = 1; part <= 2; ++part) {
        const std::string name = "blocks." + std::to_string(i) + ".", n = std::to_string(part);
        Conv c{};
        c.weight = &parameters_.add(name + "conv" + n + ".weight", {taps, size_, size_});
        c.bias = &parameters_.add(name + "conv" + n + ".bias", {size_});
        c.norm_weight = &parameters_.add(name + "norm" + n + ".weight", {size_});
        c.norm_bias = &parameters_.add(name + "norm" + n + ".bias", {size_});
        c.dilation = kDilations[i % 2] * part;
        convs_.push_back(c);
      }
    dense_weight_ = &parameters_.add("dense.weight", {size_, size_});
    dense_bias_ = &parameters_.add("dense.bias", {size_});
  }

  const char* name() const override { return "NextItNet"; }
  int64_t size() const override { return size_; }

  // PyTorch's defaults of convolutions and linear layers; the item table xavier-normal, row 0 zero.
  void initialise(uint64_t seed) override {
    parameters_.xavier_normal(*table_, seed);
    parameters_.device()->fill(table_->value.f32(), size_, 0.0f);
    for (const Conv& c : convs_) {
      const float bound = 1.0f / std::sqrt(static_cast<float>(c.weight->shape[0] * size_));
      parameters_.uniform(*c.weight, seed, bound);
      parameters_.uniform(*c.bias, seed, bound);
      parameters_.fill(*c.norm_weight, 1.0f);
      parameters_.fill(*c.norm_bias, 0.0f);
    }
    const float bound = 1.0f / std::sqrt(static_cast<float>(size_));
    for (Parameter* p : {dense_weight_, dense_bias_}) parameters_.uniform(*p, seed, bound);
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
  struct Conv {
    Parameter *weight, *bias, *norm_weight, *norm_bias;
    int dilation;
  };

  Tensor run(Tape& tape, const PaddedSequences& padded) const {
    Tensor x = ops::gather_rows(tape, *table_, tape.ints(padded.ids));
    for (size_t i = 0; i + 1 < convs_.size(); i += 2) {
      Tensor y = x;
      for (const Conv& c : {convs_[i], convs_[i + 1]}) {
        y = ops::causal_conv(tape, y, padded.batch, padded.steps, *c.weight, *c.bias, c.dilation);
        y = ops::activation(tape, ALLMREC_ACT_RELU,
                            ops::layer_norm(tape, y, *c.norm_weight, *c.norm_bias, kEps));
      }
      x = ops::add(tape, x, y);
    }
    return x;
  }

  Tensor at(Tape& tape, const Tensor& states, const std::vector<int32_t>& rows) const {
    return ops::linear(tape, ops::gather_rows(tape, states, tape.ints(rows)), dense_weight_, dense_bias_);
  }

  int64_t size_;
  SequenceLoss loss_;
  std::vector<Conv> convs_;
  Parameter *table_, *dense_weight_, *dense_bias_;
};

const BackboneKind kNextItNet("nextitnet", construct_backbone<NextItNet>);

}  // namespace
}  // namespace allmrec
