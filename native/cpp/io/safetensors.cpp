#include "safetensors.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <set>
#include <tuple>

#include "../core/error.h"
#include "atomic_file.h"
#include "byte_reader.h"
#include "float_bits.h"
#include "json.h"

namespace allmrec::io {

namespace {

constexpr uint64_t kHeaderLimit = 100'000'000;  // the limit of the reference implementation
// A byte of JSON can become tens of bytes of memory, so one tensor's description and the metadata are
// bounded. A tensor takes seven values.
constexpr size_t kMemberValueLimit = size_t{1} << 16;
constexpr size_t kRankLimit = 64;

constexpr FileDType kDTypes[] = {FileDType::F64, FileDType::F32, FileDType::F16, FileDType::BF16,
                                 FileDType::I64, FileDType::I32, FileDType::I16, FileDType::I8,
                                 FileDType::U8,  FileDType::BOOL};

std::optional<FileDType> dtype_named(const std::string& name) {
  for (const FileDType dtype : kDTypes)
    if (name == dtype_name(dtype)) return dtype;
  return std::nullopt;
}

struct Entry {
  TensorInfo tensor;
  uint64_t begin = 0, end = 0;  // in the data section
};

[[noreturn]] void fail(const std::string& where, const std::string& reason) {
  throw Error(ErrorCode::checkpoint, where + ": " + reason);
}

const Json& member(const Json& object, const char* key, const std::string& where) {
  const Json* value = object.find(key);
  if (value == nullptr) fail(where, std::string("expected the key \"") + key + "\", found none");
  return *value;
}

std::vector<int64_t> integers(const Json& object, const char* key, const std::string& where) {
  const Json& value = member(object, key, where);
  const Json::Array* items = value.if_array();
  if (items == nullptr)
    fail(where, std::string("expected \"") + key + "\" to be an array, found " + value.type_name());
  std::vector<int64_t> result;
  if (items->size() > kRankLimit)
    fail(where, "expected at most 64 numbers in \"" + std::string(key) + "\", found " +
                    std::to_string(items->size()));
  for (const Json& item : *items) {
    const int64_t* integer = item.if_int();
    if (integer == nullptr || *integer < 0)
      fail(where, std::string("expected \"") + key + "\" to hold integers of 0 or more, found " +
                      (integer == nullptr ? item.type_name() : std::to_string(*integer)));
    result.push_back(*integer);
  }
  return result;
}

Entry read_entry(const std::string& name, const Json& description, const std::string& path) {
  const std::string where = path + ": tensor " + quoted(name);
  if (description.if_object() == nullptr)
    fail(where, std::string("expected an object, found ") + description.type_name());
  const Json& dtype = member(description, "dtype", where);
  const std::string* dtype_text = dtype.if_string();
  if (dtype_text == nullptr)
    fail(where, std::string("expected \"dtype\" to be a string, found ") + dtype.type_name());
  const std::optional<FileDType> known = dtype_named(*dtype_text);
  if (!known) {
    throw Error(ErrorCode::unsupported,
                where + ": expected dtype F64, F32, F16, BF16, I64, I32, I16, I8, U8 or BOOL, found " +
                    quoted(*dtype_text));
  }
  Entry entry;
  entry.tensor.name = name;
  entry.tensor.dtype = *known;
  entry.tensor.shape = integers(description, "shape", where);
  const std::vector<int64_t> offsets = integers(description, "data_offsets", where);
  if (offsets.size() != 2) fail(where, "expected two data_offsets, found " + std::to_string(offsets.size()));
  const auto count = static_cast<uint64_t>(checked_element_count(entry.tensor.shape, *known, where));
  entry.tensor.bytes = static_cast<size_t>(count) * dtype_size(*known);
  entry.begin = static_cast<uint64_t>(offsets[0]);
  entry.end = static_cast<uint64_t>(offsets[1]);
  if (entry.begin > entry.end || entry.end - entry.begin != entry.tensor.bytes) {
    fail(where, "expected data_offsets " + std::to_string(entry.tensor.bytes) + " bytes apart, found " +
                    std::to_string(entry.begin) + " to " + std::to_string(entry.end));
  }
  return entry;
}

std::map<std::string, std::string> read_metadata(const Json& value, const std::string& path) {
  const std::string where = path + ": __metadata__";
  const Json::Object* members = value.if_object();
  if (members == nullptr) fail(where, std::string("expected an object, found ") + value.type_name());
  std::map<std::string, std::string> metadata;
  for (const auto& [key, text] : *members) {
    if (text.if_string() == nullptr)
      fail(where, "expected " + quoted(key) + " to be a string, found " + text.type_name());
    metadata.emplace(key, *text.if_string());
  }
  return metadata;
}

// Largest alignment first, then by name: the reference's order, which leaves every tensor aligned.
std::vector<const TensorToWrite*> in_file_order(const std::vector<TensorToWrite>& tensors) {
  std::vector<const TensorToWrite*> order;
  for (const TensorToWrite& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const TensorToWrite* a, const TensorToWrite* b) {
    const size_t a_size = dtype_size(a->dtype), b_size = dtype_size(b->dtype);
    return a_size != b_size ? a_size > b_size : a->name < b->name;
  });
  return order;
}

void check_writable(const std::vector<TensorToWrite>& tensors,
                    const std::map<std::string, std::string>& metadata, const std::string& path) {
  std::set<std::string> names;
  for (const TensorToWrite& tensor : tensors) {
    if (!is_valid_utf8(tensor.name) || tensor.name == "__metadata__" || !names.insert(tensor.name).second) {
      throw Error(ErrorCode::invalid_argument,
                  path + ": expected unique tensor names in UTF-8, got \"" + tensor.name + "\"");
    }
    if (checked_element_count(tensor.shape, tensor.dtype, path + ": tensor \"" + tensor.name + "\"") > 0 &&
        tensor.data == nullptr && !tensor.produce)
      throw Error(ErrorCode::invalid_argument, path + ": tensor \"" + tensor.name + "\" has no data");
  }
  for (const auto& [key, text] : metadata) {
    if (!is_valid_utf8(key) || !is_valid_utf8(text))
      throw Error(ErrorCode::invalid_argument, path + ": expected metadata in UTF-8, got \"" + key + "\"");
  }
}

std::string header_text(const std::vector<const TensorToWrite*>& order,
                        const std::map<std::string, std::string>& metadata) {
  Json::Object header;
  if (!metadata.empty()) {
    Json::Object entries;
    for (const auto& [key, text] : metadata) entries.emplace_back(key, Json(text));
    header.emplace_back("__metadata__", Json(std::move(entries)));
  }
  int64_t offset = 0;
  for (const TensorToWrite* tensor : order) {
    const int64_t begin = offset;
    offset += checked_element_count(tensor->shape, tensor->dtype, tensor->name) *
              static_cast<int64_t>(dtype_size(tensor->dtype));
    Json::Array shape(tensor->shape.begin(), tensor->shape.end());
    Json::Object description;
    description.emplace_back("dtype", Json(dtype_name(tensor->dtype)));
    description.emplace_back("shape", Json(std::move(shape)));
    description.emplace_back("data_offsets", Json(Json::Array{Json(begin), Json(offset)}));
    header.emplace_back(tensor->name, Json(std::move(description)));
  }
  std::string text = Json(std::move(header)).to_text();
  text.append((8 - text.size() % 8) % 8, ' ');
  return text;
}

template <typename Convert>
void put_rounded(const Sink& sink, const float* data, size_t count, Convert to_bits) {
  uint16_t chunk[4096];
  for (size_t first = 0; first < count; first += std::size(chunk)) {
    const size_t here = std::min(std::size(chunk), count - first);
    for (size_t i = 0; i < here; ++i) chunk[i] = to_bits(data[first + i]);
    sink(chunk, here * sizeof(uint16_t));
  }
}

void write_produced(AtomicFile& file, const TensorToWrite& tensor, size_t bytes, const std::string& path) {
  size_t written = 0;
  tensor.produce([&](const void* data, size_t count) {
    file.write(data, count);
    written += count;
  });
  if (written != bytes)
    throw Error(ErrorCode::internal, path + ": tensor \"" + tensor.name + "\" has " + std::to_string(bytes) +
                                         " bytes, " + std::to_string(written) + " were produced");
}

}  // namespace

