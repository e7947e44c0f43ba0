#pragma once

// Weights of 8 and 4 bits as kernels read them (layouts at the top of backend.h): pass an Int8Rows or
// Int4Rows by value to the kernel, and ask it for elements. Both have the same members, so a kernel takes the
// type as its template parameter:
//
//   by_quantized(dtype, quants, scales, ld, [&](auto rows) { launch(kernel<decltype(rows)>, …, rows); });
//
//   rows.at(row, col)            one element, whatever the alignment
//   rows.load8(row, col, out)    8 consecutive elements, col a multiple of 8; only where rows.vectors()
//   rows.vectors()               host: pointers and row length allow load8 (always so for I4 from alloc)
//
// `ld` is the stored row length in elements (gemm's ldb, embedding's cols). Values are q · scale in float32.

#include "numeric.h"

namespace allmrec::cuda {

// Four signed bytes of a word.
__device__ __forceinline__ void unpack_bytes(uint32_t word, float* out) {
#pragma unroll
  for (int i = 0; i < 4; ++i) out[i] = static_cast<float>(static_cast<int8_t>(word >> 8 * i & 0xffu));
}

// I4 keeps eight nibbles in a word: the low ones of its four bytes are elements j … j + 3 of the group, the
// high ones j + 16 … j + 19, j being the word's first byte. As four bytes of 0 … 15, that is q + 8:
__device__ __forceinline__ uint32_t low_nibbles(uint32_t word) {
  return word & 0x0f0f0f0fu;
}
__device__ __forceinline__ uint32_t high_nibbles(uint32_t word) {
  return word >> 4 & 0x0f0f0f0fu;
}

struct Int8Rows {
  const int8_t* quants;
  const float* scales;  // (rows)
  int64_t ld;

  bool vectors() const { return reinterpret_cast<uintptr_t>(quants) % 8 == 0 && ld % 8 == 0; }
  __device__ __forceinline__ float at(int64_t row, int64_t col) const {
    return static_cast<float>(quants[row * ld + col]) * scales[row];
  }
  __device__ __forceinline__ void load8(int64_t row, int64_t col, float (&out)[8]) const {
    const uint2 words = *reinterpret_cast<const uint2*>(quants + row * ld + col);
    const float scale = scales[row];
    unpack_bytes(words.x, out);
    unpack_bytes(words.y, out + 4);
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] *= scale;
  }
};

struct Int4Rows {
  const uint8_t* quants;
  const __half* scales;  // (rows, ld / 32)
  int64_t ld;            // a multiple of 32

  bool vectors() const { return reinterpret_cast<uintptr_t>(quants) % 8 == 0; }
  __device__ __forceinline__ float at(int64_t row, int64_t col) const {
    const int64_t group = row * (ld / 32) + col / 32;
    const int j = static_cast<int>(col % 32);
    const int byte = quants[group * 16 + j % 16];
    return static_cast<float>((j < 16 ? byte & 15 : byte >> 4) - 8) * to_float(scales[group]);
  }
  __device__ __forceinline__ void load8(int64_t row, int64_t col, float (&out)[8]) const {
    const int64_t group = row * (ld / 32) + col / 32;
    const int j = static_cast<int>(col % 32);
    uint2 words = *reinterpret_cast<const uint2*>(quants + group * 16 + j % 16);
    words.x = j < 16 ? low_nibbles(words.x) : high_nibbles(words.x);
    words.y = j < 16 ? low_nibbles(words.y) : high_nibbles(words.y);
    const float scale = to_float(scales[group]);
    unpack_bytes(words.x, out);
    unpack_bytes(words.y, out + 4);
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] = (out[i] - 8.0f) * scale;
  }
};

// Calls fn with the Int8Rows or Int4Rows a dtype names; any other dtype calls nothing.
template <typename Fn>
inline void by_quantized(int32_t dtype, const void* quants, const void* scales, int64_t ld, Fn&& fn) {
  if (dtype == ALLMREC_I8)
    fn(Int8Rows{static_cast<const int8_t*>(quants), static_cast<const float*>(scales), ld});
  if (dtype == ALLMREC_I4)
    fn(Int4Rows{static_cast<const uint8_t*>(quants), static_cast<const __half*>(scales), ld});
}

}  // namespace allmrec::cuda
