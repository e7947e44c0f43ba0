#include "user_table.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace allmrec {

UserTable::UserTable(std::shared_ptr<Device> device, const NamedOptions& config)
    : Backbone(std::move(device), config.integer("numItems", 1, std::numeric_limits<int32_t>::max() - 1),
               config.integer("numUsers", 1, std::numeric_limits<int32_t>::max() - 1),
               std::numeric_limits<int32_t>::max()),
      size_(config.size("hiddenUnits")) {}

void UserTable::add_derived() {
  fold_in_weight_ = &parameters_.add("fold_in.weight", {size_, size_});
  fold_in_bias_ = &parameters_.add("fold_in.bias", {size_});
  trained_ = &parameters_.add("trained_users", {num_users_});
  for (Parameter* p : {fold_in_weight_, fold_in_bias_, trained_}) {
    p->derived = true;
    parameters_.fill(*p, 0.0f);
  }
}

void UserTable::start_training(const NamedOptions&, const Sequences& train) {
  train_ = train;
  std::vector<float> trained(static_cast<size_t>(num_users_));
  for (int64_t u = 0; u < num_users_; ++u)
    trained[static_cast<size_t>(u)] = train.length(u) > 0 ? 1.0f : 0.0f;
  parameters_.upload(*trained_, trained.data());
}

void UserTable::end_epoch() {
  Device& device = *parameters_.device();
  Arena arena(parameters_.device());
  Tape tape(device, arena, false);
  derive(tape);
  const auto host = [&device](const Tensor& t) {
    std::vector<float> values(static_cast<size_t>(t.size()));
    device.download(values.data(), t.data, values.size() * sizeof(float));
    return values;
  };
  fit(host(user_table(tape)), host(item_table(tape)));
}

// Normal equations of d + 1 columns, the last one constant, by Cholesky in float64.
void UserTable::fit(const std::vector<float>& users, const std::vector<float>& items) {
  const int64_t d = size_, n = d + 1;
  std::vector<double> a(static_cast<size_t>(n * n)), b(static_cast<size_t>(n * d));
  std::vector<double> x(static_cast<size_t>(n));
  for (int64_t u = 0; u < num_users_; ++u) {
    const int64_t length = train_.length(u);
    if (length == 0) continue;
    std::fill(x.begin(), x.end(), 0.0);
    for (int64_t i = 0; i < length; ++i) {
      const float* row = items.data() + int64_t{train_.begin(u)[i]} * d;
      for (int64_t c = 0; c < d; ++c) x[c] += row[c];
    }
    for (int64_t c = 0; c < d; ++c) x[c] /= static_cast<double>(length);
    x[d] = 1.0;
    for (int64_t r = 0; r < n; ++r) {
      for (int64_t c = 0; c <= r; ++c) a[r * n + c] += x[r] * x[c];
      for (int64_t c = 0; c < d; ++c) b[r * d + c] += x[r] * users[u * d + c];
    }
  }
  double trace = 0.0;
  for (int64_t r = 0; r < d; ++r) trace += a[r * n + r];
  const double ridge = 1e-3 * trace / static_cast<double>(d) + 1e-12;
  for (int64_t r = 0; r < d; ++r) a[r * n + r] += ridge;
  a[d * n + d] += 1e-12;  // users there are none of
  for (int64_t r = 0; r < n; ++r)
    for (int64_t c = 0; c <= r; ++c) {
      double sum = a[r * n + c];
      for (int64_t k = 0; k < c; ++k) sum -= a[r * n + k] * a[c * n + k];
      a[r * n + c] = r == c ? std::sqrt(std::max(sum, 1e-30)) : sum / a[c * n + c];
    }
  for (int64_t r = 0; r < n; ++r)
    for (int64_t c = 0; c < d; ++c) {
      double sum = b[r * d + c];
      for (int64_t k = 0; k < r; ++k) sum -= a[r * n + k] * b[k * d + c];
      b[r * d + c] = sum / a[r * n + r];
    }
  for (int64_t r = n - 1; r >= 0; --r)
    for (int64_t c = 0; c < d; ++c) {
      double sum = b[r * d + c];
      for (int64_t k = r + 1; k < n; ++k) sum -= a[k * n + r] * b[k * d + c];
      b[r * d + c] = sum / a[r * n + r];
    }
  std::vector<float> weight(static_cast<size_t>(d * d)), bias(static_cast<size_t>(d));
  for (int64_t c = 0; c < d; ++c) {
    for (int64_t r = 0; r < d; ++r) weight[c * d + r] = static_cast<float>(b[r * d + c]);
    bias[c] = static_cast<float>(b[d * d + c]);
  }
  parameters_.upload(*fold_in_weight_, weight.data());
  parameters_.upload(*fold_in_bias_, bias.data());
}

Tensor UserTable::user_vectors(Tape& tape, const SequenceBatch& histories,
                               const std::vector<int32_t>& users) {
  check(histories);
  std::vector<float> trained;
  if (!users.empty()) trained = parameters_.value_to_host(*trained_);
  // Rows of [known users | users by their histories | a row of zeros].
  std::vector<int32_t> known, items, offsets{0}, place(static_cast<size_t>(histories.size()), -1);
  for (int64_t b = 0; b < histories.size(); ++b) {
    if (!users.empty() && users[b] >= 0 && trained[users[b]] != 0.0f) {
      place[b] = static_cast<int32_t>(known.size());
      known.push_back(users[b]);
    }
  }
  const auto first = static_cast<int32_t>(known.size());
  for (int64_t b = 0; b < histories.size(); ++b) {
    if (place[b] >= 0 || histories.offsets[b + 1] == histories.offsets[b]) continue;
    place[b] = first + static_cast<int32_t>(offsets.size()) - 1;
    items.insert(items.end(), histories.items.begin() + histories.offsets[b],
                 histories.items.begin() + histories.offsets[b + 1]);
    offsets.push_back(static_cast<int32_t>(items.size()));
  }
  const auto none = static_cast<int32_t>(known.size() + offsets.size() - 1);
  for (int32_t& p : place)
    if (p < 0) p = none;
  Tensor rows;
  if (!known.empty()) rows = ops::gather_rows(tape, user_table(tape), tape.ints(known));
  if (!items.empty()) {
    const Tensor means = ops::segment_mean(tape, ops::gather_rows(tape, item_table(tape), tape.ints(items)),
                                           tape.ints(offsets));
    rows = ops::concat_rows(tape, rows, ops::linear(tape, means, fold_in_weight_, fold_in_bias_));
  }
  rows = ops::concat_rows(tape, rows, tape.zeros(1, size_));
  return ops::gather_rows(tape, rows, tape.ints(place));
}

}  // namespace allmrec
