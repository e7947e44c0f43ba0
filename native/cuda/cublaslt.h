#pragma once

// cuBLASLt, NVIDIA's library of matrix products, opened at run time where it is installed (versions 11 to
// 13). Nothing of it is needed to build or to load this library: the fourteen entry points used are declared
// here, and without them the kernels of gemm_half.cu and gemm_float.cu do the work.

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "../cpp/backend/backend.h"

namespace allmrec::cuda {

class Context;

// Numbers and layouts of NVIDIA's cublasLt.h and library_types.h, the same from 11.8 to 13.
namespace lt {

using Handle = void*;
using MatmulDesc = void*;
using MatrixLayout = void*;
using Preference = void*;
using Status = int;  // 0: success

enum Type : int { kFloat = 0, kHalf = 2, kBfloat16 = 14 };  // cudaDataType_t
enum Compute : int { kCompute32F = 68 };                    // plain float32, no TF32
enum Operation : int32_t { kNormal = 0, kTransposed = 1 };  // cublasOperation_t
enum DescAttribute : int { kTransA = 3, kTransB = 4, kEpilogue = 7, kBiasPointer = 8 };
enum PreferenceAttribute : int {
  kMaxWorkspaceBytes = 1,
  kMinAlignmentA = 5,
  kMinAlignmentB = 6,
  kMinAlignmentC = 7,
  kMinAlignmentD = 8,
};
enum Epilogue : uint32_t { kDefault = 1, kRelu = 2, kBias = 4 };  // may be combined

struct Algorithm {
  uint64_t data[8];
};
struct HeuristicResult {
  Algorithm algorithm;
  size_t workspace_bytes;
  Status state;
  float waves;
  int reserved[4];
};
static_assert(sizeof(HeuristicResult) == 96, "cublasLtMatmulHeuristicResult_t");

struct Functions {
  size_t (*get_version)();
  size_t (*get_cudart_version)();
  Status (*create)(Handle*);
  Status (*destroy)(Handle);
  Status (*desc_create)(MatmulDesc*, int compute, int scale_type);
  Status (*desc_destroy)(MatmulDesc);
  Status (*desc_set)(MatmulDesc, int attribute, const void* value, size_t bytes);
  Status (*layout_create)(MatrixLayout*, int type, uint64_t rows, uint64_t cols, int64_t ld);
  Status (*layout_destroy)(MatrixLayout);
  Status (*preference_create)(Preference*);
  Status (*preference_destroy)(Preference);
  Status (*preference_set)(Preference, int attribute, const void* value, size_t bytes);
  Status (*heuristic)(Handle, MatmulDesc, MatrixLayout a, MatrixLayout b, MatrixLayout c, MatrixLayout d,
                      Preference, int wanted, HeuristicResult*, int* found);
  Status (*matmul)(Handle, MatmulDesc, const void* alpha, const void* a, MatrixLayout, const void* b,
                   MatrixLayout, const void* beta, const void* c, MatrixLayout, void* d, MatrixLayout,
                   const Algorithm*, void* workspace, size_t workspace_bytes, void* stream);
};

}  // namespace lt

// The setting `cublaslt`: a library's path, "auto" or "off". It holds for devices opened afterwards.
void configure_cublas_lt(const char* value);

// Where the library is looked for, in order, with the present setting and environment; empty when off.
std::vector<std::string> cublas_lt_candidates();

class CublasLt {
 public:
  // Null when there is none that can be used; `why` then says what was tried. A device must be current.
  static std::unique_ptr<CublasLt> open(std::string& why);
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  // The path it was found at and its version, "libcublasLt.so.13, 13.0.2".
  const std::string& description() const { return description_; }

  // c as backend.h says; false, and nothing done, when this product is not one for cuBLASLt.
  // (gemm_cublaslt.cu)
  bool gemm(Context& context, const allmrec_gemm_args& g);

 private:
  // A product up to its pointers: what the heuristic was asked, and its answer.
  struct Plan {
    lt::MatmulDesc desc = nullptr;
    lt::MatrixLayout a = nullptr, b = nullptr, c = nullptr, d = nullptr;
    lt::HeuristicResult result = {};
    bool usable = false;
  };
  using Key = std::array<int64_t, 17>;

  CublasLt(void* library, const lt::Functions& functions, lt::Handle handle, std::string description)
      : library_(library), functions_(functions), handle_(handle), description_(std::move(description)) {}
  Plan& plan_of(const Key& key);
  void describe(Plan& plan, const Key& key);

  void* library_;  // never closed: the driver may still hold its kernels
  lt::Functions functions_;
  lt::Handle handle_;
  std::string description_;
  std::map<Key, Plan> plans_;
};

}  // namespace allmrec::cuda
