#include "contrastive_trainer.h"

#include <algorithm>
#include <numeric>

#include "training_step.h"

namespace allmrec {

ContrastiveTrainer::ContrastiveTrainer(SentenceEncoder& encoder, const AdamOptions& options,
                                       float temperature, uint64_t seed)
    : encoder_(encoder),
      temperature_(temperature),
      seed_(seed),
      arena_(encoder.parameters().device()),
      adam_(encoder.parameters().device(), encoder.parameters().train_all(), options) {}

std::map<std::string, double> ContrastiveTrainer::step(const TokenBatch& texts) {
  if (texts.size() < 4 || texts.size() % 2 != 0)
    throw Error(ErrorCode::invalid_argument,
                "A contrastive step needs an even number of texts, at least four.");
  return finite_step({"The encoder", adam_, {&encoder_.parameters()}}, [&] { return gradients(texts); });
}

std::map<std::string, double> ContrastiveTrainer::gradients(const TokenBatch& texts) {
  arena_.reset();
  Device& device = *encoder_.parameters().device();
  Tape tape(device, arena_, true, seed_, static_cast<uint64_t>(adam_.steps()));
  const int64_t pairs = texts.size() / 2;
  const Tensor vectors = ops::l2_normalize(tape, encoder_.pooled(tape, texts));
  std::vector<int32_t> first(static_cast<size_t>(pairs)), second(static_cast<size_t>(pairs));
  std::iota(first.begin(), first.end(), 0);
  std::iota(second.begin(), second.end(), static_cast<int32_t>(pairs));
  const Tensor a = ops::gather_rows(tape, vectors, tape.ints(first));
  const Tensor b = ops::gather_rows(tape, vectors, tape.ints(second));
  const float scale = 0.5f / static_cast<float>(pairs);
  const Tensor forward = ops::matmul_transposed(tape, a, b, 1.0f / temperature_);
  const Tensor backward = ops::matmul_transposed(tape, b, a, 1.0f / temperature_);
  std::vector<float> cosines(static_cast<size_t>(forward.size()));
  device.download(cosines.data(), forward.data, cosines.size() * sizeof(float));
  ops::cross_entropy_loss(tape, "contrastive", forward, tape.ints(first), scale, 1.0f);
  ops::cross_entropy_loss(tape, "contrastive", backward, tape.ints(first), scale, 1.0f);
  tape.backward();
  std::map<std::string, double> losses = tape.read_losses();
  int64_t right = 0;
  for (int64_t i = 0; i < pairs; ++i) {
    const auto row = cosines.begin() + i * pairs;
    right += std::max_element(row, row + pairs) - row == i;
  }
  losses["accuracy"] = static_cast<double>(right) / static_cast<double>(pairs);
  return losses;
}

}  // namespace allmrec