TensorFileContents read_safetensors(const InputFile& file) {
  const std::string& path = file.path();
  ByteReader reader(file, {0, file.size()}, path);
  const auto header_size = reader.read<uint64_t>("header length");
  if (header_size > reader.remaining() || header_size > kHeaderLimit) {
    fail(path, "expected a header of at most " +
                   std::to_string(std::min<uint64_t>(reader.remaining(), kHeaderLimit)) +
                   " bytes, found a length of " + std::to_string(header_size));
  }
  TensorFileContents contents;
  std::vector<Entry> entries;
  Json::parse_members(reader.take_text(header_size, "header"), path, kMemberValueLimit,
                      [&](const std::string& name, const Json& description) {
                        if (name == "__metadata__")
                          contents.metadata = read_metadata(description, path);
                        else
                          entries.push_back(read_entry(name, description, path));
                      });
  const uint64_t data_begin = reader.position(), data_size = reader.remaining();

  // The format allows neither holes nor overlaps, so that no byte of the file is unaccounted for.
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.begin, a.end, a.tensor.name) < std::tie(b.begin, b.end, b.tensor.name);
  });
  uint64_t end = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != end || entry.end > data_size) {
      fail(path + ": tensor " + quoted(entry.tensor.name),
           "expected its data at offset " + std::to_string(end) + " of " + std::to_string(data_size) +
               ", found offsets " + std::to_string(entry.begin) + " to " + std::to_string(entry.end));
    }
    end = entry.end;
  }
  if (end != data_size) {
    fail(path, "expected " + std::to_string(end) + " bytes of data after the header, found " +
                   std::to_string(data_size));
  }

  contents.tensors.reserve(entries.size());
  for (Entry& entry : entries) {
    entry.tensor.offset = data_begin + entry.begin;
    contents.tensors.push_back(std::move(entry.tensor));
  }
  return contents;
}

