#pragma once

#include <cstdint>
#include <cstring>

namespace allmrec::io {

inline float float_from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t bits_of_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float float_from_bfloat16(uint16_t bits) {
  return float_from_bits(static_cast<uint32_t>(bits) << 16);
}

// Only normal floats take part, so the result stands when the thread flushes subnormals to zero; and both
// cases are computed, so that a loop becomes vector code.
inline float float_from_half(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = bits & 0x7c00u;
  const uint32_t shifted = static_cast<uint32_t>(bits & 0x7fffu) << 13;
  constexpr uint32_t kRebias = 112u << 23;          // 127 - 15
  constexpr uint32_t kSmallestNormal = 113u << 23;  // 2^-14
  // Infinity and NaN keep an exponent of all ones.
  const uint32_t normal = shifted + kRebias + (exponent == 0x7c00u ? kRebias : 0u);
  const float subnormal = float_from_bits(kSmallestNormal + shifted) - float_from_bits(kSmallestNormal);
  return float_from_bits(sign | (exponent == 0 ? bits_of_float(subnormal) : normal));
}

// Round to nearest even; NaN stays a quiet NaN with its upper payload.
inline uint16_t bfloat16_from_float(float value) {
  const uint32_t bits = bits_of_float(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

inline uint16_t half_from_float(float value) {
  const uint32_t bits = bits_of_float(value);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu));
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65520 and up is infinity
  if (magnitude < 0x33000000u) return sign;                                    // below half of 2^-24
  uint32_t significand, shift;
  if (magnitude < 0x38800000u) {  // a subnormal half: units of 2^-24
    significand = (magnitude & 0x7fffffu) | 0x800000u;
    shift = 126u - (magnitude >> 23);
  } else {
    significand = magnitude - (112u << 23);
    shift = 13;
  }
  const uint32_t half_unit = (1u << (shift - 1)) - 1 + (significand >> shift & 1u);
  return static_cast<uint16_t>(sign | (significand + half_unit) >> shift);
}

}  // namespace allmrec::io
