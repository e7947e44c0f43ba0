#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../autograd/ops.h"
#include "../nn/parameter_set.h"

namespace allmrec {

struct GruConfig {
  int input_size = 1;
  int hidden_size = 1;
  int num_layers = 1;
};

// torch.nn.GRU (batch first), there to compare the op with PyTorch's.
class Gru {
 public:
  Gru(std::shared_ptr<Device> device, const GruConfig& config);
  void load(const std::vector<std::string>& paths);

  struct Output {
    Tensor y;   // (B·S, H): the last layer's hidden states
    Tensor hn;  // (L·B, H): every layer's state after the last step
  };
  // x (B·S, I); h0: one (B, H) for each layer.
  Output forward(Tape& tape, const Tensor& x, const std::vector<Tensor>& h0, int64_t batch, int64_t steps);

  const GruConfig& config() const { return config_; }
  ParameterSet& parameters() { return parameters_; }

 private:
  struct Layer {
    Parameter *w_ih, *w_hh, *b_ih, *b_hh;
  };
  GruConfig config_;
  ParameterSet parameters_;
  std::vector<Layer> layers_;
};

}  // namespace allmrec
