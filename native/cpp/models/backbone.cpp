#include "backbone.h"

#include <algorithm>
#include <map>

namespace allmrec {

void Sequences::sort() {
  for (int64_t u = 0; u < users(); ++u) std::sort(items.begin() + offsets[u], items.begin() + offsets[u + 1]);
}

void SequenceBatch::add(const int32_t* history, int64_t length, int max_length) {
  const int64_t kept = std::min<int64_t>(length, max_length);
  items.insert(items.end(), history + (length - kept), history + length);
  offsets.push_back(static_cast<int32_t>(items.size()));
}

Backbone::Backbone(std::shared_ptr<Device> device, int64_t num_items, int64_t num_users, int max_length)
    : num_items_(num_items), num_users_(num_users), max_length_(max_length), parameters_(std::move(device)) {}

void Backbone::load(const std::vector<std::string>& paths) {
  parameters_.load(open_files(paths), [](const std::string& name) { return std::vector<std::string>{name}; });
}

Tensor Backbone::features(Tape&, const SequenceBatch&) {
  throw Error(ErrorCode::unsupported, std::string(name()) + " has no features at positions of a history.");
}

Tensor Backbone::scores(Tape& tape, const Tensor& users, const Tensor& items) {
  return ops::row_dot(tape, users, items);
}

Tensor Backbone::catalogue_scores(Tape& tape, const Tensor& users, const Tensor& items) {
  return ops::matmul_transposed(tape, users, items);
}

void Backbone::check(const SequenceBatch& batch) const {
  for (int32_t item : batch.items)
    if (item < 1 || item > num_items_)
      throw Error(ErrorCode::unknown_item,
                  "Item " + std::to_string(item) + " is outside 1 … " + std::to_string(num_items_) + ".");
  for (int64_t s = 0; s < batch.size(); ++s)
    if (batch.offsets[s + 1] - batch.offsets[s] > max_length_)
      throw Error(ErrorCode::invalid_argument,
                  "A history of " + std::to_string(batch.offsets[s + 1] - batch.offsets[s]) +
                      " items exceeds the maximum of " + std::to_string(max_length_) + ".");
}

Tensor Backbone::spread(Tape& tape, const Tensor& rows, const SequenceBatch& batch) const {
  if (rows.rows == batch.size()) return rows;
  std::vector<int32_t> places;
  for (int64_t s = 0; s < batch.size(); ++s)
    if (batch.offsets[s + 1] > batch.offsets[s]) places.push_back(static_cast<int32_t>(s));
  const Tensor all = tape.zeros(batch.size(), rows.cols);
  const IntTensor targets = tape.ints(places);
  tape.device().scatter_add_rows(
      {targets.size, rows.cols, targets.data, rows.data, rows.cols, all.data, rows.cols, rows.dtype});
  return all;
}

namespace {

std::map<std::string, BackboneKind::Make>& kinds() {
  static std::map<std::string, BackboneKind::Make> all;
  return all;
}

}  // namespace

BackboneKind::BackboneKind(const char* kind, Make make) {
  kinds().emplace(kind, make);
}

std::unique_ptr<Backbone> make_backbone(const std::string& kind, std::shared_ptr<Device> device,
                                        const NamedOptions& config) {
  const auto found = kinds().find(kind);
  if (found != kinds().end()) return found->second(std::move(device), config);
  std::string known;
  for (const auto& [name, make] : kinds()) known += (known.empty() ? "" : ", ") + name;
  throw Error(ErrorCode::invalid_argument,
              "Expected `config.kind` to be one of " + known + ", got `" + kind + "`.");
}

}  // namespace allmrec
