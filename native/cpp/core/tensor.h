#pragma once

#include <cstdint>

namespace allmrec {

// A dense row-major float32 matrix on the device: activations are (T, C), vectors (1, C), scalars (1, 1).
// A view: it owns nothing; activations live in the step's arena, weights in their parameter.
struct Tensor {
  float* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int32_t variable = -1;  // number on the tape; −1 = no gradient wanted

  int64_t size() const { return rows * cols; }
};

// Indices on the device.
struct IntTensor {
  int32_t* data = nullptr;
  int64_t size = 0;
};

}  // namespace allmrec
