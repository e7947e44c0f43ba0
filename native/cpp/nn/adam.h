#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../autograd/parameter.h"
#include "../backend/device.h"

namespace allmrec {

struct AdamOptions {
  float learning_rate = 1e-3f;
  float beta1 = 0.9f;
  float beta2 = 0.98f;
  float eps = 1e-8f;
  float weight_decay = 0.0f;
  float clip_norm = 0.0f;  // 0 = no clipping of the gradients' global norm
};

// Adam as in torch.optim.Adam, over the trainable parameters of one or more models.
class Adam {
 public:
  Adam(std::shared_ptr<Device> device, std::vector<Parameter*> parameters, AdamOptions options);

  // Applies and clears the gradients, unless the sum of their squares is not finite: then nothing is changed,
  // and the answer is false. Waits for the device.
  bool try_step();
  // Applies and clears the gradients without looking at them, for a recording; without clipping, which needs
  // their norm.
  void step_unseen() { apply(1.0f); }
  void set_learning_rate(float value) { options_.learning_rate = value; }
  const AdamOptions& options() const { return options_; }

  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }

  // Copies of weights and moments on the device, to go back to.
  struct State {
    std::vector<DeviceBuffer> values, m, v;
    int64_t steps = 0;
  };
  void save(State& state) const;
  void restore(const State& state);
  // Whether the sum of the weights' squares is finite. Waits for the device.
  bool weights_finite();

  const std::vector<Parameter*>& parameters() const { return parameters_; }
  float* first_moment(size_t i) const { return m_[i].as<float>(); }
  float* second_moment(size_t i) const { return v_[i].as<float>(); }

 private:
  void apply(float grad_scale);
  // Σ x² over all parameters' gradients or values.
  float squared_norm(const float* (*of)(const Parameter&));

  std::shared_ptr<Device> device_;
  std::vector<Parameter*> parameters_;
  AdamOptions options_;
  std::vector<DeviceBuffer> m_, v_;
  DeviceBuffer norm_;
  int64_t steps_ = 0;
};

}  // namespace allmrec
