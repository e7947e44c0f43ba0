// The op gemm: which kernel a product goes to.
//
//   A      B              orientation        to
//   any    I8, I4, half   trans_b, m <= 8    matvec: bound by the weights' bytes, no matrix units needed
//   F32    F32            large              cuBLASLt, if there; else gemm_float
//   F32    half           any                gemm_float, widened on the way
//   half   the same half  large, aligned     cuBLASLt, if there; else gemm_half
//   half   F32            m <= 128           gemm_half, rounded on the way: B is read once or twice
//   half   F32            m > 128            B written out in halves (6 bytes a weight), then as above
//   any    I8, I4         m > 8              gemm_quantized
//
// "Large" is at least 128 in every dimension: one of cuBLASLt's tiles is filled, and its call, a microsecond
// or two more of the host's time than a launch, is hidden behind work already queued.

#include "gemm_kernels.h"

#include "cublaslt.h"
#include "matvec.h"
#include "ops.h"

namespace allmrec::cuda {

namespace {

constexpr int64_t kManyRows = 128;

constexpr double kL2BytesPerMicrosecond = 5.6e6 / 132;  // of one multiprocessor

// The time of a plan in microseconds, as gemm_kernels.h says. Rows and columns outside of the product cost
// arithmetic but are not read.
double microseconds(const GemmTile& tile, int64_t m, int64_t n, int64_t tiles, int64_t splits, int64_t steps,
                    int multiprocessors) {
  const int64_t each = divide_up(tiles * splits, multiprocessors);
  const double depth = tile.depth;
  const double arithmetic = 2.0 * tile.m * tile.n * depth / (tile.tera_per_second * 1e6);
  const double bytes = depth * static_cast<double>(std::min<int64_t>(m, tile.m) * tile.bytes_a +
                                                   std::min<int64_t>(n, tile.n) * tile.bytes_b);
  const double work = static_cast<double>(each) * std::max(arithmetic, bytes / kL2BytesPerMicrosecond);
  const double latency = static_cast<double>(divide_up(each, tile.resident)) * tile.step_latency;
  const double parts =
      splits > 1 ? 3.0 + 8.0 * static_cast<double>(m) * static_cast<double>(n * splits) / 3e6 : 0.0;
  return static_cast<double>(steps) * std::max(work, latency) + parts;
}

bool is_large(const allmrec_gemm_args& g) {
  return g.m >= kManyRows && g.n >= kManyRows && g.k >= kManyRows;
}

void gemm_same_dtype(Context& context, const allmrec_gemm_args& g) {
  if (context.cublas_lt && is_large(g) && context.cublas_lt->gemm(context, g)) return;
  g.a_dtype == ALLMREC_F32 ? gemm_float(context, g) : gemm_half(context, g);
}

}  // namespace

GemmPlan plan_gemm(const GemmTile* tiles, int count, int64_t m, int64_t n, int64_t k, int multiprocessors) {
  GemmPlan best = {};
  double best_time = 0;
  for (int t = 0; t < count; ++t) {
    const GemmTile& tile = tiles[t];
    const int64_t tiles_m = divide_up(m, tile.m), tiles_n = divide_up(n, tile.n);
    const int64_t steps = std::max<int64_t>(1, divide_up(k, tile.depth));
    if (tiles_m * tiles_n > INT32_MAX || k > INT32_MAX)
      unsupported("gemm: more than 2^31 tiles, or k > 2^31.");
    // A part has at least four steps.
    const int64_t most =
        tiles_m * tiles_n < 2 * multiprocessors ? std::min(steps / 4, int64_t{2} * multiprocessors) : 1;
    for (int64_t splits = 1; splits == 1 || splits <= most; splits *= 2) {
      const int64_t part = divide_up(steps, splits);
      const int64_t parts = divide_up(steps, part);
      const double time = microseconds(tile, m, n, tiles_m * tiles_n, parts, part, multiprocessors);
      if (best.splits != 0 && time >= best_time) continue;
      best_time = time;
      best = {t, static_cast<int>(tiles_m), static_cast<int>(tiles_n), static_cast<int>(parts),
              part * tile.depth};
    }
  }
  return best;
}

GemmEpilogue epilogue_of(const allmrec_gemm_args& g) {
  GemmEpilogue e = {};
  e.m = g.m;
  e.n = g.n;
  e.alpha = g.alpha;
  e.bias = g.bias;
  e.residual = g.residual;
  e.ld_residual = g.ld_residual;
  e.c = g.c;
  e.ldc = g.ldc;
  e.relu = g.activation == ALLMREC_ACT_RELU;
  e.accumulate = g.accumulate != 0;
  e.float_c = g.c_dtype == ALLMREC_F32;
  const uintptr_t size = e.float_c ? 4 : 2;
  for (e.width = 4; e.width > 1; e.width /= 2) {
    const auto fits = [&](const void* x, int64_t ld) {
      return reinterpret_cast<uintptr_t>(x) % (size * e.width) == 0 && ld % e.width == 0;
    };
    if (fits(g.c, g.ldc) && (!g.residual || fits(g.residual, g.ld_residual))) break;
  }
  return e;
}

void gemm_with_converted_b(Context& context, const allmrec_gemm_args& g, int32_t dtype) {
  const int64_t rows = g.trans_b ? g.n : g.k, cols = g.trans_b ? g.k : g.n;
  allmrec_gemm_args converted = g;
  converted.ldb = divide_up(cols, 8) * 8;
  const Scratch b(context, static_cast<size_t>(rows * converted.ldb) * (dtype == ALLMREC_F32 ? 4 : 2));
  gemm_convert(context, g.b, g.b_dtype, g.b_scales, rows, cols, g.ldb, b.as<void>(), dtype, converted.ldb);
  converted.b = b.as<void>();
  converted.b_dtype = dtype;
  converted.b_scales = nullptr;
  gemm_same_dtype(context, converted);
}

void gemm(Context& context, const allmrec_gemm_args& g) {
  if (g.m == 0 || g.n == 0) return;
  const bool quantized = g.b_dtype == ALLMREC_I8 || g.b_dtype == ALLMREC_I4;
  const bool float_b = g.b_dtype == ALLMREC_F32;
  if (!float_b && g.m <= kMatvecRows && g.k > 0 && g.trans_b && !g.trans_a) return matvec(context, g);
  if (quantized) return gemm_quantized(context, g);
  if (g.a_dtype == g.b_dtype) return gemm_same_dtype(context, g);
  if (g.a_dtype == ALLMREC_F32) return gemm_float(context, g);
  if (!float_b) unsupported("gemm: a of one half dtype and b of the other.");
  g.m <= kManyRows ? gemm_half(context, g) : gemm_with_converted_b(context, g, g.a_dtype);
}

}  // namespace allmrec::cuda
