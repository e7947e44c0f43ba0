#include "parameter_set.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "weight_loader.h"

namespace allmrec {
namespace {

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + ")";
}

// Where an entry lies, in bytes from the beginning of its piece of memory.
struct Place {
  Tensor value;
  int64_t begin, end, scales_begin, scales_end;
};

std::vector<Place> places_of(const std::vector<ParameterSet::Entry>& entries) {
  std::vector<Place> places;
  int64_t end = 0, scales_end = 0;
  for (const ParameterSet::Entry& entry : entries) {
    int64_t size = 1;
    for (int64_t axis : entry.shape) size *= axis;
    Place place{};
    Tensor& value = place.value;
    value.rows = entry.shape.size() == 1 ? 1 : entry.shape.front();
    value.cols = value.rows ? size / value.rows : 0;
    value.dtype = entry.dtype;
    if (entry.dtype == ALLMREC_I4 && value.cols % 32 != 0)
      throw Error(ErrorCode::unsupported, "`" + entry.name + "` has rows of " + std::to_string(value.cols) +
                                              " numbers; int4 needs a multiple of 32. Use int8.");
    constexpr int64_t kAlignment = 64;
    place.begin = entry.adjoins ? end : (end + kAlignment - 1) / kAlignment * kAlignment;
    place.end = end = place.begin + value.bytes();
    place.scales_begin = entry.adjoins ? scales_end : (scales_end + kAlignment - 1) / kAlignment * kAlignment;
    place.scales_end = place.scales_begin + scale_bytes(entry.dtype, value.rows, value.cols);
    if (place.scales_end > place.scales_begin)
      scales_end = place.scales_end;
    else
      place.scales_begin = place.scales_end = scales_end;
    places.push_back(place);
  }
  return places;
}

}  // namespace

Parameter& ParameterSet::add(const std::string& name, std::vector<int64_t> shape, int32_t dtype) {
  return *add_together({{name, std::move(shape)}}, dtype).front();
}

std::vector<Parameter*> ParameterSet::add_together(const std::vector<Entry>& entries, int32_t dtype) {
  std::vector<Entry> adjoining = entries;
  for (Entry& entry : adjoining) {
    entry.dtype = dtype;
    entry.adjoins = true;
  }
  return add_all(adjoining);
}

std::vector<Parameter*> ParameterSet::add_all(const std::vector<Entry>& entries) {
  const std::vector<Place> places = places_of(entries);
  if (places.empty()) return {};
  values_.emplace_back(device_, static_cast<size_t>(places.back().end), "weights");
  auto* data = values_.back().as<unsigned char>();
  unsigned char* scales = nullptr;
  if (places.back().scales_end > 0) {
    values_.emplace_back(device_, static_cast<size_t>(places.back().scales_end), "the weights' scales");
    scales = values_.back().as<unsigned char>();
  }
  std::vector<Parameter*> added;
  for (size_t i = 0; i < entries.size(); ++i) {
    auto parameter = std::make_unique<Parameter>();
    parameter->name = entries[i].name;
    parameter->shape = entries[i].shape;
    parameter->value = places[i].value;
    parameter->value.data = data + places[i].begin;
    if (places[i].scales_end > places[i].scales_begin) parameter->scales = scales + places[i].scales_begin;
    added.push_back(parameter.get());
    index_[parameter->name] = parameters_.size();
    parameters_.push_back(std::move(parameter));
  }
  return added;
}

ParameterSet::Sizes ParameterSet::sizes(const std::vector<Entry>& entries) {
  Sizes sizes;
  for (const Place& place : places_of(entries)) {
    sizes.numbers += place.value.size();
    sizes.bytes = place.end + place.scales_end;
  }
  return sizes;
}

Parameter* ParameterSet::find(const std::string& name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : parameters_[it->second].get();
}

void ParameterSet::set_trainable(Parameter& parameter, bool trainable) {
  if (trainable == parameter.trainable()) return;
  if (trainable && parameter.dtype() != ALLMREC_F32)
    throw Error(ErrorCode::unsupported,
                "`" + parameter.name + "` is not stored in float32 and cannot be trained.");
  if (!trainable) {
    parameter.grad = nullptr;
    grads_.erase(&parameter);
    return;
  }
  DeviceBuffer buffer(device_, static_cast<size_t>(parameter.value.size()) * sizeof(float), "gradients");
  device_->fill(buffer.as<float>(), parameter.value.size(), 0.0f);
  parameter.grad = (grads_[&parameter] = std::move(buffer)).as<float>();
}

