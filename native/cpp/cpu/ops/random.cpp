// Uniform and normal random numbers, for initialisation. Bound by Philox (uniform) or log, sine and cosine
// (normal). Element e takes word e % 4 of counter e / 4. Normals: words (w0, w1) of elements 2i and 2i + 1
// give r = √(−2 ln u), u = ((w0 >> 8) + 1) / 2^24 in (0, 1], and the turn t = (w1 >> 8) / 2^24; element 2i is
// r · cos 2πt, element 2i + 1 is r · sin 2πt. An odd last element uses both words all the same.
#include "../vec_math.h"
#include "ops.h"

namespace allmrec::cpu::ALLMREC_ISA {
namespace {

constexpr int64_t kBlock = 1024;                 // elements whose words are made at once
constexpr int64_t kGrain = 16 * kBlock;          // elements per task
constexpr float kUnit = 5.9604644775390625e-8f;  // 2^-24

// n <= kBlock elements from a whole counter on.
void uniform_block(const allmrec_random_args& a, const uint32_t* words, float* x, int64_t n) {
  const float width = a.b - a.a;
  for (int64_t i = 0; i < n; ++i)
    x[i] = a.a + width * (static_cast<float>(static_cast<int32_t>(words[i] >> 8)) * kUnit);
}

void normal_block(const allmrec_random_args& a, const uint32_t* words, float* x, int64_t n) {
  float u[kBlock / 2 + kLanes], turn[kBlock / 2 + kLanes];
  const int64_t pairs = (n + 1) / 2;
  for (int64_t i = 0; i < pairs; ++i) {
    u[i] = static_cast<float>(static_cast<int32_t>(words[2 * i] >> 8) + 1) * kUnit;
    turn[i] = static_cast<float>(static_cast<int32_t>(words[2 * i + 1] >> 8)) * kUnit;
  }
  for (int64_t i = pairs; i % kLanes != 0; ++i) u[i] = turn[i] = 0.5f;
  for (int64_t i = 0; i < pairs; i += kLanes) {
    const Vec radius = sqrt(-2.0f * log(load(u + i)));
    Vec sine, cosine;
    sin_cos_turns(load(turn + i), sine, cosine);
    store(u + i, a.a + a.b * (radius * cosine));
    store(turn + i, a.a + a.b * (radius * sine));
  }
  for (int64_t i = 0; i < n; ++i) x[i] = i % 2 == 0 ? u[i / 2] : turn[i / 2];
}

}  // namespace

void random(Device& device, const allmrec_random_args& a) {
  device.pool.parallel_for(a.n, kGrain, [&](int64_t begin, int64_t end, int) {
    uint32_t words[kBlock + 4 * kPhiloxGroup];
    for (int64_t i = begin; i < end; i += kBlock) {
      const int64_t n = end - i < kBlock ? end - i : kBlock;
      philox_fill(a.seed, a.stream, static_cast<uint64_t>(i / 4), (n + 3) / 4, words);
      __asm__ volatile("" ::"r"(words) : "memory");  // written as another type
      if (a.normal)
        normal_block(a, words, a.x + i, n);
      else
        uniform_block(a, words, a.x + i, n);
    }
  });
}

}  // namespace allmrec::cpu::ALLMREC_ISA
