#include <cmath>
#include <cstdlib>

#include "../io/safetensors.h"
#include "../io/tensor_file.h"
#include "../nn/weight_loader.h"
#include "model_wrap.h"
#include "trainer_wrap.h"

// What models and trainers write to files, and trainers read back.
namespace allmrec::binding {
namespace {

constexpr const char* kSteps = "adam.steps";

std::string moment_name(const char* which, size_t i) {
  return std::string("adam.") + which + "." + std::to_string(i);
}

}  // namespace

void save_model(ParameterSet& parameters, const std::string& path,
                const std::map<std::string, std::string>& metadata, std::optional<io::FileDType> dtype) {
  std::vector<io::TensorToWrite> tensors;
  for (const auto& parameter : parameters.all()) {
    const Parameter& p = *parameter;
    if (!dtype) {
      for (io::TensorToWrite& tensor : tensors_as_stored(parameters.device(), p))
        tensors.push_back(std::move(tensor));
      continue;
    }
    tensors.push_back({p.name, *dtype, p.shape, nullptr, [&parameters, &p, dtype](const io::Sink& sink) {
                         const std::vector<float> values = parameters.value_to_host(p);
                         io::put_floats(sink, *dtype, values.data(), values.size());
                       }});
  }
  io::write_safetensors(path, tensors, metadata);
}

void save_optimizer(Device& device, const Adam& adam, const std::string& path,
                    std::map<std::string, std::string> metadata) {
  std::vector<std::vector<float>> values;
  std::vector<io::TensorToWrite> tensors;
  auto add = [&](const std::string& name, const Parameter& p, const float* moment) {
    values.emplace_back(static_cast<size_t>(p.value.size()));
    device.download(values.back().data(), moment, values.back().size() * sizeof(float));
    tensors.push_back({name, io::FileDType::F32, p.shape, values.back().data()});
  };
  for (size_t i = 0; i < adam.parameters().size(); ++i) {
    add(moment_name("m", i), *adam.parameters()[i], adam.first_moment(i));
    add(moment_name("v", i), *adam.parameters()[i], adam.second_moment(i));
  }
  metadata[kSteps] = std::to_string(adam.steps());
  io::write_safetensors(path, tensors, metadata);
}

void load_optimizer(Device& device, Adam& adam, const std::string& path) {
  const std::shared_ptr<const io::TensorFile> file = io::TensorFile::open(path);
  const auto bad = [&path](const std::string& what) {
    throw Error(ErrorCode::checkpoint, path + " does not fit this trainer: " + what);
  };
  const auto text = file->metadata().find(kSteps);
  if (text == file->metadata().end()) bad("it has no adam.steps.");
  char* end = nullptr;
  const long long steps = std::strtoll(text->second.c_str(), &end, 10);
  if (end == text->second.c_str() || *end != '\0' || steps < 0) bad("adam.steps is `" + text->second + "`.");
  const size_t count = adam.parameters().size();
  if (file->tensors().size() != 2 * count)
    bad("it has " + std::to_string(file->tensors().size()) + " tensors, not " + std::to_string(2 * count) +
        ".");
  // Everything is read before anything is changed.
  std::vector<std::vector<float>> values;
  for (size_t i = 0; i < count; ++i) {
    const Parameter& p = *adam.parameters()[i];
    for (const char* which : {"m", "v"}) {
      const io::TensorInfo* tensor = file->find(moment_name(which, i));
      if (tensor == nullptr) bad("it lacks `" + moment_name(which, i) + "`.");
      if (tensor->shape != p.shape) bad("`" + tensor->name + "` has not the shape of `" + p.name + "`.");
      values.emplace_back(static_cast<size_t>(p.value.size()));
      file->read_f32(*tensor, values.back().data());
      for (float value : values.back())
        if (!std::isfinite(value)) bad("`" + tensor->name + "` holds a NaN or an infinity.");
    }
  }
  const Cancellation whole(nullptr);
  for (size_t i = 0; i < count; ++i) {
    device.upload(adam.first_moment(i), values[2 * i].data(), values[2 * i].size() * sizeof(float));
    device.upload(adam.second_moment(i), values[2 * i + 1].data(), values[2 * i + 1].size() * sizeof(float));
  }
  adam.set_steps(steps);
}

AdamOptions read_adam(const Fields& options) {
  AdamOptions adam;
  adam.learning_rate = options.number("learningRate", 0, 1e6);
  // Moments that never forget are divided by zero, and so is a gradient of zero without eps.
  adam.beta1 = options.number_or("beta1", adam.beta1, 0, 1 - 1e-6);
  adam.beta2 = options.number_or("beta2", adam.beta2, 0, 1 - 1e-6);
  adam.eps = options.number_or("eps", adam.eps, 1e-30, 1);
  adam.weight_decay = options.number_or("weightDecay", adam.weight_decay, 0, 1e6);
  adam.clip_norm = options.number_or("clipNorm", adam.clip_norm, 0, 1e30);
  return adam;
}

}  // namespace allmrec::binding
