// Matrix products by cuBLASLt. What is computed and in which order of bytes is all that is decided here; the
// kernels are NVIDIA's (75–85 % of the card's matrix units expected; not yet measured).
//
// cuBLASLt thinks in columns: our row-major C (m, n) = op(A) op(B) is its column-major Cᵀ (n, m) = op(B)ᵀ
// op(A)ᵀ over the same bytes. So our B is its first operand and our A its second; each has in its view the
// shape of our stored matrix turned round, and is transposed there exactly when it is here: a stored (n, k)
// weight is its k × n matrix, and it needs n × k. A bias over our columns is one over its rows, which is what
// its BIAS epilogue adds.
//
//   bias               its BIAS epilogue. It takes the bias in c's dtype, so a half c gets a rounded copy of
//   the
//                      float32 bias first (n values; exact where the checkpoint's bias was a half itself).
//   residual           beta = 1 with the residual as its C and our c as its D
//   accumulate         beta = 1 with c as both; not together with a residual, nor with ReLU, which ours
//   applies
//                      before accumulating
//   ReLU               its RELU epilogue, after bias and residual
//   float32            CUBLAS_COMPUTE_32F, plain: never TF32
//
// The heuristic's answer is kept per shape; it needs no device, so shapes may first be met while a graph is
// recorded.

#include <algorithm>

#include "cublaslt.h"
#include "gemm_kernels.h"

namespace allmrec::cuda {

namespace {

constexpr int64_t kScratchAlignment = 64;        // at least
constexpr size_t kWorkspace = size_t{32} << 20;  // what NVIDIA recommends for Hopper

enum KeyField {
  kM,
  kN,
  kK,
  kLda,
  kLdb,
  kLdc,
  kLdResidual,  // of its C: c's own when there is no residual
  kTransAField,
  kTransBField,
  kType,
  kCType,
  kEpilogueField,
  kAlignA,
  kAlignB,
  kAlignC,
  kAlignD,
  kAlignBias,
};

int type_of(int32_t dtype) {
  return dtype == ALLMREC_F32 ? lt::kFloat : dtype == ALLMREC_F16 ? lt::kHalf : lt::kBfloat16;
}

// The alignment of a pointer in bytes, at most the 256 that the heuristic assumes if it is told nothing.
int64_t alignment_of(const void* x) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(x);
  return address == 0 ? 256 : static_cast<int64_t>(std::min<uintptr_t>(256, address & (~address + 1)));
}

}  // namespace

void CublasLt::describe(Plan& plan, const Key& key) {
  const lt::Functions& f = functions_;
  const int type = static_cast<int>(key[kType]), c_type = static_cast<int>(key[kCType]);
  const int32_t trans_a = key[kTransBField] ? lt::kTransposed : lt::kNormal;
  const int32_t trans_b = key[kTransAField] ? lt::kTransposed : lt::kNormal;
  const uint32_t epilogue = static_cast<uint32_t>(key[kEpilogueField]);
  const auto layout = [&](lt::MatrixLayout& to, int t, int64_t rows, int64_t cols, int64_t ld) {
    return f.layout_create(&to, t, static_cast<uint64_t>(rows), static_cast<uint64_t>(cols), ld) == 0;
  };
  // Our stored rows are its columns.
  const bool ok = f.desc_create(&plan.desc, lt::kCompute32F, lt::kFloat) == 0 &&
                  f.desc_set(plan.desc, lt::kTransA, &trans_a, sizeof trans_a) == 0 &&
                  f.desc_set(plan.desc, lt::kTransB, &trans_b, sizeof trans_b) == 0 &&
                  f.desc_set(plan.desc, lt::kEpilogue, &epilogue, sizeof epilogue) == 0 &&
                  layout(plan.a, type, key[kTransBField] ? key[kK] : key[kN],
                         key[kTransBField] ? key[kN] : key[kK], key[kLdb]) &&
                  layout(plan.b, type, key[kTransAField] ? key[kM] : key[kK],
                         key[kTransAField] ? key[kK] : key[kM], key[kLda]) &&
                  layout(plan.c, c_type, key[kN], key[kM], key[kLdResidual]) &&
                  layout(plan.d, c_type, key[kN], key[kM], key[kLdc]);
  if (!ok) return;
  if (epilogue & lt::kBias) {  // the heuristic looks at its alignment
    const void* aligned = reinterpret_cast<const void*>(static_cast<uintptr_t>(key[kAlignBias]));
    if (f.desc_set(plan.desc, lt::kBiasPointer, &aligned, sizeof aligned) != 0) return;
  }
  lt::Preference preference = nullptr;
  if (f.preference_create(&preference) != 0) return;
  const uint64_t workspace = kWorkspace;
  const auto align = [&](int attribute, int field) {
    const uint32_t bytes = static_cast<uint32_t>(key[field]);
    return f.preference_set(preference, attribute, &bytes, sizeof bytes) == 0;
  };
  int found = 0;
  plan.usable = f.preference_set(preference, lt::kMaxWorkspaceBytes, &workspace, sizeof workspace) == 0 &&
                align(lt::kMinAlignmentA, kAlignB) && align(lt::kMinAlignmentB, kAlignA) &&
                align(lt::kMinAlignmentC, kAlignC) && align(lt::kMinAlignmentD, kAlignD) &&
                f.heuristic(handle_, plan.desc, plan.a, plan.b, plan.c, plan.d, preference, 1, &plan.result,
                            &found) == 0 &&
                found > 0 && plan.result.state == 0 && plan.result.workspace_bytes <= kWorkspace;
  f.preference_destroy(preference);
}

