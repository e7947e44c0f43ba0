#pragma once

#include <cstdlib>
#include <cstring>
#include <memory>

#include "../cpp/autograd/parameter.h"
#include "../cpp/backend/device.h"
#include "../cpp/io/float_bits.h"

// A back end of the few ops that loading weights needs, plain enough that a sanitizer sees each access.
struct allmrec_device {
  int unused = 0;
};

namespace allmrec::fuzz {

inline float element(const void* data, int32_t dtype, int64_t i) {
  if (dtype == ALLMREC_F32) return static_cast<const float*>(data)[i];
  const uint16_t bits = static_cast<const uint16_t*>(data)[i];
  return dtype == ALLMREC_F16 ? io::float_from_half(bits) : io::float_from_bfloat16(bits);
}

inline allmrec_status cast(allmrec_device*, const allmrec_cast_args* a) {
  for (int64_t i = 0; i < a->n; ++i) {
    const float value = element(a->x, a->x_dtype, i);
    if (a->y_dtype == ALLMREC_F32)
      static_cast<float*>(a->y)[i] = value;
    else
      static_cast<uint16_t*>(a->y)[i] =
          a->y_dtype == ALLMREC_F16 ? io::half_from_float(value) : io::bfloat16_from_float(value);
  }
  return ALLMREC_OK;
}

inline allmrec_status quantize(allmrec_device*, const allmrec_quantize_args* a) {
  float sum = 0;
  for (int64_t i = 0; i < a->rows * a->cols; ++i) sum += element(a->x, a->x_dtype, i);
  const int64_t numbers = a->rows * a->cols;
  std::memset(a->quants, sum > 0, static_cast<size_t>(a->dtype == ALLMREC_I8 ? numbers : numbers / 2));
  std::memset(a->scales, 0, static_cast<size_t>(scale_bytes(a->dtype, a->rows, a->cols)));
  return ALLMREC_OK;
}

// name: "cpu" makes the loader read in place; any other makes it stage and upload.
inline std::shared_ptr<Device> host_device(const char* name) {
  static allmrec_device handle;
  static allmrec_backend tables[2];
  allmrec_backend& table = tables[std::strcmp(name, "cpu") == 0];
  table.name = name;
  table.close = [](allmrec_device*) {};
  table.last_error = [](allmrec_device*) { return ""; };
  table.info = [](allmrec_device*, allmrec_device_info* out) {
    out->threads = 1;
    return ALLMREC_OK;
  };
  table.alloc = [](allmrec_device*, size_t bytes, void** out) {
    *out = std::malloc(bytes);
    return ALLMREC_OK;
  };
  table.free = [](allmrec_device*, void* memory) { std::free(memory); };
  table.upload = [](allmrec_device*, void* to, const void* from, size_t bytes) {
    std::memcpy(to, from, bytes);
    return ALLMREC_OK;
  };
  table.cast = cast;
  table.quantize = quantize;
  return std::make_shared<Device>(&table, &handle);
}

}  // namespace allmrec::fuzz
