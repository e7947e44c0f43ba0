#include "weight_loader.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "../io/json.h"

namespace allmrec {
namespace {

using io::FileDType;

constexpr int64_t kBlockBytes = 8 << 20;
constexpr int64_t kPieceBytes = 256 << 10;  // of one task

constexpr const char *kNotFinite = "a NaN or an infinity", *kBadQuant = "a quant of −128",
                     *kTooLarge = "a value that float16 cannot hold (use bfloat16)";

bool is_cpu(const Device& device) {
  return std::strcmp(device.backend_name(), "cpu") == 0;
}

int32_t device_dtype(FileDType dtype) {
  switch (dtype) {
    case FileDType::F16:
      return ALLMREC_F16;
    case FileDType::BF16:
      return ALLMREC_BF16;
    default:
      return ALLMREC_F32;
  }
}

bool is_device_dtype(FileDType dtype) {
  return dtype == FileDType::F32 || dtype == FileDType::F16 || dtype == FileDType::BF16;
}

// Whether a magnitude is `limit` or more, as bits: all that order as integers.
template <typename Bits>
bool reaches(const void* data, int64_t n, Bits mask, Bits limit) {
  const auto* bits = static_cast<const Bits*>(data);
  Bits found = 0;
  for (int64_t i = 0; i < n; ++i) found |= static_cast<Bits>((bits[i] & mask) >= limit);
  return found != 0;
}

// The least bits of a magnitude that is not to be: infinity, or what rounds to infinity in float16.
bool has_bad(FileDType dtype, const void* data, int64_t n, bool to_half) {
  switch (dtype) {
    case FileDType::F16:
      return reaches<uint16_t>(data, n, 0x7fff, 0x7c00);
    case FileDType::BF16:
      return reaches<uint16_t>(data, n, 0x7fff, to_half ? 0x4780 : 0x7f80);  // 65536
    case FileDType::I8: {                                                    // quants are symmetric
      const auto* quants = static_cast<const int8_t*>(data);
      return std::any_of(quants, quants + n, [](int8_t q) { return q == -128; });
    }
    case FileDType::U8:
      return false;
    default:
      return reaches<uint32_t>(data, n, 0x7fffffff, to_half ? 0x477ff000 : 0x7f800000);  // 65520
  }
}

[[noreturn]] void fail(const io::TensorFile& file, const io::TensorInfo& tensor, const char* what) {
  throw Error(ErrorCode::numeric,
              file.path() + ": tensor " + io::quoted(tensor.name) + " holds " + what + ".");
}

}  // namespace

std::string scales_name(const std::string& weight) {
  return weight + ".scales";
}

FileDType quant_file_dtype(int32_t dtype) {
  return dtype == ALLMREC_I8 ? FileDType::I8 : FileDType::U8;
}

std::vector<int64_t> quant_file_shape(int32_t dtype, int64_t rows, int64_t cols) {
  return {rows, dtype == ALLMREC_I8 ? cols : cols / 2};
}

FileDType scale_file_dtype(int32_t dtype) {
  return dtype == ALLMREC_I8 ? FileDType::F32 : FileDType::F16;
}

std::vector<int64_t> scale_file_shape(int32_t dtype, int64_t rows, int64_t cols) {
  if (dtype == ALLMREC_I8) return {rows};
  return {rows, cols / 32};
}

std::vector<io::TensorToWrite> tensors_as_stored(const std::shared_ptr<Device>& device,
                                                 const Parameter& parameter) {
  const Tensor& value = parameter.value;
  const auto produce = [device](const void* data, int64_t bytes) {
    return [device, data, bytes](const io::Sink& sink) {
      std::vector<unsigned char> block(static_cast<size_t>(std::min(bytes, kBlockBytes)));
      for (int64_t at = 0; at < bytes; at += kBlockBytes) {
        const auto count = static_cast<size_t>(std::min(kBlockBytes, bytes - at));
        device->download(block.data(), static_cast<const unsigned char*>(data) + at, count);
        sink(block.data(), count);
      }
    };
  };
  io::TensorToWrite tensor;
  tensor.name = parameter.name;
  tensor.produce = produce(value.data, value.bytes());
  if (!parameter.scales) {
    tensor.dtype = value.dtype == ALLMREC_F16    ? FileDType::F16
                   : value.dtype == ALLMREC_BF16 ? FileDType::BF16
                                                 : FileDType::F32;
    tensor.shape = parameter.shape;
    return {tensor};
  }
  tensor.dtype = quant_file_dtype(value.dtype);
  tensor.shape = quant_file_shape(value.dtype, value.rows, value.cols);
  io::TensorToWrite scales;
  scales.name = scales_name(parameter.name);
  scales.dtype = scale_file_dtype(value.dtype);
  scales.shape = scale_file_shape(value.dtype, value.rows, value.cols);
  scales.produce = produce(parameter.scales, scale_bytes(value.dtype, value.rows, value.cols));
  return {tensor, scales};
}

WeightLoader::WeightLoader(std::shared_ptr<Device> device)
    : device_(std::move(device)),
      host_memory_(is_cpu(*device_)),
      pool_(host_memory_ ? device_->info().threads : 0) {}

void WeightLoader::fetch(const io::TensorFile& file, const io::TensorInfo& tensor, int64_t first,
                         int64_t numbers, bool to_half, void* to) {
  const auto size = static_cast<int64_t>(io::dtype_size(tensor.dtype));
  std::atomic<bool> bad{false}, too_large{false};
  pool_.parallel_for(numbers, kPieceBytes / size, [&](int64_t begin, int64_t end, int) {
    auto* piece = static_cast<unsigned char*>(to) + begin * size;
    file.read(tensor, first + begin, end - begin, piece);
    if (has_bad(tensor.dtype, piece, end - begin, false)) bad = true;
    if (to_half && has_bad(tensor.dtype, piece, end - begin, true)) too_large = true;
  });
  if (bad) fail(file, tensor, tensor.dtype == FileDType::I8 ? kBadQuant : kNotFinite);
  if (too_large) fail(file, tensor, kTooLarge);
}

void WeightLoader::fetch_wide(const io::TensorFile& file, const io::TensorInfo& tensor, int64_t first,
                              int64_t numbers, bool to_half, float* to) {
  file.read_f32(tensor, first, numbers, to);
  if (has_bad(FileDType::F32, to, numbers, false)) fail(file, tensor, kNotFinite);
  if (to_half && has_bad(FileDType::F32, to, numbers, true)) fail(file, tensor, kTooLarge);
}

const void* WeightLoader::on_device(const void* host, size_t bytes) {
  if (host_memory_) return host;
  if (staging_.bytes() < bytes) staging_ = DeviceBuffer(device_, bytes);
  device_->upload(staging_.as<void>(), host, bytes);
  return staging_.as<void>();
}

void WeightLoader::copy(const io::TensorFile& file, const io::TensorInfo& tensor, void* to) {
  const auto size = static_cast<int64_t>(io::dtype_size(tensor.dtype));
  const int64_t numbers = tensor.element_count(), step = kBlockBytes / size;
  auto* out = static_cast<unsigned char*>(to);
  if (!host_memory_) block_.resize(static_cast<size_t>(kBlockBytes) / sizeof(float));
  for (int64_t at = 0; at < numbers; at += step, out += step * size) {
    const int64_t count = std::min(step, numbers - at);
    file.prefetch(tensor, at + count, std::min(step, numbers - at - count));
    fetch(file, tensor, at, count, false, host_memory_ ? out : static_cast<void*>(block_.data()));
    if (!host_memory_) device_->upload(out, block_.data(), static_cast<size_t>(count * size));
  }
}

void WeightLoader::read(const io::TensorFile& file, const io::TensorInfo& tensor,
                        const io::TensorInfo* scales, Parameter& parameter) {
  const Tensor& value = parameter.value;
  if (scales) {
    copy(file, tensor, value.data);
    return copy(file, *scales, parameter.scales);
  }
  if (value.size() == 0) return;
  const bool to_half = value.dtype == ALLMREC_F16, known = is_device_dtype(tensor.dtype);
  const FileDType dtype = known ? tensor.dtype : FileDType::F32;
  const bool in_place = host_memory_ && !parameter.scales && device_dtype(dtype) == value.dtype;
  const auto row_bytes = value.cols * static_cast<int64_t>(io::dtype_size(dtype));
  const int64_t step = std::max<int64_t>(1, kBlockBytes / row_bytes);
  for (int64_t row = 0; row < value.rows; row += step) {
    const int64_t count = std::min(step, value.rows - row), n = count * value.cols;
    const int64_t ahead = std::min(step, value.rows - row - count) * value.cols;
    file.prefetch(tensor, (row + count) * value.cols, ahead);
    if (!in_place) block_.resize(static_cast<size_t>((count * row_bytes + 3) / 4));
    void* data = in_place ? value.at(row) : static_cast<void*>(block_.data());
    if (known)
      fetch(file, tensor, row * value.cols, n, to_half, data);
    else
      fetch_wide(file, tensor, row * value.cols, n, to_half, static_cast<float*>(data));
    if (in_place) continue;
    const void* x = on_device(data, static_cast<size_t>(count * row_bytes));
    if (parameter.scales)
      device_->quantize(
          {count, value.cols, x, device_dtype(dtype), value.dtype, value.at(row),
           static_cast<unsigned char*>(parameter.scales) + scale_bytes(value.dtype, row, value.cols)});
    else
      device_->cast({n, x, device_dtype(dtype), value.at(row), value.dtype});
  }
}

}  // namespace allmrec
