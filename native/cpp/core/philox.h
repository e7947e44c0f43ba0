#pragma once

// Counter-based randomness: Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as
// 1, 2, 3", 2011). 128 random bits are a pure function of (seed, stream, counter): no state, so every thread
// and every back end computes the bits of any element on its own and all agree. Functions are static: this
// header is compiled once per instruction set, and no copy may serve another set.

#include <cstdint>

namespace allmrec {

constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53u;
constexpr uint32_t kPhiloxMultiplier1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxWeyl0 = 0x9E3779B9u;  // golden ratio
constexpr uint32_t kPhiloxWeyl1 = 0xBB67AE85u;  // √3 − 1
constexpr int kPhiloxRounds = 10;

struct PhiloxWords {
  uint32_t word[4];
};

// Key = seed (low word, high word); counter words = (counter low, counter high, stream low, stream high).
[[maybe_unused]] static inline PhiloxWords philox(uint64_t seed, uint64_t stream, uint64_t counter) {
  uint32_t c0 = static_cast<uint32_t>(counter), c1 = static_cast<uint32_t>(counter >> 32);
  uint32_t c2 = static_cast<uint32_t>(stream), c3 = static_cast<uint32_t>(stream >> 32);
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(kPhiloxMultiplier0) * c0;
    const uint64_t p1 = static_cast<uint64_t>(kPhiloxMultiplier1) * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += kPhiloxWeyl0;
    k1 += kPhiloxWeyl1;
  }
  return {{c0, c1, c2, c3}};
}

// Dropout: element e owns the 16 bits number e % 8 of counter e / 8, and is kept when they are >= this.
[[maybe_unused]] static inline uint32_t dropout_threshold(float p) {
  return static_cast<uint32_t>(static_cast<double>(p) * 65536.0 + 0.5);
}

// What a kept element is multiplied by. With p = 1 nothing is kept, and 0 keeps the arithmetic finite.
[[maybe_unused]] static inline float dropout_scale(float p) {
  return p < 1.0f ? 1.0f / (1.0f - p) : 0.0f;
}

[[maybe_unused]] static inline bool dropout_keeps(float p, uint64_t seed, uint64_t stream, uint64_t element) {
  const PhiloxWords words = philox(seed, stream, element / 8);
  const uint32_t bits = (words.word[(element % 8) / 2] >> (16 * (element % 2))) & 0xffffu;
  return bits >= dropout_threshold(p);
}

// A uniform number in [0, 1) of 24 bits, exact in float32.
[[maybe_unused]] static inline float uniform_from_bits(uint32_t word) {
  return static_cast<float>(word >> 8) * 5.9604644775390625e-8f;  // 2^-24
}

}  // namespace allmrec
