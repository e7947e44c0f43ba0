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
    m_.emplace_back(device_, bytes);
    v_.emplace_back(device_, bytes);
    device_->fill(m_.back().as<float>(), p->value.size(), 0.0f);
    device_->fill(v_.back().as<float>(), p->value.size(), 0.0f);
  }
}

void Adam::step() {
  float scale = 1.0f;
  if (options_.clip_norm > 0.0f) {
    std::vector<const float*> grads;
    std::vector<int64_t> sizes;
    for (const Parameter* p : parameters_) {
      grads.push_back(p->grad);
      sizes.push_back(p->value.size());
    }
    device_->squared_norm(
        {grads.data(), sizes.data(), static_cast<int64_t>(grads.size()), norm_.as<float>()});
    float squared = 0.0f;
    device_->download(&squared, norm_.as<float>(), sizeof squared);
    if (!std::isfinite(squared))
      throw Error(ErrorCode::numeric, "The gradients' norm is not finite at optimizer step " +
                                          std::to_string(steps_ + 1) + "; lower the learning rate.");
    // The same small constant as torch.nn.utils.clip_grad_norm_.
    const float norm = std::sqrt(squared);
    if (norm > options_.clip_norm) scale = options_.clip_norm / (norm + 1e-6f);
  }
  std::vector<allmrec_adam_tensor> tensors;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    Parameter* p = parameters_[i];
    tensors.push_back({p->value.f32(), p->grad, m_[i].as<float>(), v_[i].as<float>(), p->value.size()});
  }
  const Cancellation whole(nullptr);  // a part of an update is no state a training could go on from
  ++steps_;
  device_->adam({tensors.data(), static_cast<int64_t>(tensors.size()), options_.learning_rate, options_.beta1,
                 options_.beta2, options_.eps, options_.weight_decay, steps_, scale, 1});
}

}  // namespace allmrec