void put_floats(const Sink& sink, FileDType dtype, const float* data, size_t count) {
  if (dtype == FileDType::F16)
    put_rounded(sink, data, count, half_from_float);
  else if (dtype == FileDType::BF16)
    put_rounded(sink, data, count, bfloat16_from_float);
  else
    sink(data, count * sizeof(float));
}

void write_safetensors(const std::string& path, const std::vector<TensorToWrite>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  check_writable(tensors, metadata, path);
  const std::vector<const TensorToWrite*> order = in_file_order(tensors);
  const std::string header = header_text(order, metadata);
  const auto header_size = static_cast<uint64_t>(header.size());

  AtomicFile file(path);
  file.write(&header_size, sizeof header_size);
  file.write(header.data(), header.size());
  for (const TensorToWrite* tensor : order) {
    const auto count = static_cast<size_t>(checked_element_count(tensor->shape, tensor->dtype, path));
    const size_t bytes = count * dtype_size(tensor->dtype);
    if (tensor->produce)
      write_produced(file, *tensor, bytes, path);
    else if (tensor->dtype == FileDType::F16 || tensor->dtype == FileDType::BF16)
      put_floats([&](const void* data, size_t size) { file.write(data, size); }, tensor->dtype,
                 static_cast<const float*>(tensor->data), count);
    else
      file.write(tensor->data, bytes);
  }
  file.commit();
}

}  // namespace allmrec::io
