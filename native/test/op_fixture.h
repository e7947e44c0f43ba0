#pragma once

// What one case of the op table sees of a back end: random inputs, poisoned outputs, comparison with a
// reference. Device memory is reached through the back end's alloc, upload and download only, so the same
// cases run on the CPU, the emulated and the real CUDA back end.

#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "../cpp/backend/backend.h"
#include "check.h"
#include "reference.h"

namespace allmrec::test {

using reference::Ints;
using reference::Values;

class Fixture {
 public:
  Fixture(const allmrec_backend& backend, allmrec_device* device, std::string name, double tolerance);
  ~Fixture();
  Fixture(const Fixture&) = delete;
  Fixture& operator=(const Fixture&) = delete;

  // Random host values, exact in float32. Every case begins from the same seed.
  Values uniform(int64_t n, double low = -1, double high = 1);
  Ints integers(int64_t n, int32_t low, int32_t high);  // both ends included

  // Device copies; freed with the fixture. Empty values give NULL.
  float* upload(const Values& values);
  int32_t* upload(const Ints& values);
  uint16_t* upload(const std::vector<uint16_t>& values);
  // Rounded to a storage dtype (F32, F16, BF16); `values` become what was stored.
  void* upload_as(int32_t dtype, Values& values);
  // Uninitialised outputs, all NaN, with a margin before and behind that must stay as it is.
  float* output(int64_t n);
  int32_t* output_integers(int64_t n);
  // The same with `values` in it, for outputs that are added to.
  float* output(const Values& values);
  void* output_as(int32_t dtype, int64_t n);
  void* output_as(int32_t dtype, Values& values);
  void* output_bytes(int64_t n);  // all 0xff

  // Runs an op of the table: fixture.run(&allmrec_backend::add, args).
  template <typename Args>
  void run(allmrec_status (*allmrec_backend::*op)(allmrec_device*, const Args*), const Args& args) {
    const allmrec_status status = (backend_.*op)(device_, &args);
    if (status != ALLMREC_OK) fail(std::string("status: ") + backend_.last_error(device_));
  }

  // The same where the op must answer with an error.
  template <typename Args>
  void expect_status(allmrec_status (*allmrec_backend::*op)(allmrec_device*, const Args*), const Args& args,
                     allmrec_status expected) {
    const allmrec_status status = (backend_.*op)(device_, &args);
    if (status != expected)
      fail("status " + std::to_string(status) + ", expected " + std::to_string(expected));
  }
  bool on_cpu() const { return std::string(backend_.name) == "cpu"; }

  Values download(const void* p, int64_t n, int32_t dtype = ALLMREC_F32);
  std::vector<unsigned char> download_bytes(const void* p, int64_t n);
  // ‖x − reference‖ / ‖reference‖ <= the case's tolerance; NaN and infinity must agree element by element.
  // Returns the error. With a matrix of `ld` > cols only the first cols of each row count, the others must
  // still be NaN.
  double expect(const char* what, const void* p, const Values& reference, int32_t dtype = ALLMREC_F32);
  double expect_matrix(const char* what, const void* p, int64_t rows, int64_t cols, int64_t ld,
                       const Values& reference, int32_t dtype = ALLMREC_F32);
  // The largest |x − reference| / |reference| <= the tolerance, for functions of one value.
  void expect_each(const char* what, const float* p, const Values& reference);
  void expect_integers(const char* what, const int32_t* p, const Ints& reference);
  void expect_untouched(const char* what, const float* p, int64_t n);  // still NaN
  void expect_true(const char* what, bool ok);

  double worst_error() const { return worst_; }
  // Everything that was downloaded, to compare runs bit by bit.
  const std::vector<unsigned char>& bits() const { return bits_; }
  bool ok() const { return failures_.empty(); }
  const std::string& failures() const { return failures_; }

 private:
  struct Block {
    unsigned char* memory;
    size_t bytes;  // without the margins
    bool guarded;
  };
  void* allocate(size_t bytes, bool guarded, const void* content);
  void fail(const std::string& what);
  void check_margins();

  const allmrec_backend& backend_;
  allmrec_device* device_;
  std::string name_;
  double tolerance_;
  double worst_ = 0;
  std::mt19937_64 engine_;
  std::vector<Block> blocks_;
  std::vector<unsigned char> bits_;
  std::string failures_;
};

// A row of the table: op, variant, tolerance and why it is that large.
struct Case {
  const char* op;
  std::string variant;
  double tolerance;
  const char* reason;
  void (*test)(Fixture&, int variant);
  int number;
};

// Tolerances. Float32 rounds to 6e-8; errors of independent roundings add like their root mean square.
struct Tolerance {
  double value;
  const char* reason;
};
constexpr Tolerance kExact = {0, "moved or selected, never rounded"};
constexpr Tolerance kRounding = {2e-7, "a handful of float32 roundings per element"};
constexpr Tolerance kElementary = {4e-7, "elementary functions to 1e-7, and a handful of roundings"};
constexpr Tolerance kSum = {1e-6, "float32 sums of up to some thousand terms in lanes"};
constexpr Tolerance kCancel = {3e-6,
                               "float32 sums whose terms cancel (gradients through a mean or a softmax)"};
constexpr Tolerance kRecurrent = {5e-6, "float32 roundings carried through the steps"};
constexpr Tolerance kHalf = {4e-4, "outputs rounded to 11 bits"};
constexpr Tolerance kBfloat16 = {3e-3, "outputs rounded to 8 bits"};
constexpr Tolerance kLoss = {2e-7, "float64 sums of float32 terms, rounded once"};

using Cases = std::vector<Case>;
// Appends one case per variant 0 … variants − 1.
void add_cases(Cases& cases, const char* op, Tolerance tolerance, void (*test)(Fixture&, int variant),
               const std::vector<std::string>& variants);

void dense_cases(Cases& cases);      // gemm, column_sum, layer_norm, activations
void element_cases(Cases& cases);    // add, mul, copy_2d, cast, dropout, random
void attention_cases(Cases& cases);  // attention and its backward
void row_cases(Cases& cases);        // embedding, gather, scatter, segment_mean, row_dot, l2_normalize, top_k
void loss_cases(Cases& cases);       // bce, mse, cross_entropy, sum, squared_norm
void model_cases(Cases& cases);      // gru, adam
void half_dense_cases(Cases& cases);       // gemm of halves
void quantized_cases(Cases& cases);        // quantize, gemm and embedding of int8 and int4 weights
void half_attention_cases(Cases& cases);   // attention and its backward on halves, long keys
void cache_attention_cases(Cases& cases);  // attention over caches of halves, and in bfloat16
void half_row_cases(Cases& cases);         // the other ops on halves; put_rows, advance
void sequence_cases(Cases& cases);         // conv, spmm, rank_catalogue, large gru, top_k

void philox_tests();    // known answers, statistics of dropout and normals
void gradient_tests();  // reference gradients against central differences

}  // namespace allmrec::test
