#include "training_step.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace allmrec {
namespace {

// While it lives, every op of the device is looked at; it knows the weights and their gradients by name.
class Watching {
 public:
  Watching(Device& device, const std::vector<ParameterSet*>& weights) : device_(device), watch_(device) {
    for (const ParameterSet* set : weights)
      for (const auto& p : set->all()) {
        watch_.name(p->value.data, static_cast<size_t>(p->value.bytes()), "the weight `" + p->name + "`");
        if (p->grad)
          watch_.name(p->grad, static_cast<size_t>(p->value.size()) * sizeof(float),
                      "the gradient of `" + p->name + "`");
      }
    device_.set_watch(&watch_);
  }
  ~Watching() { device_.set_watch(nullptr); }
  Watching(const Watching&) = delete;
  Watching& operator=(const Watching&) = delete;

 private:
  Device& device_;
  FiniteWatch watch_;
};

bool all_finite(const float* values, int64_t n) {
  return std::all_of(values, values + n, [](float x) { return std::isfinite(x); });
}

std::string number_text(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", value);
  return text;
}

std::string terms_text(const Losses& losses) {
  std::string text;
  for (const auto& [name, value] : losses)
    if (name != "loss") text += (text.empty() ? "" : ", ") + name + " = " + number_text(value);
  return text;
}

std::string bad_weight(const std::vector<ParameterSet*>& weights) {
  for (const ParameterSet* set : weights)
    for (const auto& p : set->all()) {
      const std::vector<float> values = set->value_to_host(*p);
      const auto bad = std::find_if(values.begin(), values.end(), [](float x) { return !std::isfinite(x); });
      if (bad != values.end())
        return "the weight `" + p->name + "` holds " + number_text(*bad) + " at " +
               std::to_string(bad - values.begin());
    }
  return "";
}

// The first gradient that is not finite, or else the one with the largest number, whose square is not.
std::string bad_gradient(const std::vector<ParameterSet*>& weights) {
  float largest = 0.0f;
  std::string of;
  for (const ParameterSet* set : weights)
    for (const auto& p : set->all()) {
      if (!p->trainable()) continue;
      for (const float x : set->grad_to_host(*p)) {
        if (!std::isfinite(x)) return "the gradient of `" + p->name + "` is not finite";
        if (std::abs(x) <= largest) continue;
        largest = std::abs(x);
        of = p->name;
      }
    }
  if (largest < 1e15f) return "";
  return "the gradient of `" + of + "` reaches " + number_text(largest) +
         ", and float32 does not hold the sum of the squares";
}

void clear_gradients(const std::vector<ParameterSet*>& weights) {
  for (ParameterSet* set : weights) set->zero_grad();
}

[[noreturn]] void fail(const Training& training, const std::string& what, const Losses& losses,
                       const std::function<Losses()>& compute) {
  // Gradients may have come from parts of the step that cannot be run again: they are looked at first.
  const std::string gradient = bad_gradient(training.weights);
  clear_gradients(training.weights);
  std::string why = why_not_finite(training.weights, [&] { compute(); });
  if (why.empty()) why = gradient;
  clear_gradients(training.weights);
  const int64_t done = training.adam.steps();
  const std::string terms = terms_text(losses);
  throw Error(ErrorCode::numeric, std::string(training.name) + "'s " + what + " at step " +
                                      std::to_string(done + 1) + (terms.empty() ? "" : " (" + terms + ")") +
                                      (why.empty() ? "" : ": " + why) +
                                      ". The weights are those after step " + std::to_string(done) +
                                      "; lower the learning rate.");
}

}  // namespace

std::string why_not_finite(const std::vector<ParameterSet*>& weights, const std::function<void()>& compute) {
  if (const std::string weight = bad_weight(weights); !weight.empty()) return weight;
  try {
    const Watching watching(*weights.front()->device(), weights);
    compute();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::numeric) throw;
    return error.what();
  }
  return "";
}

Losses finite_losses(const Training& training, const std::function<Losses()>& compute) {
  Losses losses = compute();
  if (!std::isfinite(losses.at("loss"))) fail(training, "loss is not finite", losses, compute);
  return losses;
}

Losses finite_step(const Training& training, const std::function<Losses()>& compute) {
  Losses losses = finite_losses(training, compute);
  if (!training.adam.try_step()) fail(training, "gradients are not finite", losses, compute);
  return losses;
}

void fail_not_finite(const std::string& what, const std::vector<ParameterSet*>& weights,
                     const std::function<void()>& compute) {
  const std::string why = why_not_finite(weights, compute);
  throw Error(ErrorCode::numeric, what + (why.empty() ? "" : ": " + why) + ".");
}

void expect_finite(const float* values, int64_t n, const char* what,
                   const std::vector<ParameterSet*>& weights, const std::function<void()>& compute) {
  if (!all_finite(values, n)) fail_not_finite(what, weights, compute);
}

}  // namespace allmrec
