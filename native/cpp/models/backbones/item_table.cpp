#include <limits>

#include "../backbone.h"

namespace allmrec {
namespace {

// Item vectors made elsewhere, scored by <x, E_i>; where x comes from is the caller's affair.
class ItemTable final : public Backbone {
 public:
  // numItems, hiddenUnits (d)
  ItemTable(std::shared_ptr<Device> device, const NamedOptions& config)
      : Backbone(std::move(device), config.integer("numItems", 1, std::numeric_limits<int32_t>::max() - 1), 0,
                 1),
        table_(&parameters_.add("item_embedding.weight", {num_items_ + 1, config.size("hiddenUnits")})) {}

  const char* name() const override { return "The item table"; }
  int64_t size() const override { return table_->value.cols; }
  void initialise(uint64_t) override { parameters_.fill(*table_, 0.0f); }

  NegativeSampling negatives(const NamedOptions&) const override { unsupported("is not trained"); }
  void start_training(const NamedOptions&, const Sequences&) override { unsupported("is not trained"); }
  void loss(Tape&, const Examples&) override { unsupported("is not trained"); }
  Tensor user_vectors(Tape&, const SequenceBatch&, const std::vector<int32_t>&) override {
    unsupported("knows no users");
  }
  Tensor item_table(Tape&) override { return table_->value; }

 private:
  [[noreturn]] static void unsupported(const char* what) {
    throw Error(ErrorCode::unsupported, std::string("An item table ") + what + ".");
  }

  Parameter* table_;
};

const BackboneKind kItemTable("table", construct_backbone<ItemTable>);

}  // namespace
}  // namespace allmrec
