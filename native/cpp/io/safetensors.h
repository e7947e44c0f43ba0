#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "tensor_file.h"

namespace allmrec::io {

TensorFileContents read_safetensors(const InputFile& file);

// Takes the next bytes of a file.
using Sink = std::function<void(const void* bytes, size_t count)>;

struct TensorToWrite {
  std::string name;
  FileDType dtype = FileDType::F32;
  std::vector<int64_t> shape;
  // float32 elements for F32, F16 and BF16 (rounded to nearest even on the way); elements of the dtype itself
  // for the others. Row-major.
  const void* data = nullptr;
  // Instead of `data`: called when it is the tensor's turn, to hand over elements of the dtype itself piece
  // by piece, so that no more than a piece need be in memory.
  std::function<void(const Sink&)> produce = nullptr;
};

// Hands float32 elements to a sink in another of F32, F16 and BF16.
void put_floats(const Sink& sink, FileDType dtype, const float* data, size_t count);

// Writes beside `path`, flushes to the disk and renames, so a crash leaves the last good file. The bytes
// depend on the content alone, not on the order of `tensors`.
void write_safetensors(const std::string& path, const std::vector<TensorToWrite>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace allmrec::io
