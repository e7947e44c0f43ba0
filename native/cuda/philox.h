#pragma once

// native/cpp/core/philox.h for kernels: the same bits for every element on every device.

#include "../cpp/backend/backend.h"
#include "platform.h"

namespace allmrec::cuda {

struct PhiloxWords {
  uint32_t word[4];
};

__device__ __forceinline__ PhiloxWords philox(uint64_t seed, uint64_t stream, uint64_t counter) {
  uint32_t c0 = static_cast<uint32_t>(counter), c1 = static_cast<uint32_t>(counter >> 32);
  uint32_t c2 = static_cast<uint32_t>(stream), c3 = static_cast<uint32_t>(stream >> 32);
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint32_t low0 = 0xD2511F53u * c0, high0 = __umulhi(0xD2511F53u, c0);
    const uint32_t low1 = 0xCD9E8D57u * c2, high1 = __umulhi(0xCD9E8D57u, c2);
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Element e of a dropout mask owns the 16 bits number e % 8 of counter e / 8.
__device__ __forceinline__ uint32_t dropout_bits(const PhiloxWords& words, int element_in_eight) {
  return (words.word[element_in_eight / 2] >> (16 * (element_in_eight % 2))) & 0xffffu;
}

// What a kernel needs of allmrec_dropout.
struct Dropout {
  uint32_t threshold;  // kept when the bits are >= this; 0 = no dropout
  float scale;         // of what is kept
  uint64_t seed, stream;

  __device__ __forceinline__ bool keeps(uint64_t element) const {
    return dropout_bits(philox(seed, stream, element / 8), static_cast<int>(element % 8)) >= threshold;
  }
};

inline Dropout dropout_of(const allmrec_dropout& d) {
  return {static_cast<uint32_t>(static_cast<double>(d.p) * 65536.0 + 0.5),
          d.p < 1.0f ? 1.0f / (1.0f - d.p) : 0.0f, d.seed, d.stream};
}

}  // namespace allmrec::cuda
