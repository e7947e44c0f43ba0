#include "tensor_file.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <string_view>

#include "../core/error.h"
#include "float_bits.h"
#include "json.h"
#include "safetensors.h"
#include "torch_checkpoint.h"

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the formats read here are little-endian and their tensors are used in place"
#endif

namespace allmrec::io {

namespace {

enum class Format { safetensors, torch_zip, torch_legacy };

Format recognise(const InputFile& file) {
  char start[512];
  const auto known = static_cast<size_t>(std::min<uint64_t>(file.size(), sizeof start));
  file.read(0, known, start);
  const std::string_view bytes(start, known);
  const auto starts_with = [&](std::string_view prefix) { return bytes.substr(0, prefix.size()) == prefix; };
  // The length of a safetensors header may look like anything, so its brace is looked at first: byte 8 of
  // a zip file is a compression method, of a torch pickle a byte of its magic number or frame length.
  if (bytes.size() > 8 && bytes[8] == '{') return Format::safetensors;
  if (starts_with("PK\x03\x04") || starts_with("PK\x05\x06")) return Format::torch_zip;
  if (bytes.size() > 1 && bytes[0] == '\x80' && bytes[1] >= 2 && bytes[1] <= 5) return Format::torch_legacy;

  std::string found = "a file of " + std::to_string(file.size()) + " bytes";
  if (starts_with("version https://git-lfs")) {
    found = "a Git LFS pointer (run `git lfs pull` to get the file itself)";
  } else if (bytes.size() > 262 && bytes.substr(257, 5) == "ustar") {
    found = "a tar file (torch before 0.1.10 wrote those; save it again with a newer one)";
  } else if (!bytes.empty()) {
    constexpr char kHex[] = "0123456789abcdef";
    found += " beginning with";
    for (const char c : bytes.substr(0, 8)) {
      const auto byte = static_cast<unsigned char>(c);
      found += std::string(" ") + kHex[byte >> 4] + kHex[byte & 15];
    }
  }
  throw Error(ErrorCode::checkpoint, file.path() +
                                         ": expected a safetensors file or a torch checkpoint "
                                         "(.bin, .pt, .pth), found " +
                                         found);
}

}  // namespace

size_t dtype_size(FileDType dtype) {
  switch (dtype) {
    case FileDType::F64:
    case FileDType::I64:
      return 8;
    case FileDType::F32:
    case FileDType::I32:
      return 4;
    case FileDType::F16:
    case FileDType::BF16:
    case FileDType::I16:
      return 2;
    case FileDType::I8:
    case FileDType::U8:
    case FileDType::BOOL:
      return 1;
  }
  throw Error(ErrorCode::internal, "dtype_size: not a FileDType");
}

const char* dtype_name(FileDType dtype) {
  constexpr const char* kNames[] = {"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"};
  return kNames[static_cast<size_t>(dtype)];
}

int64_t checked_element_count(const std::vector<int64_t>& shape, FileDType dtype, const std::string& where) {
  const auto limit = INT64_MAX / static_cast<int64_t>(dtype_size(dtype));
  int64_t count = 1;
  bool empty = false;
  for (const int64_t size : shape) {
    if (size < 0)
      throw Error(ErrorCode::checkpoint,
                  where + ": expected sizes of 0 or more in the shape, found " + std::to_string(size));
    if (size == 0) {
      empty = true;
      continue;
    }
    if (count > limit / size)
      throw Error(ErrorCode::checkpoint, where + ": the product of the shape overflows");
    count *= size;
  }
  return empty ? 0 : count;
}

std::shared_ptr<const TensorFile> TensorFile::open(const std::string& path) {
  return parse(InputFile::open(path));
}

std::shared_ptr<const TensorFile> TensorFile::from_bytes(const void* bytes, size_t size, std::string label) {
  return parse(InputFile::from_bytes(bytes, size, std::move(label)));
}

std::shared_ptr<const TensorFile> TensorFile::parse(std::shared_ptr<const InputFile> file) {
  std::shared_ptr<TensorFile> result(new TensorFile);
  result->file_ = std::move(file);
  switch (recognise(*result->file_)) {
    case Format::safetensors:
      result->format_ = "safetensors";
      result->contents_ = read_safetensors(*result->file_);
      break;
    case Format::torch_zip:
      result->format_ = "torch zip";
      result->contents_ = read_torch_zip(*result->file_);
      break;
    case Format::torch_legacy:
      result->format_ = "torch legacy";
      result->contents_ = read_torch_legacy(*result->file_);
      break;
  }
  const std::vector<TensorInfo>& tensors = result->contents_.tensors;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (!result->index_.emplace(tensors[i].name, i).second) {
      throw Error(ErrorCode::checkpoint,
                  result->path() + ": two tensors are named " + quoted(tensors[i].name));
    }
  }
  return result;
}

const TensorInfo* TensorFile::find(const std::string& name) const {
  const auto at = index_.find(name);
  return at == index_.end() ? nullptr : &contents_.tensors[at->second];
}

