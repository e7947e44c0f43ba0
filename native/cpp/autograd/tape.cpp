#include "tape.h"

#include <algorithm>
#include <cmath>

namespace allmrec {

namespace {
constexpr uint64_t kStreamsPerStep = 4096;
}

Tape::Tape(Device& device, Arena& arena, bool recording, uint64_t seed, uint64_t step)
    : device_(device), arena_(arena), recording_(recording), seed_(seed), stream_(step * kStreamsPerStep) {}

Tensor Tape::tensor(int64_t rows, int64_t cols, int32_t dtype) {
  Tensor t;
  t.rows = rows;
  t.cols = cols;
  t.dtype = dtype;
  t.owner = arena_.take(static_cast<size_t>(t.bytes()));
  t.data = t.owner.get();
  return t;
}

// The arena's pieces are whole multiples of 64 bytes, and zero has the same bits in every dtype.
void Tape::clear(const Tensor& like, void* data) {
  device_.fill(static_cast<float*>(data), (like.bytes() + 3) / 4, 0.0f);
}

Tensor Tape::zeros(int64_t rows, int64_t cols) {
  Tensor t = tensor(rows, cols);
  clear(t, t.data);
  return t;
}

Tensor Tape::from_host(const float* values, int64_t rows, int64_t cols) {
  Tensor t = tensor(rows, cols);
  device_.upload(t.data, values, static_cast<size_t>(t.size()) * sizeof(float));
  if (device_.watched() && !std::all_of(values, values + t.size(), [](float x) { return std::isfinite(x); }))
    throw Error(ErrorCode::numeric, "what it is computed from is not finite (" + std::to_string(rows) +
                                        " × " + std::to_string(cols) + " given numbers)");
  return t;
}

IntTensor Tape::ints(const std::vector<int32_t>& values) {
  return ints(values.data(), static_cast<int64_t>(values.size()));
}

IntTensor Tape::ints(const int32_t* values, int64_t n) {
  IntTensor t;
  t.size = n;
  t.data = static_cast<int32_t*>(arena_.alloc(static_cast<size_t>(n) * sizeof(int32_t)));
  device_.upload(t.data, values, static_cast<size_t>(n) * sizeof(int32_t));
  return t;
}

Tensor Tape::variable(Tensor t) {
  if (recording_) {
    t.variable = static_cast<int32_t>(grads_.size());
    grads_.push_back({nullptr, t.bytes()});
  }
  return t;
}

Tape::Grad Tape::grad_target(const Tensor& t) {
  Variable& slot = grads_[t.variable];
  if (slot.gradient) return {slot.gradient.get(), 1};
  slot.gradient = arena_.take(static_cast<size_t>(slot.bytes));
  return {slot.gradient.get(), 0};
}

Tensor Tape::take_grad(const Tensor& t) {
  Tensor gradient = t.outline();
  gradient.variable = -1;
  if (t.variable >= 0) gradient.owner = std::move(grads_[t.variable].gradient);
  gradient.data = gradient.owner.get();
  return gradient;
}

std::vector<float> Tape::grad_to_host(const Tensor& t) {
  std::vector<float> values(static_cast<size_t>(t.size()), 0.0f);
  t.f32();  // gradients that leave the device are float32
  if (t.variable >= 0 && grads_[t.variable].gradient)
    device_.download(values.data(), grads_[t.variable].gradient.get(), values.size() * sizeof(float));
  return values;
}

void Tape::give_grad(const Tensor& t, const Tensor& gradient) {
  Variable& slot = grads_[t.variable];
  if (slot.gradient == nullptr)
    slot.gradient = gradient.owner;
  else
    device_.add({t.size(), 1.0f, gradient.data, 0.0f, nullptr, slot.gradient.get(), 1, t.dtype});
}

const LossTerm& Tape::add_loss(const std::string& name, float weight) {
  float* value = static_cast<float*>(arena_.alloc(sizeof(float)));
  losses_.push_back({name, value, weight, weight != 0.0f ? weight : 1.0f});
  return losses_.back();
}

void Tape::backward() {
  while (!backward_.empty()) {
    const std::function<void()> run = std::move(backward_.back());
    backward_.pop_back();
    run();
  }
}

std::map<std::string, double> Tape::read_losses() {
  std::map<std::string, double> result;
  double total = 0.0;
  for (const LossTerm& term : losses_) {
    float value = 0.0f;
    device_.download(&value, term.value, sizeof value);
    const double loss = static_cast<double>(value) / term.factor;
    total += term.weight * loss;
    result[term.name] += loss;
  }
  result["loss"] = total;
  return result;
}

void Tape::add_losses_to(float* sum) {
  for (const LossTerm& term : losses_)
    device_.add({1, term.weight / term.factor, term.value, 0.0f, nullptr, sum, 1, ALLMREC_F32});
}

allmrec_dropout Tape::dropout(float p) {
  return {recording_ ? p : 0.0f, seed_, stream_++};
}

}  // namespace allmrec
