// A stand-in for cuBLASLt on the CPU: the same entry points, the same column-major meaning of every
// attribute, so that the emulated back end can run its products through ALLMREC_CUBLASLT=<this library> and
// what gemm_cublaslt.cu tells the real one is checked bit by bit. Plain loops, float64 sums. What the real
// library refuses (a bias of another dtype than D, misaligned pointers, too little workspace) this one
// refuses as well. It computes at once: products while a graph is recorded are not repeated by the graph.
//
//   FAKE_CUBLASLT_VERSION   what cublasLtGetVersion says (130002)
//   FAKE_CUBLASLT_CALLS     a file that gets one byte per product, for tests that ask whether it was used
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include "../cpp/io/float_bits.h"

#define FAKE_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

enum Status { kSuccess = 0, kNotInitialized = 1, kInvalidValue = 7, kNotSupported = 15 };
enum Type { kFloat = 0, kHalf = 2, kBfloat16 = 14 };
constexpr int kCompute32F = 68;
constexpr size_t kWorkspace = 4096;  // asked for by every product, to see that it comes

struct Layout {
  int type;
  uint64_t rows, cols;
  int64_t ld;
};
struct Desc {
  int compute, scale;
  int32_t trans_a = 0, trans_b = 0;
  uint32_t epilogue = 1;
  const void* bias = nullptr;
};
struct Preference {
  uint64_t workspace = 0;
  uint32_t alignment[4] = {256, 256, 256, 256};
};
struct Algorithm {
  uint64_t data[8];
};
struct HeuristicResult {
  Algorithm algorithm;
  size_t workspace_bytes;
  int state;
  float waves;
  int reserved[4];
};
constexpr uint64_t kMagic = 0x666b6c74;

int handle;  // its address is the handle

double load(const void* x, int type, int64_t i) {
  if (type == kFloat) return static_cast<const float*>(x)[i];
  const uint16_t bits = static_cast<const uint16_t*>(x)[i];
  return type == kHalf ? allmrec::io::float_from_half(bits) : allmrec::io::float_from_bfloat16(bits);
}
void store(void* x, int type, int64_t i, double value) {
  const float f = static_cast<float>(value);
  if (type == kFloat) {
    static_cast<float*>(x)[i] = f;
  } else {
    static_cast<uint16_t*>(x)[i] =
        type == kHalf ? allmrec::io::half_from_float(f) : allmrec::io::bfloat16_from_float(f);
  }
}

// The sizes agree and the types are a combination that the real library has.
bool consistent(const Desc& desc, const Layout& a, const Layout& b, const Layout& c, const Layout& d) {
  if (desc.compute != kCompute32F || desc.scale != kFloat || (desc.epilogue & ~7u) || desc.epilogue == 0)
    return false;
  const uint64_t m = desc.trans_a ? a.cols : a.rows, k = desc.trans_a ? a.rows : a.cols;
  const uint64_t k_of_b = desc.trans_b ? b.cols : b.rows, n = desc.trans_b ? b.rows : b.cols;
  if (k != k_of_b || d.rows != m || d.cols != n || c.rows != m || c.cols != n) return false;
  if (a.type != b.type || c.type != d.type || (d.type != kFloat && d.type != a.type)) return false;
  for (const Layout* x : {&a, &b, &c, &d}) {
    if (x->ld < static_cast<int64_t>(x->rows) || x->rows == 0 || x->cols == 0) return false;
  }
  return true;
}

bool aligned(const void* x, uint64_t bytes) {
  return reinterpret_cast<uintptr_t>(x) % bytes == 0;
}

void count_call() {
  const char* path = std::getenv("FAKE_CUBLASLT_CALLS");
  if (!path) return;
  if (std::FILE* file = std::fopen(path, "ab")) {
    std::fputc('.', file);
    std::fclose(file);
  }
}

}  // namespace

FAKE_EXPORT size_t cublasLtGetVersion() {
  const char* version = std::getenv("FAKE_CUBLASLT_VERSION");
  return version ? static_cast<size_t>(std::atol(version)) : 130002;
}
FAKE_EXPORT size_t cublasLtGetCudartVersion() {
  return 13000;
}
FAKE_EXPORT int cublasLtCreate(void** out) {
  if (std::getenv("FAKE_CUBLASLT_NO_START")) return kNotInitialized;
  *out = &handle;
  return kSuccess;
}
FAKE_EXPORT int cublasLtDestroy(void* h) {
  return h == &handle ? kSuccess : kInvalidValue;
}

FAKE_EXPORT int cublasLtMatmulDescCreate(void** out, int compute, int scale) {
  Desc* desc = new Desc;
  desc->compute = compute;
  desc->scale = scale;
  *out = desc;
  return kSuccess;
}
FAKE_EXPORT int cublasLtMatmulDescDestroy(void* desc) {
  delete static_cast<Desc*>(desc);
  return kSuccess;
}
FAKE_EXPORT int cublasLtMatmulDescSetAttribute(void* of, int attribute, const void* value, size_t bytes) {
  Desc& desc = *static_cast<Desc*>(of);
  const auto set = [&](auto& to) {
    if (bytes != sizeof to) return static_cast<int>(kInvalidValue);
    std::memcpy(&to, value, bytes);
    return static_cast<int>(kSuccess);
  };
  switch (attribute) {
    case 3:
      return set(desc.trans_a);
    case 4:
      return set(desc.trans_b);
    case 7:
      return set(desc.epilogue);
    case 8:
      return set(desc.bias);
    default:
      return kInvalidValue;
  }
}