void ParameterSet::set_trainable(bool trainable) {
  for (auto& parameter : parameters_)
    if (!parameter->derived) set_trainable(*parameter, trainable);
}

std::vector<Parameter*> ParameterSet::trainable() const {
  std::vector<Parameter*> result;
  for (const auto& parameter : parameters_)
    if (parameter->trainable()) result.push_back(parameter.get());
  return result;
}

std::vector<Parameter*> ParameterSet::train_all() {
  set_trainable(true);
  return trainable();
}

void ParameterSet::zero_grad() {
  for (Parameter* parameter : trainable()) device_->fill(parameter->grad, parameter->value.size(), 0.0f);
}

void ParameterSet::write(Parameter& parameter, const std::function<void(float*)>& fn) {
  const Tensor& value = parameter.value;
  if (value.dtype == ALLMREC_F32) return fn(value.f32());
  const DeviceBuffer wide(device_, static_cast<size_t>(value.size()) * sizeof(float));
  fn(wide.as<float>());
  if (parameter.scales)
    device_->quantize(
        {value.rows, value.cols, wide.as<float>(), ALLMREC_F32, value.dtype, value.data, parameter.scales});
  else
    device_->cast({value.size(), wide.as<float>(), ALLMREC_F32, value.data, value.dtype});
}

void ParameterSet::upload(Parameter& parameter, const float* host) {
  const auto bytes = static_cast<size_t>(parameter.value.size()) * sizeof(float);
  write(parameter, [&](float* device) { device_->upload(device, host, bytes); });
}

std::vector<float> ParameterSet::value_to_host(const Parameter& parameter) const {
  const Tensor& value = parameter.value;
  std::vector<float> host(static_cast<size_t>(value.size()));
  const size_t bytes = host.size() * sizeof(float);
  if (value.dtype == ALLMREC_F32) {
    device_->download(host.data(), value.data, bytes);
    return host;
  }
  const DeviceBuffer wide(device_, bytes),
      numbers(device_, static_cast<size_t>(value.rows) * sizeof(int32_t));
  if (parameter.scales) {  // reading every row of it as a table
    std::vector<int32_t> rows(static_cast<size_t>(value.rows));
    std::iota(rows.begin(), rows.end(), 0);
    device_->upload(numbers.as<int32_t>(), rows.data(), rows.size() * sizeof(int32_t));
    allmrec_embedding_args a{};
    a.tokens = value.rows;
    a.cols = value.cols;
    a.ids = numbers.as<int32_t>();
    a.table = value.data;
    a.table_dtype = value.dtype;
    a.table_rows = value.rows;
    a.table_scales = parameter.scales;
    a.scale = 1.0f;
    a.out = wide.as<float>();
    device_->embedding(a);
  } else {
    device_->cast({value.size(), value.data, value.dtype, wide.as<float>(), ALLMREC_F32});
  }
  device_->download(host.data(), wide.as<float>(), bytes);
  return host;
}

std::vector<float> ParameterSet::grad_to_host(const Parameter& parameter) const {
  std::vector<float> host(static_cast<size_t>(parameter.value.size()), 0.0f);
  if (parameter.grad) device_->download(host.data(), parameter.grad, host.size() * sizeof(float));
  return host;
}

void ParameterSet::fill(Parameter& parameter, float value) {
  write(parameter, [&](float* device) { device_->fill(device, parameter.value.size(), value); });
}

uint64_t ParameterSet::stream_of(const Parameter& parameter) const {
  return index_.at(parameter.name) + 1;
}

void ParameterSet::normal(Parameter& parameter, uint64_t seed, float std) {
  write(parameter, [&](float* device) {
    device_->random({parameter.value.size(), seed, stream_of(parameter), 1, 0.0f, std, device});
  });
}

void ParameterSet::uniform(Parameter& parameter, uint64_t seed, float bound) {
  write(parameter, [&](float* device) {
    device_->random({parameter.value.size(), seed, stream_of(parameter), 0, -bound, bound, device});
  });
}