const TensorInfo& TensorFile::require(const std::string& name) const {
  if (const TensorInfo* tensor = find(name)) return *tensor;
  std::string found = std::to_string(tensors().size()) + " others";
  for (size_t i = 0; i < std::min<size_t>(3, tensors().size()); ++i)
    found += (i == 0 ? ": " : ", ") + quoted(tensors()[i].name);
  if (tensors().size() > 3) found += ", …";
  throw Error(ErrorCode::checkpoint, path() + ": expected a tensor " + quoted(name) + ", found " + found);
}

void TensorFile::read(const TensorInfo& tensor, int64_t first, int64_t count, void* to) const {
  if (first < 0 || count < 0 || first > tensor.element_count() - count) {
    throw Error(ErrorCode::invalid_argument, path() + ": expected a range of the " +
                                                 std::to_string(tensor.element_count()) + " elements of " +
                                                 quoted(tensor.name) + ", got " + std::to_string(count) +
                                                 " from " + std::to_string(first));
  }
  const size_t size = dtype_size(tensor.dtype);
  const size_t from = static_cast<size_t>(first) * size, bytes = static_cast<size_t>(count) * size;
  if (bytes == 0) return;
  if (tensor.gathered != nullptr)
    std::memcpy(to, tensor.gathered + from, bytes);
  else
    file_->read(tensor.offset + from, bytes, to);
}

void TensorFile::prefetch(const TensorInfo& tensor, int64_t first, int64_t count) const noexcept {
  const auto size = static_cast<int64_t>(dtype_size(tensor.dtype));
  if (tensor.gathered == nullptr)
    file_->prefetch(tensor.offset + static_cast<uint64_t>(first * size), static_cast<uint64_t>(count * size));
}

template <typename T, typename Convert>
void TensorFile::convert(const TensorInfo& tensor, int64_t first, int64_t count, Convert to_out) const {
  T block[8192];
  constexpr auto kBlock = static_cast<int64_t>(std::size(block));
  for (int64_t done = 0; done < count; done += kBlock) {
    const int64_t here = std::min(kBlock, count - done);
    read(tensor, first + done, here, block);
    for (int64_t i = 0; i < here; ++i) to_out(done + i, block[i]);
  }
}

void TensorFile::read_f32(const TensorInfo& tensor, float* out) const {
  read_f32(tensor, 0, tensor.element_count(), out);
}

void TensorFile::read_f32(const TensorInfo& tensor, int64_t first, int64_t count, float* out) const {
  const auto as_float = [out](int64_t i, auto value) { out[i] = static_cast<float>(value); };
  switch (tensor.dtype) {
    case FileDType::F32:
      return read(tensor, first, count, out);
    case FileDType::F16:
      return convert<uint16_t>(tensor, first, count,
                               [out](int64_t i, uint16_t bits) { out[i] = float_from_half(bits); });
    case FileDType::BF16:
      return convert<uint16_t>(tensor, first, count,
                               [out](int64_t i, uint16_t bits) { out[i] = float_from_bfloat16(bits); });
    case FileDType::F64:
      return convert<double>(tensor, first, count, as_float);
    case FileDType::I64:
      return convert<int64_t>(tensor, first, count, as_float);
    case FileDType::I32:
      return convert<int32_t>(tensor, first, count, as_float);
    case FileDType::I16:
      return convert<int16_t>(tensor, first, count, as_float);
    case FileDType::I8:
      return convert<int8_t>(tensor, first, count, as_float);
    case FileDType::U8:
      return convert<uint8_t>(tensor, first, count, as_float);
    case FileDType::BOOL:
      return convert<uint8_t>(tensor, first, count,
                              [out](int64_t i, uint8_t flag) { out[i] = flag != 0 ? 1.0f : 0.0f; });
  }
}

void TensorFile::read_i64(const TensorInfo& tensor, int64_t* out) const {
  const int64_t count = tensor.element_count();
  const auto as_int = [out](int64_t i, auto value) { out[i] = value; };
  switch (tensor.dtype) {
    case FileDType::I64:
      return read(tensor, 0, count, out);
    case FileDType::I32:
      return convert<int32_t>(tensor, 0, count, as_int);
    case FileDType::I16:
      return convert<int16_t>(tensor, 0, count, as_int);
    case FileDType::I8:
      return convert<int8_t>(tensor, 0, count, as_int);
    case FileDType::U8:
      return convert<uint8_t>(tensor, 0, count, as_int);
    case FileDType::BOOL:
      return convert<uint8_t>(tensor, 0, count, [out](int64_t i, uint8_t flag) { out[i] = flag != 0; });
    case FileDType::F64:
    case FileDType::F32:
    case FileDType::F16:
    case FileDType::BF16:
      break;
  }
  throw Error(ErrorCode::checkpoint, path() + ": expected an integer tensor " + quoted(tensor.name) +
                                         ", found dtype " + dtype_name(tensor.dtype));
}

}  // namespace allmrec::io