CublasLt::Plan& CublasLt::plan_of(const Key& key) {
  const auto [entry, is_new] = plans_.try_emplace(key);
  if (is_new) describe(entry->second, key);
  return entry->second;
}

bool CublasLt::gemm(Context& context, const allmrec_gemm_args& g) {
  const bool relu = g.activation == ALLMREC_ACT_RELU;
  if (g.a_dtype != g.b_dtype || g.m == 0 || g.n == 0 || g.k == 0) return false;
  if (g.a_dtype != ALLMREC_F32 && g.a_dtype != ALLMREC_F16 && g.a_dtype != ALLMREC_BF16) return false;
  if (g.accumulate && (relu || g.residual)) return false;
  const int64_t per = g.a_dtype == ALLMREC_F32 ? 4 : 8;
  const int64_t per_c = g.c_dtype == ALLMREC_F32 ? 4 : 8;
  const auto fits = [](const void* x, int64_t ld, int64_t length, int64_t elements) {
    return aligned_16(x) && ld % elements == 0 && length % elements == 0 && ld >= length && ld <= INT32_MAX;
  };
  const void* addend = g.residual ? g.residual : g.c;
  const int64_t ld_addend = g.residual ? g.ld_residual : g.ldc;
  if (!fits(g.a, g.lda, g.trans_a ? g.m : g.k, per) || !fits(g.b, g.ldb, g.trans_b ? g.k : g.n, per) ||
      !fits(g.c, g.ldc, g.n, per_c) || !fits(addend, ld_addend, g.n, per_c)) {
    return false;
  }
  if (g.m > INT32_MAX || g.n > INT32_MAX || g.k > INT32_MAX) return false;

  Key key = {};
  key[kM] = g.m;
  key[kN] = g.n;
  key[kK] = g.k;
  key[kLda] = g.lda;
  key[kLdb] = g.ldb;
  key[kLdc] = g.ldc;
  key[kLdResidual] = ld_addend;
  key[kTransAField] = g.trans_a != 0;
  key[kTransBField] = g.trans_b != 0;
  key[kType] = type_of(g.a_dtype);
  key[kCType] = type_of(g.c_dtype);
  const uint32_t epilogue = (relu ? lt::kRelu : 0u) | (g.bias ? lt::kBias : 0u);
  key[kEpilogueField] = epilogue ? epilogue : static_cast<uint32_t>(lt::kDefault);
  key[kAlignA] = alignment_of(g.a);
  key[kAlignB] = alignment_of(g.b);
  key[kAlignC] = alignment_of(addend);
  key[kAlignD] = alignment_of(g.c);
  const bool rounds = g.bias && g.c_dtype != ALLMREC_F32;
  key[kAlignBias] = rounds ? kScratchAlignment : alignment_of(g.bias);
  Plan& plan = plan_of(key);
  if (!plan.usable) return false;

  const Scratch rounded(context, rounds ? static_cast<size_t>(g.n) * 2 : 0);
  if (rounds)
    gemm_convert(context, g.bias, ALLMREC_F32, nullptr, 1, g.n, g.n, rounded.as<void>(), g.c_dtype, g.n);
  const void* bias = rounds ? rounded.as<void>() : g.bias;
  if (g.bias && functions_.desc_set(plan.desc, lt::kBiasPointer, &bias, sizeof bias) != 0) return false;
  const Scratch workspace(context, plan.result.workspace_bytes);
  const float alpha = g.alpha, beta = g.residual || g.accumulate ? 1.0f : 0.0f;
  // Nothing ran when it fails: our own kernel takes over, for this shape from now on.
  const lt::Status status = functions_.matmul(
      handle_, plan.desc, &alpha, g.b, plan.a, g.a, plan.b, &beta, addend, plan.c, g.c, plan.d,
      &plan.result.algorithm, workspace.as<void>(), plan.result.workspace_bytes, context.stream);
  if (status != 0) plan.usable = false;
  return status == 0;
}

}  // namespace allmrec::cuda
