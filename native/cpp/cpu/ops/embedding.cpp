// Embedding look-up with positions and a constant, then dropout; and its gradients. Bound by memory: random
// rows of the table in, T · C out. Idea of the backward: scatter-add through lists of tokens with the same id
// (rows.h), never touching rows of the table that no token uses; dropout is applied to dy once, before the up
// to four sums.
#include "dtype.h"
#include "rows.h"

namespace allmrec::cpu::ALLMREC_ISA {
namespace {

constexpr int64_t kGrain = 1 << 13;  // elements per task

// row(i, lanes) → out, with position and constant added.
template <typename Row>
ALLMREC_INLINE void write_row(const allmrec_embedding_args& a, int64_t token, Row row) {
  float* out = f32(a.out) + token * a.cols;
  const float* position = a.positions ? a.positions + int64_t{a.position_ids[token]} * a.cols : nullptr;
  sweep(a.cols, [&](int64_t i, auto lanes) {
    Vec value = row(i, lanes) * a.scale;
    if (position) value += get(position + i, lanes);
    if (a.constant) value += get(a.constant + i, lanes);
    put(out + i, value, lanes);
  });
}

}  // namespace

void embedding(Device& device, const allmrec_embedding_args& a) {
  if (a.cols == 0) return;
  device.pool.parallel_for(a.tokens, kGrain / a.cols + 1, [&](int64_t begin, int64_t end, int thread) {
    float* dequantized = is_quantized(a.table_dtype)
                             ? static_cast<float*>(device.scratch(thread, 0, static_cast<size_t>(a.cols) * 4))
                             : nullptr;
    for (int64_t t = begin; t < end; ++t) {
      if (t + kAhead < end && a.ids[t + kAhead] >= 0 && !is_quantized(a.table_dtype)) {
        const int64_t bytes = a.cols * size_of(a.table_dtype);
        const char* soon = static_cast<const char*>(a.table) + a.ids[t + kAhead] * bytes;
        prefetch_row(reinterpret_cast<const float*>(soon), bytes / 4);
      }
      const int64_t id = a.ids[t];
      if (id < 0 || a.table_dtype == ALLMREC_F32) {
        const float* row =
            id < 0 ? a.soft + (-id - 1) * a.cols : static_cast<const float*>(a.table) + id * a.cols;
        write_row(a, t, [&](int64_t i, auto lanes) { return get(row + i, lanes); });
      } else if (is_quantized(a.table_dtype)) {
        const float* row =
            dequantize(a.table, a.table_scales, a.table_dtype, a.cols, id, 0, a.cols, dequantized);
        write_row(a, t, [&](int64_t i, auto lanes) { return get(row + i, lanes); });
      } else {
        const uint16_t* row = static_cast<const uint16_t*>(a.table) + id * a.cols;
        write_row(a, t, [&](int64_t i, auto lanes) {
          return a.table_dtype == ALLMREC_F16 ? get_as<ALLMREC_F16>(row, i, lanes)
                                              : get_as<ALLMREC_BF16>(row, i, lanes);
        });
      }
    }
    if (!(a.dropout.p > 0.0f)) return;
    float* out = f32(a.out) + begin * a.cols;  // still in the cache
    sweep_dropout(a.dropout, begin * a.cols, (end - begin) * a.cols, [&](int64_t i, Vec factor, auto lanes) {
      put(out + i, get(out + i, lanes) * factor, lanes);
    });
  });
}

void embedding_backward(Device& device, const allmrec_embedding_backward_args& a) {
  const int64_t size = a.tokens * a.cols;
  if (size == 0) return;
  const float* dy = f32(a.dy);  // (T, C)
  if (a.dropout.p > 0.0f) {
    float* masked = static_cast<float*>(device.shared_scratch(1, static_cast<size_t>(size) * sizeof(float)));
    device.pool.parallel_for(size, kGrain, [&](int64_t begin, int64_t end, int) {
      sweep_dropout(a.dropout, begin, end - begin, [&](int64_t i, Vec factor, auto lanes) {
        put(masked + begin + i, get(f32(a.dy) + begin + i, lanes) * factor, lanes);
      });
    });
    dy = masked;
  }

  if (a.d_table || a.d_soft) {
    // Slots: the table's rows, then the soft rows.
    scatter_rows(
        device, a.tokens, a.cols, dy, a.cols, a.scale, a.table_rows + a.soft_rows,
        [&](int64_t t) { return a.ids[t] >= 0 ? a.ids[t] : a.table_rows - a.ids[t] - 1; },
        [&](int64_t t) -> float* {
          const int64_t id = a.ids[t];
          if (id >= 0) return a.d_table ? a.d_table + id * a.cols : nullptr;
          return a.d_soft ? a.d_soft + (-id - 1) * a.cols : nullptr;
        });
  }
  if (a.d_positions) {
    scatter_rows(
        device, a.tokens, a.cols, dy, a.cols, 1.0f, a.position_rows,
        [&](int64_t t) { return a.position_ids[t]; },
        [&](int64_t t) { return a.d_positions + int64_t{a.position_ids[t]} * a.cols; });
  }
  if (a.d_constant) column_sum(device, {a.tokens, a.cols, dy, a.cols, a.d_constant, 1, ALLMREC_F32});
}

}  // namespace allmrec::cpu::ALLMREC_ISA
