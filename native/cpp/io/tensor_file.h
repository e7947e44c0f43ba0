#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "mapped_file.h"

namespace allmrec::io {

enum class FileDType { F64, F32, F16, BF16, I64, I32, I16, I8, U8, BOOL };

size_t dtype_size(FileDType dtype);       // bytes of one element
const char* dtype_name(FileDType dtype);  // as safetensors spells it: "F32", "BF16", …

struct TensorInfo {
  std::string name;
  FileDType dtype = FileDType::F32;
  std::vector<int64_t> shape;
  // Row-major elements. Into the mapping, or into memory the TensorFile owns where a torch checkpoint holds
  // them strided or unaligned; valid as long as the TensorFile lives. Tied weights share it. Aligned to their
  // size, but for safetensors files of early writers.
  const void* data = nullptr;
  size_t bytes = 0;

  int64_t element_count() const { return static_cast<int64_t>(bytes / dtype_size(dtype)); }
};

// What a reader of one format hands over.
struct TensorFileContents {
  std::vector<TensorInfo> tensors;
  std::map<std::string, std::string> metadata;
  std::vector<std::unique_ptr<uint8_t[]>> owned;
};

// A checkpoint of any format read here, told apart by content: safetensors, torch's zip checkpoint, torch's
// older stream of pickles. Immutable once open, so threads may share it.
class TensorFile {
 public:
  static std::shared_ptr<const TensorFile> open(const std::string& path);
  static std::shared_ptr<const TensorFile> from_bytes(const void* bytes, size_t size, std::string label);

  const std::string& path() const { return file_->path(); }
  const char* format() const { return format_; }  // "safetensors", "torch zip" or "torch legacy"

  const std::vector<TensorInfo>& tensors() const { return contents_.tensors; }  // in the order of the file
  const TensorInfo* find(const std::string& name) const;                        // null when missing
  const TensorInfo& require(const std::string& name) const;  // throws ErrorCode::checkpoint

  // See MappedFile.
  void prefetch(const void* from, size_t bytes) const noexcept { file_->prefetch(from, bytes); }
  void release(const void* from, size_t bytes) const noexcept { file_->release(from, bytes); }

  // safetensors: its __metadata__. torch: the values that are no tensors, keyed like tensors ("args.lr");
  // text as it is, everything else as JSON.
  const std::map<std::string, std::string>& metadata() const { return contents_.metadata; }

 private:
  TensorFile() = default;
  static std::shared_ptr<const TensorFile> read(std::shared_ptr<const MappedFile> file);

  std::shared_ptr<const MappedFile> file_;
  const char* format_ = "";
  TensorFileContents contents_;
  std::unordered_map<std::string, size_t> index_;
};

// Converts to float32; every F16 and BF16 value exactly, F64 and integers rounded to nearest even.
void read_f32(const TensorInfo& tensor, float* out);
void read_f32(const TensorInfo& tensor, int64_t first, int64_t count, float* out);  // a range of elements

// Integer and BOOL tensors only.
void read_i64(const TensorInfo& tensor, int64_t* out);

// The elements a shape holds. Throws with `where` when a size is negative or the product or its bytes
// overflow, whatever the order of the sizes (a zero among them hides no overflow).
int64_t checked_element_count(const std::vector<int64_t>& shape, FileDType dtype, const std::string& where);

}  // namespace allmrec::io
