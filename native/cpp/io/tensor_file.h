#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "input_file.h"

namespace allmrec::io {

enum class FileDType { F64, F32, F16, BF16, I64, I32, I16, I8, U8, BOOL };

size_t dtype_size(FileDType dtype);       // bytes of one element
const char* dtype_name(FileDType dtype);  // as safetensors spells it: "F32", "BF16", …

struct TensorInfo {
  std::string name;
  FileDType dtype = FileDType::F32;
  std::vector<int64_t> shape;
  // Where its elements lie in the file, row-major and of any alignment. Tied weights share them.
  uint64_t offset = 0;
  // Not null where a torch checkpoint holds them strided: a row-major copy that the TensorFile owns.
  const uint8_t* gathered = nullptr;
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

  // Elements [first, first + count) of a tensor of this file, as they are stored. These and the two below
  // throw ErrorCode::checkpoint where the file has changed under us or cannot be read.
  void read(const TensorInfo& tensor, int64_t first, int64_t count, void* to) const;
  void prefetch(const TensorInfo& tensor, int64_t first, int64_t count) const noexcept;

  // Converted to float32; every F16 and BF16 value exactly, F64 and integers rounded to nearest even.
  void read_f32(const TensorInfo& tensor, float* out) const;
  void read_f32(const TensorInfo& tensor, int64_t first, int64_t count, float* out) const;

  // Integer and BOOL tensors only.
  void read_i64(const TensorInfo& tensor, int64_t* out) const;

  // safetensors: its __metadata__. torch: the values that are no tensors, keyed like tensors ("args.lr");
  // text as it is, everything else as JSON.
  const std::map<std::string, std::string>& metadata() const { return contents_.metadata; }

 private:
  TensorFile() = default;
  static std::shared_ptr<const TensorFile> parse(std::shared_ptr<const InputFile> file);

  template <typename T, typename Convert>
  void convert(const TensorInfo& tensor, int64_t first, int64_t count, Convert to_out) const;

  std::shared_ptr<const InputFile> file_;
  const char* format_ = "";
  TensorFileContents contents_;
  std::unordered_map<std::string, size_t> index_;
};

// The elements a shape holds. Throws with `where` when a size is negative or the product or its bytes
// overflow, whatever the order of the sizes (a zero among them hides no overflow).
int64_t checked_element_count(const std::vector<int64_t>& shape, FileDType dtype, const std::string& where);

}  // namespace allmrec::io