FAKE_EXPORT int cublasLtMatrixLayoutCreate(void** out, int type, uint64_t rows, uint64_t cols, int64_t ld) {
  if (type != kFloat && type != kHalf && type != kBfloat16) return kInvalidValue;
  *out = new Layout{type, rows, cols, ld};
  return kSuccess;
}
FAKE_EXPORT int cublasLtMatrixLayoutDestroy(void* layout) {
  delete static_cast<Layout*>(layout);
  return kSuccess;
}

FAKE_EXPORT int cublasLtMatmulPreferenceCreate(void** out) {
  *out = new Preference;
  return kSuccess;
}
FAKE_EXPORT int cublasLtMatmulPreferenceDestroy(void* preference) {
  delete static_cast<Preference*>(preference);
  return kSuccess;
}
FAKE_EXPORT int cublasLtMatmulPreferenceSetAttribute(void* of, int attribute, const void* value,
                                                     size_t bytes) {
  Preference& preference = *static_cast<Preference*>(of);
  if (attribute == 1 && bytes == 8) {
    std::memcpy(&preference.workspace, value, bytes);
    return kSuccess;
  }
  if (attribute >= 5 && attribute <= 8 && bytes == 4) {
    std::memcpy(&preference.alignment[attribute - 5], value, bytes);
    return kSuccess;
  }
  return kInvalidValue;
}

FAKE_EXPORT int cublasLtMatmulAlgoGetHeuristic(void* h, void* desc, void* a, void* b, void* c, void* d,
                                               void* of, int wanted, void* results, int* found) {
  *found = 0;
  if (h != &handle || wanted < 1) return kInvalidValue;
  const Preference& preference = *static_cast<Preference*>(of);
  if (!consistent(*static_cast<Desc*>(desc), *static_cast<Layout*>(a), *static_cast<Layout*>(b),
                  *static_cast<Layout*>(c), *static_cast<Layout*>(d)) ||
      preference.workspace < kWorkspace) {
    return kNotSupported;
  }
  HeuristicResult result = {};
  result.algorithm.data[0] = kMagic;
  for (int i = 0; i < 4; ++i) result.algorithm.data[1 + i] = preference.alignment[i];
  result.workspace_bytes = kWorkspace;
  std::memcpy(results, &result, sizeof result);
  *found = 1;
  return kSuccess;
}

FAKE_EXPORT int cublasLtMatmul(void* h, void* desc_, const void* alpha_, const void* a, void* a_,
                               const void* b, void* b_, const void* beta_, const void* c, void* c_, void* d,
                               void* d_, const void* algorithm_, void* workspace, size_t workspace_bytes,
                               void*) {
  const Desc& desc = *static_cast<Desc*>(desc_);
  const Layout &la = *static_cast<Layout*>(a_), &lb = *static_cast<Layout*>(b_),
               &lc = *static_cast<Layout*>(c_), &ld = *static_cast<Layout*>(d_);
  const Algorithm& algorithm = *static_cast<const Algorithm*>(algorithm_);
  if (h != &handle || algorithm.data[0] != kMagic || !consistent(desc, la, lb, lc, ld)) return kInvalidValue;
  if (!workspace || workspace_bytes < kWorkspace || !aligned(workspace, 16)) return kInvalidValue;
  const void* const pointers[] = {a, b, c, d};
  for (int i = 0; i < 4; ++i) {
    if (!aligned(pointers[i], algorithm.data[1 + i])) return kInvalidValue;
  }
  const bool has_bias = desc.epilogue & 4, relu = desc.epilogue & 2;
  if (has_bias && (!desc.bias || !aligned(desc.bias, 16))) return kInvalidValue;
  std::memset(workspace, 0xff, kWorkspace);
  count_call();

  const double alpha = *static_cast<const float*>(alpha_), beta = *static_cast<const float*>(beta_);
  const auto m = static_cast<int64_t>(ld.rows), n = static_cast<int64_t>(ld.cols);
  const auto k = static_cast<int64_t>(desc.trans_a ? la.rows : la.cols);
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t i = 0; i < m; ++i) {
      double sum = 0;
      for (int64_t p = 0; p < k; ++p) {
        sum += load(a, la.type, desc.trans_a ? p + i * la.ld : i + p * la.ld) *
               load(b, lb.type, desc.trans_b ? j + p * lb.ld : p + j * lb.ld);
      }
      sum *= alpha;
      if (beta != 0) sum += beta * load(c, lc.type, i + j * lc.ld);  // with beta 0 c is not read
      if (has_bias) sum += load(desc.bias, ld.type, i);              // of D's dtype
      if (relu && sum < 0) sum = 0;
      store(d, ld.type, i + j * ld.ld, sum);
    }
  }
  return kSuccess;
}
