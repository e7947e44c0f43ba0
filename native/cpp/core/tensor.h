#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "../backend/backend.h"
#include "error.h"

namespace allmrec {

// Bytes of n elements in a row of a dtype; I4 packs two into one.
inline int64_t bytes_of(int32_t dtype, int64_t n) {
  switch (dtype) {
    case ALLMREC_F16:
    case ALLMREC_BF16:
      return 2 * n;
    case ALLMREC_I8:
      return n;
    case ALLMREC_I4:
      return n / 2;
    default:
      return 4 * n;
  }
}

// A dense row-major matrix on the device: activations are (T, C), vectors (1, C), scalars (1, 1). Activations
// share the ownership of their piece of the step's arena, which is used again when the last copy is gone:
// whoever keeps `data` beyond a call keeps the tensor. Weights belong to their parameter and have no owner
// here.
struct Tensor {
  void* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int32_t variable = -1;  // number on the tape; −1 = no gradient wanted
  int32_t dtype = ALLMREC_F32;
  std::shared_ptr<void> owner;

  int64_t size() const { return rows * cols; }
  int64_t bytes() const { return bytes_of(dtype, size()); }
  void* at(int64_t row, int64_t col = 0) const {
    return static_cast<unsigned char*>(data) + bytes_of(dtype, row * cols + col);
  }
  // The same shape and variable without the numbers.
  Tensor outline() const {
    Tensor t = *this;
    t.data = nullptr;
    t.owner.reset();
    return t;
  }
  // For ops that know only float32.
  float* f32() const {
    if (dtype != ALLMREC_F32)
      throw Error(ErrorCode::internal, "A float32 tensor was expected, not dtype " + std::to_string(dtype));
    return static_cast<float*>(data);
  }
};

// Indices on the device.
struct IntTensor {
  int32_t* data = nullptr;
  int64_t size = 0;
};

}  // namespace allmrec
