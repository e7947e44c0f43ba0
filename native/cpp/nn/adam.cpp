#include "adam.h"

#include <cmath>

namespace allmrec {

Adam::Adam(std::shared_ptr<Device> device, std::vector<Parameter*> parameters, AdamOptions options)
    : device_(std::move(device)),
      parameters_(std::move(parameters)),
      options_(options),
      norm_(device_, sizeof(float)) {
  for (const Parameter* p : parameters_) {
    const size_t bytes = static_cast<size_t>(p->value.size()) * sizeof(float);
    m_.emplace_back(device_, bytes, "the optimizer's moments");
    v_.emplace_back(device_, bytes, "the optimizer's moments");
    device_->fill(m_.back().as<float>(), p->value.size(), 0.0f);
    device_->fill(v_.back().as<float>(), p->value.size(), 0.0f);
  }
}

float Adam::squared_norm(const float* (*of)(const Parameter&)) {
  std::vector<const float*> tensors;
  std::vector<int64_t> sizes;
  for (const Parameter* p : parameters_) {
    tensors.push_back(of(*p));
    sizes.push_back(p->value.size());
  }
  device_->squared_norm(
      {tensors.data(), sizes.data(), static_cast<int64_t>(tensors.size()), norm_.as<float>()});
  float squared = 0.0f;
  device_->download(&squared, norm_.as<float>(), sizeof squared);
  return squared;
}

bool Adam::try_step() {
  const float squared = squared_norm([](const Parameter& p) -> const float* { return p.grad; });
  if (!std::isfinite(squared)) return false;
  const float norm = std::sqrt(squared);
  // The same small constant as torch.nn.utils.clip_grad_norm_.
  const bool clips = options_.clip_norm > 0.0f && norm > options_.clip_norm;
  apply(clips ? options_.clip_norm / (norm + 1e-6f) : 1.0f);
  return true;
}

bool Adam::weights_finite() {
  return std::isfinite(squared_norm([](const Parameter& p) -> const float* { return p.value.f32(); }));
}

void Adam::apply(float grad_scale) {
  std::vector<allmrec_adam_tensor> tensors;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    Parameter* p = parameters_[i];
    tensors.push_back({p->value.f32(), p->grad, m_[i].as<float>(), v_[i].as<float>(), p->value.size()});
  }
  const Cancellation whole(nullptr);  // a part of an update is no state a training could go on from
  device_->adam({tensors.data(), static_cast<int64_t>(tensors.size()), options_.learning_rate, options_.beta1,
                 options_.beta2, options_.eps, options_.weight_decay, steps_ + 1, grad_scale, 1});
  ++steps_;
}

void Adam::save(State& state) const {
  if (state.values.empty())
    for (const Parameter* p : parameters_)
      for (std::vector<DeviceBuffer>* part : {&state.values, &state.m, &state.v})
        part->emplace_back(device_, static_cast<size_t>(p->value.bytes()), "a copy of weights and moments");
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const size_t bytes = state.values[i].bytes();
    device_->copy_bytes(state.values[i].as<void>(), parameters_[i]->value.data, bytes);
    device_->copy_bytes(state.m[i].as<void>(), m_[i].as<void>(), bytes);
    device_->copy_bytes(state.v[i].as<void>(), v_[i].as<void>(), bytes);
  }
  state.steps = steps_;
}

void Adam::restore(const State& state) {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const size_t bytes = state.values[i].bytes();
    device_->copy_bytes(parameters_[i]->value.data, state.values[i].as<void>(), bytes);
    device_->copy_bytes(m_[i].as<void>(), state.m[i].as<void>(), bytes);
    device_->copy_bytes(v_[i].as<void>(), state.v[i].as<void>(), bytes);
  }
  steps_ = state.steps;
}

}  // namespace allmrec