void ParameterSet::xavier_normal(Parameter& parameter, uint64_t seed) {
  if (parameter.shape.size() < 2) return;
  int64_t receptive = 1;
  for (size_t i = 2; i < parameter.shape.size(); ++i) receptive *= parameter.shape[i];
  const double fans = static_cast<double>((parameter.shape[0] + parameter.shape[1]) * receptive);
  normal(parameter, seed, static_cast<float>(std::sqrt(2.0 / fans)));
}

int64_t ParameterSet::count() const {
  int64_t total = 0;
  for (const auto& parameter : parameters_) total += parameter->value.size();
  return total;
}

size_t ParameterSet::bytes() const {
  size_t total = 0;
  for (const DeviceBuffer& buffer : values_) total += buffer.bytes();
  for (const auto& entry : grads_) total += entry.second.bytes();
  return total;
}

namespace {

struct Found {
  const io::TensorFile* file = nullptr;
  const io::TensorInfo* tensor = nullptr;
};

Found find_tensor(const std::vector<std::shared_ptr<const io::TensorFile>>& files, const std::string& name) {
  for (const auto& file : files)
    if (const io::TensorInfo* tensor = file->find(name)) return {file.get(), tensor};
  return {};
}

void expect_shape(const Found& found, std::vector<int64_t> shape, bool padded) {
  const std::vector<int64_t>& actual = found.tensor->shape;
  if (padded && !actual.empty() && !shape.empty() && actual[0] > shape[0]) shape[0] = actual[0];
  if (actual != shape)
    throw Error(ErrorCode::checkpoint, found.file->path() + ": expected tensor `" + found.tensor->name +
                                           "` of shape " + shape_text(shape) + ", got " + shape_text(actual) +
                                           ".");
}

// The scales of a weight that is stored as quants, checked with the shape of the quants; null for any other.
const io::TensorInfo* find_scales(const std::vector<std::shared_ptr<const io::TensorFile>>& files,
                                  const Found& found, const Parameter& parameter) {
  const Found scales = find_tensor(files, scales_name(found.tensor->name));
  if (!scales.tensor) return nullptr;
  const int32_t dtype = parameter.dtype();
  if (!parameter.scales || found.tensor->dtype != quant_file_dtype(dtype) ||
      scales.tensor->dtype != scale_file_dtype(dtype) || scales.file != found.file)
    throw Error(
        ErrorCode::checkpoint,
        found.file->path() + ": tensor `" + found.tensor->name +
            "` is stored quantised; load it in the dtype it is stored in, or the original in another.");
  const Tensor& value = parameter.value;
  expect_shape(found, quant_file_shape(dtype, value.rows, value.cols), false);
  expect_shape(scales, scale_file_shape(dtype, value.rows, value.cols), false);
  return scales.tensor;
}

}  // namespace

void ParameterSet::load(const std::vector<std::shared_ptr<const io::TensorFile>>& files, const Names& names,
                        const std::vector<const Parameter*>& padded) {
  WeightLoader loader(device_);
  for (auto& parameter : parameters_) {
    Found found;
    const std::vector<std::string> alternatives = names(parameter->name);
    for (const std::string& name : alternatives) {
      found = find_tensor(files, name);
      if (found.tensor) break;
    }
    if (!found.tensor)
      throw Error(ErrorCode::checkpoint, "Checkpoint " +
                                             (files.empty() ? "(no file)" : files.front()->path()) +
                                             " lacks the tensor `" + alternatives.front() + "` " +
                                             shape_text(parameter->shape) + ".");
    const io::TensorInfo* scales = find_scales(files, found, *parameter);
    if (!scales)
      expect_shape(found, parameter->shape,
                   std::find(padded.begin(), padded.end(), parameter.get()) != padded.end());
    loader.read(*found.file, *found.tensor, scales, *parameter);
  }
}

std::vector<std::shared_ptr<const io::TensorFile>> open_files(const std::vector<std::string>& paths) {
  std::vector<std::shared_ptr<const io::TensorFile>> files;
  for (const std::string& path : paths) files.push_back(io::TensorFile::open(path));
  return files;
}

}  // namespace allmrec
