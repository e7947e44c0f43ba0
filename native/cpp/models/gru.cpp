#include "gru.h"

namespace allmrec {

Gru::Gru(std::shared_ptr<Device> device, const GruConfig& config)
    : config_(config), parameters_(std::move(device)) {
  const int64_t h = config.hidden_size;
  for (int i = 0; i < config.num_layers; ++i) {
    const std::string suffix = "_l" + std::to_string(i);
    Layer layer{};
    layer.w_ih = &parameters_.add("weight_ih" + suffix, {3 * h, i == 0 ? config.input_size : h});
    layer.w_hh = &parameters_.add("weight_hh" + suffix, {3 * h, h});
    layer.b_ih = &parameters_.add("bias_ih" + suffix, {3 * h});
    layer.b_hh = &parameters_.add("bias_hh" + suffix, {3 * h});
    layers_.push_back(layer);
  }
}

void Gru::load(const std::vector<std::string>& paths) {
  parameters_.load(open_files(paths), [](const std::string& name) { return std::vector<std::string>{name}; });
}

Gru::Output Gru::forward(Tape& tape, const Tensor& x, const std::vector<Tensor>& h0, int64_t batch,
                         int64_t steps) {
  std::vector<int32_t> last(static_cast<size_t>(batch));
  for (int64_t b = 0; b < batch; ++b) last[b] = static_cast<int32_t>((b + 1) * steps - 1);
  const IntTensor last_rows = tape.ints(last);
  Output out;
  out.y = x;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& l = layers_[i];
    out.y = ops::gru_layer(tape, out.y, batch, steps, *l.w_ih, *l.w_hh, *l.b_ih, *l.b_hh, h0[i]);
    out.hn = ops::concat_rows(tape, out.hn, ops::gather_rows(tape, out.y, last_rows));
  }
  return out;
}

}  // namespace allmrec
