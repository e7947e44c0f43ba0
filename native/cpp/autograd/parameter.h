#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../core/tensor.h"

namespace allmrec {

// A weight: its name in the checkpoint, its shape there, and its value as a matrix (leading axis × the rest;
// a vector is one row). `grad` is null while frozen.
struct Parameter {
  std::string name;
  std::vector<int64_t> shape;
  Tensor value;
  float* grad = nullptr;

  bool trainable() const { return grad != nullptr; }
};

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
  float* data() const { return parameter->value.data + row * cols(); }
  float* grad() const { return parameter->grad ? parameter->grad + row * cols() : nullptr; }

 private:
  bool is_vector() const { return parameter->shape.size() == 1; }
  static int64_t length(const Parameter* p) { return p->shape.size() == 1 ? p->value.cols : p->value.rows; }
};

}  // namespace allmrec
