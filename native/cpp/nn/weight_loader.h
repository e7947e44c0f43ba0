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

// Brings tensors of files into parameters of any dtype. A tensor is taken in blocks of rows: a team of
// threads reads each in pieces, which are checked for what is not a number while they are in the cache, and
// the device converts it. Where nothing is to be converted the pieces are read into the parameter itself.
// Beside the parameter there is never more than one block.
class WeightLoader {
 public:
  explicit WeightLoader(std::shared_ptr<Device> device);

  // The parameter's rows are the first of the tensor's. scales: those of a tensor stored in the parameter's
  // own int8 or int4, else null. Throws ErrorCode::numeric for a NaN, an infinity, or a value that float16
  // cannot hold.
  void read(const io::TensorFile& file, const io::TensorInfo& tensor, const io::TensorInfo* scales,
            Parameter& parameter);

 private:
  // Elements [first, first + numbers) of a tensor, as the file has them, checked.
  void fetch(const io::TensorFile& file, const io::TensorInfo& tensor, int64_t first, int64_t numbers,
             bool to_half, void* to);
  // The same as float32, for dtypes that devices do not know.
  void fetch_wide(const io::TensorFile& file, const io::TensorInfo& tensor, int64_t first, int64_t numbers,
                  bool to_half, float* to);
  // The same bytes where the device can read them.
  const void* on_device(const void* host, size_t bytes);
  // All elements into memory of the device.
  void copy(const io::TensorFile& file, const io::TensorInfo& tensor, void* to);

  std::shared_ptr<Device> device_;
  bool host_memory_;
  ThreadPool pool_;
  std::vector<float> block_;  // float: aligned for every dtype
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
