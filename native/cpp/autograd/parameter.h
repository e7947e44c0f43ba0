#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../core/tensor.h"

namespace allmrec {

// A weight: its name in the checkpoint, its shape there, and its value as a matrix (leading axis × the rest;
// a vector is one row). `grad` (float32) is null while frozen; only float32 weights are trained. Quantised
// weights (I8, I4) have scales beside them.
struct Parameter {
  std::string name;
  std::vector<int64_t> shape;
  Tensor value;
  void* scales = nullptr;
  float* grad = nullptr;
  bool derived = false;  // follows from other weights and is never trained

  bool trainable() const { return grad != nullptr; }
  int32_t dtype() const { return value.dtype; }
};

// Bytes of the scales of `rows` rows of `cols` quants.
inline int64_t scale_bytes(int32_t dtype, int64_t rows, int64_t cols) {
  if (dtype == ALLMREC_I8) return 4 * rows;
  if (dtype == ALLMREC_I4) return 2 * rows * (cols / 32);
  return 0;
}

// Rows [row, row + rows) of a parameter, e.g. the query part of a fused projection; for a vector, columns.
struct ParameterView {
  Parameter* parameter = nullptr;
  int64_t row = 0;
  int64_t rows = 0;

  ParameterView() = default;
  ParameterView(Parameter* p)
      : parameter(p), row(0), rows(p ? length(p) : 0) {}  // NOLINT: a parameter is its own view
  ParameterView(Parameter* p, int64_t first, int64_t count) : parameter(p), row(first), rows(count) {}

  explicit operator bool() const { return parameter != nullptr; }
  int64_t cols() const { return is_vector() ? 1 : parameter->value.cols; }
  int32_t dtype() const { return parameter->value.dtype; }
  void* data() const {
    return static_cast<unsigned char*>(parameter->value.data) + bytes_of(dtype(), row * cols());
  }
  float* f32() const { return parameter->value.f32() + row * cols(); }
  void* scales() const {
    if (parameter->scales == nullptr) return nullptr;
    return static_cast<unsigned char*>(parameter->scales) + scale_bytes(dtype(), row, cols());
  }
  float* grad() const { return parameter->grad ? parameter->grad + row * cols() : nullptr; }

 private:
  bool is_vector() const { return parameter->shape.size() == 1; }
  static int64_t length(const Parameter* p) { return p->shape.size() == 1 ? p->value.cols : p->value.rows; }
};

}  // namespace allmrec
