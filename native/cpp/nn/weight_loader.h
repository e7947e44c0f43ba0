#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../autograd/parameter.h"
#include "../backend/device.h"
#include "../core/thread_pool.h"
#include "../io/safetensors.h"

namespace allmrec {

// Brings tensors of mapped files into parameters of any dtype. A tensor is taken in blocks of rows: each is
// checked for what is not a number by a team of threads (which also brings its pages in), converted by the
// device straight from the mapping, and its pages are given back. Beside the parameter there is never more
// than one block.
class WeightLoader {
 public:
  explicit WeightLoader(std::shared_ptr<Device> device);

  // The parameter's rows are the first of the tensor's. scales: those of a tensor stored in the parameter's
  // own int8 or int4, else null. Throws ErrorCode::numeric for a NaN, an infinity, or a value that float16
  // cannot hold.
  void read(const io::TensorFile& file, const io::TensorInfo& tensor, const io::TensorInfo* scales,
            Parameter& parameter);

 private:
  // Rows of `numbers` elements each of one tensor, in blocks: fn(first row, rows, the file's bytes).
  template <typename Fn>
  void blocks(const io::TensorFile& file, const io::TensorInfo& tensor, int64_t rows, int64_t numbers,
              Fn&& fn);
  void check(const io::TensorFile& file, const io::TensorInfo& tensor, const void* data, int64_t numbers,
             io::FileDType dtype, bool to_half);
  // The same bytes where the device can read them.
  const void* on_device(const void* host, size_t bytes);
  void copy(const io::TensorFile& file, const io::TensorInfo& tensor, int64_t rows, int64_t numbers,
            void* to);

  std::shared_ptr<Device> device_;
  bool host_memory_;
  ThreadPool pool_;
  std::vector<unsigned char> aligned_;
  std::vector<float> wide_;
  DeviceBuffer staging_;
};

// A parameter as tensors of a file, in its own dtype, read from the device in blocks when they are written.
std::vector<io::TensorToWrite> tensors_as_stored(const std::shared_ptr<Device>& device,
                                                 const Parameter& parameter);

// The names and shapes of a quantised weight in a file: the quants under the weight's own name, int8 as I8
// (rows, cols), int4 as U8 (rows, cols / 2); the scales under this one, F32 (rows) or F16 (rows, cols / 32).
std::string scales_name(const std::string& weight);
io::FileDType quant_file_dtype(int32_t dtype);
std::vector<int64_t> quant_file_shape(int32_t dtype, int64_t rows, int64_t cols);
io::FileDType scale_file_dtype(int32_t dtype);
std::vector<int64_t> scale_file_shape(int32_t dtype, int64_t rows, int64_t cols);

}  // namespace allmrec
