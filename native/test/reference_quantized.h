#pragma once

// The quantisation of backend.h: bytes, not only values, since every device has to give the same.

#include "reference.h"

namespace allmrec::reference {

struct Quantized {
  std::vector<unsigned char> quants;
  std::vector<unsigned char> scales;  // as stored: float32 or F16
  Values values;                      // quants · scales, (rows, cols)
};
Quantized quantize(int32_t dtype, int64_t rows, int64_t cols, const Values& x);

}  // namespace allmrec::reference
