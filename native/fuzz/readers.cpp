#include <algorithm>
#include <string>
#include <vector>

#include "../cpp/io/json.h"
#include "../cpp/io/pickle.h"
#include "../cpp/io/safetensors.h"
#include "../cpp/io/tensor_file.h"
#include "../cpp/io/torch_object_graph.h"
#include "../cpp/io/zip_archive.h"
#include "targets.h"

namespace allmrec::fuzz {
namespace {

using namespace allmrec::io;

void read_everything(const TensorFile& file) {
  std::vector<float> values;
  std::vector<int64_t> integers;
  for (const TensorInfo& tensor : file.tensors()) {
    require(file.find(tensor.name) == &tensor, "a tensor is found by its name");
    require(checked_element_count(tensor.shape, tensor.dtype, kLabel) == tensor.element_count(),
            "the elements are those of the shape");
    values.resize(static_cast<size_t>(tensor.element_count()));
    file.read_f32(tensor, values.data());
    if (tensor.dtype != FileDType::F32 && tensor.dtype != FileDType::F16 && tensor.dtype != FileDType::BF16 &&
        tensor.dtype != FileDType::F64) {
      integers.resize(values.size());
      file.read_i64(tensor, integers.data());
    }
  }
  for (const auto& [key, text] : file.metadata())
    require(is_valid_utf8(key) && is_valid_utf8(text), "metadata");
}

}  // namespace

void run_json(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const Json value = Json::parse(text, kLabel);
  const std::string written = value.to_text();
  require(Json::parse(written, kLabel).to_text() == written, "what is written is read back the same");
  if (value.if_object() == nullptr) return;
  Json::Object members;
  Json::parse_members(text, kLabel, size + 1, [&](std::string key, Json member) {
    members.emplace_back(std::move(key), std::move(member));
  });
  require(Json(std::move(members)).to_text() == written, "members are those of the whole");
}

void run_safetensors(const uint8_t* data, size_t size) {
  const auto file = TensorFile::from_bytes(data, size, kLabel);
  read_everything(*file);
  if (std::string_view(file->format()) != "safetensors") return;
  size_t bytes = 0;
  for (const TensorInfo& tensor : file->tensors()) bytes += tensor.bytes;
  require(bytes < size, "tensors do not overlap");
}

void run_torch(const uint8_t* data, size_t size) {
  read_everything(*TensorFile::from_bytes(data, size, kLabel));
}

// A pickle by itself; its storages all lie in the bytes of the pickle.
void run_pickle(const uint8_t* data, size_t size) {
  const auto file = InputFile::from_bytes(data, size, kLabel);
  PickleObjects objects(*file);
  ByteReader reader(*file, {0, size}, kLabel);
  const PickleValue* root = read_pickle(reader, objects);
  StorageBytes storages;
  for (const PickleValue* storage : objects.storages)
    storages.emplace(storage->items[1]->text, ByteRange{0, size});
  const TensorFileContents contents = list_tensors(*file, *root, storages);
  for (const TensorInfo& tensor : contents.tensors)
    require(tensor.gathered != nullptr || tensor.bytes == 0 ||
                (tensor.offset <= size && tensor.bytes <= size - tensor.offset),
            "a tensor lies in its storage");
}

void run_zip(const uint8_t* data, size_t size) {
  const auto file = InputFile::from_bytes(data, size, kLabel);
  const ZipArchive archive(*file);
  std::vector<uint8_t> bytes;
  for (const auto& [name, record] : archive.records()) {
    if (!record.stored) continue;
    require(archive.find(name) == &record, "a record is found by its name");
    ByteReader reader(*file, record.bytes, kLabel);
    reader.take(reader.remaining(), "record");
  }
}

}  // namespace allmrec::fuzz
