// Loading of weights. An input is no file but choices: each tensor a model asks for is left out, renamed,
// repeated, of another dtype or shape, or right, so that every input gets beyond the header of its files.

#include <cmath>
#include <string>
#include <vector>

#include "../cpp/backend/registry.h"
#include "../cpp/nn/parameter_set.h"
#include "../cpp/nn/weight_loader.h"
#include "host_backend.h"
#include "targets.h"

namespace allmrec {

// The device is given; none is looked for.
const allmrec_backend* find_backend(const std::string& name) {
  throw Error(ErrorCode::internal, "no back end is linked: " + name);
}
std::vector<BackendEntry> list_backends() {
  return {};
}

namespace fuzz {
namespace {

using io::FileDType;
using Shape = std::vector<int64_t>;

class Choices {
 public:
  Choices(const uint8_t* data, size_t size) : at_(data), end_(data + size) {}
  uint8_t next() { return at_ == end_ ? 128 : *at_++; }

 private:
  const uint8_t *at_, *end_;
};

struct Written {
  std::string entries, data;

  void add(const std::string& name, FileDType dtype, const Shape& shape, const std::string& bytes,
           int shift) {
    std::string sizes;
    for (const int64_t size : shape) sizes += (sizes.empty() ? "" : ",") + std::to_string(size);
    const size_t begin = data.size() + static_cast<size_t>(shift);
    entries += (entries.empty() ? "\"" : ",\"") + name + "\":{\"dtype\":\"" + io::dtype_name(dtype) +
               "\",\"shape\":[" + sizes + "],\"data_offsets\":[" + std::to_string(begin) + "," +
               std::to_string(begin + bytes.size()) + "]}";
    data += bytes;
  }

  std::shared_ptr<const io::TensorFile> open() const {
    const std::string header = "{" + entries + "}";
    const uint64_t length = header.size();
    const std::string bytes =
        std::string(reinterpret_cast<const char*>(&length), sizeof length) + header + data;
    return io::TensorFile::from_bytes(bytes.data(), bytes.size(), kLabel);
  }
};

FileDType choose_dtype(Choices& choices, FileDType right) {
  const uint8_t choice = choices.next();
  return choice >= 64 ? right : static_cast<FileDType>(choice % 10);
}

Shape choose_shape(Choices& choices, Shape shape) {
  const uint8_t choice = choices.next();
  if (choice >= 48) return shape;
  if (choice < 8) return {};
  if (choice < 16) return {choice % 8};
  if (choice < 24) shape.push_back(choice % 3);
  if (choice < 32) shape.front() += choice % 4;
  if (choice >= 32) shape.back() += choice % 4 - 1;
  return shape;
}

// Two bytes repeated: zeros, ordinary numbers, infinities and NaN of any dtype are all two choices away.
std::string choose_values(Choices& choices, FileDType dtype, const Shape& shape) {
  const auto count = static_cast<size_t>(io::checked_element_count(shape, dtype, kLabel));
  std::string bytes(count * io::dtype_size(dtype), '\0');
  const uint8_t even = choices.next(), odd = choices.next();
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i % 2 == 0 ? even : odd);
  return bytes;
}

void write_tensor(Choices& choices, Written (&files)[2], const std::string& name, FileDType right,
                  const Shape& right_shape) {
  const uint8_t presence = choices.next();
  if (presence == 0) return;
  const FileDType dtype = choose_dtype(choices, right);
  const Shape shape = choose_shape(choices, right_shape);
  const std::string values = choose_values(choices, dtype, shape);
  Written& file = files[presence == 1];
  file.add(presence == 2 ? "model." + name : name, dtype, shape, values, presence == 3 ? presence : 0);
  if (presence == 4 || presence == 5) files[presence == 4].add(name, dtype, shape, values, 0);
}

}  // namespace

void run_weights(const uint8_t* data, size_t size) {
  Choices choices(data, size);
  ParameterSet model(host_device(choices.next() % 2 == 0 ? "cpu" : "other"));
  const Parameter& embedding = model.add("embed.weight", {5, 4});
  model.add("norm.bias", {4});
  model.add("conv.weight", {2, 3, 4});
  model.add("half.weight", {3, 32}, ALLMREC_F16);
  model.add("brain.weight", {3, 32}, ALLMREC_BF16);
  model.add("eight.weight", {3, 32}, ALLMREC_I8);
  model.add("four.weight", {3, 64}, ALLMREC_I4);

  Written files[2];
  for (const auto& parameter : model.all()) {
    const Parameter& p = *parameter;
    if (p.scales == nullptr || choices.next() % 2 == 0) {
      write_tensor(choices, files, p.name, FileDType::F32, p.shape);
    } else {
      write_tensor(choices, files, p.name, quant_file_dtype(p.dtype()),
                   quant_file_shape(p.dtype(), p.value.rows, p.value.cols));
      write_tensor(choices, files, scales_name(p.name), scale_file_dtype(p.dtype()),
                   scale_file_shape(p.dtype(), p.value.rows, p.value.cols));
    }
  }
  model.load({files[0].open(), files[1].open()},
             [](const std::string& name) {
               return std::vector<std::string>{name, "model." + name};
             },
             {&embedding});
  for (const auto& parameter : model.all())
    for (int64_t i = 0; parameter->dtype() == ALLMREC_F32 && i < parameter->value.size(); ++i)
      require(std::isfinite(parameter->value.f32()[i]), "a loaded weight is finite");
}

}  // namespace fuzz
}  // namespace allmrec
