// Philox4x32-10 against the known answers of Random123, and the statistics of what is made of it.
#include <cmath>

#include "../cpp/core/philox.h"
#include "op_fixture.h"

namespace allmrec::test {

namespace {

bool answers(uint64_t seed, uint64_t stream, uint64_t counter, const uint32_t (&expected)[4]) {
  const PhiloxWords words = philox(seed, stream, counter);
  for (int i = 0; i < 4; ++i) {
    if (words.word[i] != expected[i]) return false;
  }
  return true;
}

// Kept elements among n, as a distance from n · (1 − p) in standard deviations.
double rate_deviation(float p, uint64_t seed, uint64_t stream, int64_t n) {
  int64_t kept = 0;
  for (int64_t i = 0; i < n; ++i) kept += dropout_keeps(p, seed, stream, static_cast<uint64_t>(i));
  const double q = 1 - dropout_threshold(p) / 65536.0;
  return (static_cast<double>(kept) - n * q) / std::sqrt(n * q * (1 - q));
}

}  // namespace

void philox_tests() {
  const uint64_t ones = ~uint64_t{0};
  CHECK(answers(0, 0, 0, {0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}));
  CHECK(answers(ones, ones, ones, {0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}));
  // Digits of π, from the same file of answers.
  CHECK(answers(0x299f31d0a4093822u, 0x0370734413198a2eu, 0x85a308d3243f6a88u,
                {0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}));

  CHECK(dropout_threshold(0.0f) == 0 && dropout_threshold(0.5f) == 32768 && dropout_threshold(1.0f) == 65536);
  for (const float p : {0.1f, 0.2f, 0.5f, 0.9f}) CHECK(std::fabs(rate_deviation(p, 42, 7, 400000)) < 4);
  // Streams, seeds and neighbours are independent: agreements of two masks of p = ½ are binomial.
  const int64_t n = 400000;
  int64_t streams = 0, seeds = 0, neighbours = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint64_t e = static_cast<uint64_t>(i);
    const bool kept = dropout_keeps(0.5f, 1, 1, e);
    streams += kept == dropout_keeps(0.5f, 1, 2, e);
    seeds += kept == dropout_keeps(0.5f, 2, 1, e);
    neighbours += kept == dropout_keeps(0.5f, 1, 1, e + 1);
  }
  for (const int64_t agreements : {streams, seeds, neighbours})
    CHECK(std::fabs(static_cast<double>(agreements) - n / 2.0) < 4 * std::sqrt(n / 4.0));

  const reference::Values normals = reference::random(n, 3, 4, true, 0, 1);
  double moments[5] = {};
  for (double x : normals) {
    for (int power = 1; power <= 4; ++power) moments[power] += std::pow(x, power) / static_cast<double>(n);
  }
  const double deviation = 1 / std::sqrt(static_cast<double>(n));
  CHECK(std::fabs(moments[1]) < 4 * deviation);
  CHECK(std::fabs(moments[2] - 1) < 4 * std::sqrt(2.0) * deviation);
  CHECK(std::fabs(moments[3]) < 4 * std::sqrt(15.0) * deviation);
  CHECK(std::fabs(moments[4] - 3) < 4 * std::sqrt(96.0) * deviation);
}

}  // namespace allmrec::test
