#include "half.h"

#include <cmath>

namespace allmrec::emulator {

namespace {

float value_of(int bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  float value;
  if (exponent == 31) {
    // The payload of a NaN is kept, and made quiet.
    const uint32_t wide = 0x7f800000u | (fraction ? 0x400000u | static_cast<uint32_t>(fraction) << 13 : 0u);
    __builtin_memcpy(&value, &wide, sizeof value);
  } else if (exponent == 0) {
    value = std::ldexp(static_cast<float>(fraction), -24);
  } else {
    value = std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
  }
  return bits & 0x8000 ? -value : value;
}

struct Table {
  float values[65536];
  Table() {
    for (int bits = 0; bits < 65536; ++bits) values[bits] = value_of(bits);
  }
};
const Table table;

}  // namespace

float half_to_float(uint16_t bits) {
  return table.values[bits];
}

uint16_t half_from_float(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7fff;  // as the card does: one NaN
  if (magnitude < 0x38800000u) {
    // Below 2^-14 a half counts units of 2^-24. Adding 0.5, whose last bit is such a unit, rounds to them.
    float positive;
    __builtin_memcpy(&positive, &magnitude, sizeof positive);
    const float shifted = positive + 0.5f;
    uint32_t units;
    __builtin_memcpy(&units, &shifted, sizeof units);
    return static_cast<uint16_t>(sign | (units - 0x3f000000u));
  }
  // A carry out of the fraction goes into the exponent; at 65520 it reaches infinity.
  const uint32_t odd = magnitude >> 13 & 1;
  const uint32_t rounded = (magnitude - 0x38000000u + 0xfffu + odd) >> 13;
  return static_cast<uint16_t>(sign | (rounded > 0x7c00u ? 0x7c00u : rounded));
}

}  // namespace allmrec::emulator
