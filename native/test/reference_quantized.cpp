#include "reference_quantized.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "../cpp/io/float_bits.h"

namespace allmrec::reference {

namespace {

constexpr int64_t kGroup = 32;

// Division and rounding in float32, to nearest even: part of the definition.
int quant_of(double x, float scale, int low, int high) {
  if (scale == 0) return 0;
  const float q = std::nearbyint(static_cast<float>(x) / scale);
  return static_cast<int>(std::min<float>(high, std::max<float>(low, q)));
}

template <typename T>
void append(std::vector<unsigned char>& bytes, T value) {
  unsigned char raw[sizeof value];
  std::memcpy(raw, &value, sizeof value);
  bytes.insert(bytes.end(), raw, raw + sizeof value);
}

}  // namespace

Quantized quantize(int32_t dtype, int64_t rows, int64_t cols, const Values& x) {
  Quantized out;
  out.values.resize(x.size());
  if (dtype == ALLMREC_I8) {
    for (int64_t i = 0; i < rows; ++i) {
      float largest = 0;
      for (int64_t j = 0; j < cols; ++j)
        largest = std::max(largest, std::fabs(static_cast<float>(x[i * cols + j])));
      const float scale = largest / 127;
      append(out.scales, scale);
      for (int64_t j = 0; j < cols; ++j) {
        const int q = quant_of(x[i * cols + j], scale, -127, 127);
        append(out.quants, static_cast<int8_t>(q));
        out.values[i * cols + j] = double{scale} * q;
      }
    }
    return out;
  }
  for (int64_t group = 0; group < rows * cols / kGroup; ++group) {
    const double* from = x.data() + group * kGroup;
    float largest = 0;  // of equal magnitudes the first
    for (int64_t j = 0; j < kGroup; ++j)
      if (std::fabs(from[j]) > std::fabs(largest)) largest = static_cast<float>(from[j]);
    const uint16_t stored = io::half_from_float(largest / -8);
    const float scale = io::float_from_half(stored);
    append(out.scales, stored);
    int q[kGroup];
    for (int64_t j = 0; j < kGroup; ++j) {
      q[j] = quant_of(from[j], scale, -8, 7);
      out.values[group * kGroup + j] = double{scale} * q[j];
    }
    for (int64_t j = 0; j < kGroup / 2; ++j)
      append(out.quants, static_cast<unsigned char>((q[j] + 8) | (q[j + kGroup / 2] + 8) << 4));
  }
  return out;
}

}  // namespace allmrec::reference
