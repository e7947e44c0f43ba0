#include <algorithm>
#include <cmath>

#include "../user_table.h"

namespace allmrec {
namespace {

// LightGCN (He et al., 2020): embeddings of users and items, propagated over the graph of the training
// interactions with weights 1 / sqrt(|N_u| |N_i|), averaged over the layers; BPR on what comes out, and a
// penalty on the embeddings that a step begins with.
class LightGcn final : public UserTable {
 public:
  // beside UserTable's: numLayers
  LightGcn(std::shared_ptr<Device> device, const NamedOptions& config)
      : UserTable(std::move(device), config), layers_(config.size("numLayers", 0, 16)) {
    // Users, then the items from the padding.
    nodes_ = &parameters_.add("embedding.weight", {num_users_ + num_items_ + 1, size_});
    final_users_ = &parameters_.add("user_table", {num_users_, size_});
    final_items_ = &parameters_.add("item_table", {num_items_ + 1, size_});
    for (Parameter* p : {final_users_, final_items_}) p->derived = true;
    add_derived();
  }

  const char* name() const override { return "LightGCN"; }

  // Normal with deviation 0.1, the padding row zero.
  void initialise(uint64_t seed) override {
    parameters_.normal(*nodes_, seed, 0.1f);
    parameters_.device()->fill(nodes_->value.f32() + num_users_ * size_, size_, 0.0f);
    for (Parameter* p : {final_users_, final_items_}) parameters_.fill(*p, 0.0f);
  }

  NegativeSampling negatives(const NamedOptions& options) const override {
    options.number("regularisation", 0);
    return {1, 0};
  }

  void start_training(const NamedOptions& options, const Sequences& train) override {
    UserTable::start_training(options, train);
    regularisation_ = options.number("regularisation", 0);
    build(train);
    Arena arena(parameters_.device());
    Tape tape(*parameters_.device(), arena, false);
    derive(tape);
  }

  void loss(Tape& tape, const Examples& examples) override {
    const auto item_nodes = [this](std::vector<int32_t> items) {
      for (int32_t& item : items) item += static_cast<int32_t>(num_users_);
      return items;
    };
    const std::vector<int32_t> liked = item_nodes(examples.positives),
                               others = item_nodes(examples.negatives);
    const Tensor all = ops::propagate(tape, graph_, *nodes_, layers_);
    const auto rows = [&](const std::vector<int32_t>& nodes) {
      return ops::gather_rows(tape, all, tape.ints(nodes));
    };
    const auto count = static_cast<float>(examples.users.size());
    const Tensor difference = ops::add(tape, rows(liked), ops::scale(tape, rows(others), -1.0f));
    ops::bce_loss(tape, "bpr", ops::row_dot(tape, rows(examples.users), difference), 1.0f, 1.0f / count,
                  1.0f);
    // λ · ½ Σ ‖e‖² over users, items and negatives, a mean over the examples; mse_loss is a mean over
    // numbers.
    const auto penalty = static_cast<float>(size_) * regularisation_ / 2.0f;
    for (const std::vector<int32_t>* nodes : {&examples.users, &liked, &others}) {
      const Tensor own = ops::gather_rows(tape, *nodes_, tape.ints(*nodes));
      ops::mse_loss(tape, "regularisation", own, tape.zeros(own.rows, own.cols), penalty);
    }
  }

  Tensor item_table(Tape&) override { return final_items_->value; }

 protected:
  Tensor user_table(Tape&) override { return final_users_->value; }

  void derive(Tape& tape) override {
    const Tensor all = ops::propagate(tape, graph_, *nodes_, layers_);
    Device& device = *parameters_.device();
    device.copy_bytes(final_users_->value.data, all.data, static_cast<size_t>(final_users_->value.bytes()));
    device.copy_bytes(final_items_->value.data, all.at(num_users_),
                      static_cast<size_t>(final_items_->value.bytes()));
    device.fill(final_items_->value.f32(), size_, 0.0f);
  }

 private:
  // Each interaction once, in both directions.
  void build(const Sequences& train) {
    const int64_t n = num_users_ + num_items_ + 1;
    std::vector<std::vector<int32_t>> neighbours(static_cast<size_t>(n));
    for (int64_t u = 0; u < num_users_; ++u) {
      std::vector<int32_t>& own = neighbours[static_cast<size_t>(u)];
      for (int64_t i = 0; i < train.length(u); ++i)
        own.push_back(static_cast<int32_t>(num_users_) + train.begin(u)[i]);
      std::sort(own.begin(), own.end());
      own.erase(std::unique(own.begin(), own.end()), own.end());
      for (const int32_t item : own) neighbours[static_cast<size_t>(item)].push_back(static_cast<int32_t>(u));
    }
    std::vector<int32_t> offsets{0}, columns;
    std::vector<float> values;
    for (const std::vector<int32_t>& row : neighbours) {
      for (const int32_t column : row) {
        columns.push_back(column);
        const auto degrees = static_cast<double>(row.size()) *
                             static_cast<double>(neighbours[static_cast<size_t>(column)].size());
        values.push_back(static_cast<float>(1.0 / std::sqrt(degrees)));
      }
      offsets.push_back(static_cast<int32_t>(columns.size()));
    }
    std::shared_ptr<Device> device = parameters_.device();
    const auto upload = [&device](DeviceBuffer& buffer, const void* from, size_t bytes) {
      buffer = DeviceBuffer(device, std::max<size_t>(bytes, 4), "a graph");
      device->upload(buffer.as<void>(), from, bytes);
    };
    upload(offsets_, offsets.data(), offsets.size() * sizeof(int32_t));
    upload(columns_, columns.data(), columns.size() * sizeof(int32_t));
    upload(values_, values.data(), values.size() * sizeof(float));
    graph_ = {n, offsets_.as<int32_t>(), columns_.as<int32_t>(), values_.as<float>()};
  }

  int layers_;
  float regularisation_ = 0.0f;
  Parameter *nodes_, *final_users_, *final_items_;
  DeviceBuffer offsets_, columns_, values_;
  ops::SparseMatrix graph_;
};

const BackboneKind kLightGcn("lightgcn", construct_backbone<LightGcn>);

}  // namespace
}  // namespace allmrec
