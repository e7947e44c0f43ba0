// Embedding look-up and its gradients. Bound by bytes: one row of the table in, one row out a token.
// Idea: one launch for everything, whatever the table's dtype: row = table[id] or soft[−id − 1], scaled, plus
// position and constant, dropped, rounded. A thread takes 8 consecutive columns of two tokens (one call of
// Philox each), or one column of two tokens where rows cannot be read in vectors; rows of 8 and 4 bits are
// unpacked in registers. The backward is scatter.cu's: table and soft rows, positions and constant are three
// sets of targets of the same three launches, tokens of a frozen table are left out. Expected on an H200:
// 80–90 % of the copy bandwidth for rows of 512 bytes and more; SASRec's 6,400 × 50: 2–3 µs forward, 8–10 µs
// backward. Not yet measured on hardware.

#include "dequantize.h"
#include "ops.h"
#include "row_copy.h"
#include "scatter.h"
#include "values.h"

namespace allmrec::cuda {

namespace {

constexpr int kThreads = 256;

// A table of halves or floats, with the members of Int8Rows.
template <typename T>
struct StoredRows {
  const T* table;
  int64_t ld;

  bool vectors() const { return aligned_16(table) && ld % 8 == 0; }
  __device__ __forceinline__ float at(int64_t row, int64_t col) const {
    return to_float(table[row * ld + col]);
  }
  __device__ __forceinline__ void load8(int64_t row, int64_t col, float (&out)[8]) const {
    load_values<8>(table + row * ld + col, out);
  }
};

struct Lookup {
  int64_t tokens, cols, pieces;
  const int32_t* ids;
  const float* soft;
  float scale;
  const float* positions;
  const int32_t* position_ids;
  const float* constant;
  Dropout dropout;
  void* out;
  int32_t out_dtype;
};

template <int V, typename Rows>
__device__ __forceinline__ void load_row(const Rows& rows, int64_t row, int64_t column, float (&out)[V]) {
  if constexpr (V == 1)
    out[0] = rows.at(row, column);
  else
    rows.load8(row, column, out);
}

template <typename Rows, int V>
__global__ void __launch_bounds__(kThreads, 2) embedding_kernel(Rows table, Lookup p) {
  constexpr int kTokens = 2;  // in flight; the tiles of kRowsInFlight rows are walked in steps of it
  const int64_t stride = int64_t{gridDim.y} * blockDim.x;
  for (int64_t piece = int64_t{blockIdx.y} * blockDim.x + threadIdx.x; piece < p.pieces; piece += stride) {
    const int64_t column = piece * V;
    for (int step = 0; step < kRowsInFlight; step += kTokens) {
      const int64_t first = (int64_t{blockIdx.x} * kRowsInFlight + step) * blockDim.y + threadIdx.y;
      float value[kTokens][V], position[kTokens][V];
#pragma unroll
      for (int k = 0; k < kTokens; ++k) {
        const int64_t token = first + k * int64_t{blockDim.y};
        if (token >= p.tokens) continue;
        const int64_t id = p.ids[token];
        if (id >= 0)
          load_row<V>(table, id, column, value[k]);
        else
          load_values<V>(p.soft + (-id - 1) * p.cols + column, value[k]);
        if (p.positions)
          load_values<V>(p.positions + int64_t{p.position_ids[token]} * p.cols + column, position[k]);
      }
      float constant[V] = {};
      if (p.constant) load_values<V>(p.constant + column, constant);
#pragma unroll
      for (int k = 0; k < kTokens; ++k) {
        const int64_t token = first + k * int64_t{blockDim.y};
        if (token >= p.tokens) continue;
        const int64_t element = token * p.cols + column;
        float factor[V];
        dropout_factors<V>(p.dropout, static_cast<uint64_t>(element), factor);
#pragma unroll
        for (int j = 0; j < V; ++j) {
          float sum = value[k][j] * p.scale;
          if (p.positions) sum += position[k][j];
          value[k][j] = (sum + constant[j]) * factor[j];
        }
        if (p.out_dtype == ALLMREC_F32)
          store_values<V>(static_cast<float*>(p.out) + element, value[k]);
        else if (p.out_dtype == ALLMREC_F16)
          store_values<V>(static_cast<__half*>(p.out) + element, value[k]);
        else
          store_values<V>(static_cast<__nv_bfloat16*>(p.out) + element, value[k]);
      }
    }
  }
}

}  // namespace

void embedding(Context& context, const allmrec_embedding_args& a) {
  if (a.tokens == 0 || a.cols == 0) return;
  Lookup p = {a.tokens, a.cols,      a.cols,         a.ids,      a.soft,
              a.scale,  a.positions, a.position_ids, a.constant, dropout_of(a.dropout),
              a.out,    a.out_dtype};
  const bool aligned = a.cols % 8 == 0 && aligned_16(a.soft) && aligned_16(a.positions) &&
                       aligned_16(a.constant) && aligned_16(a.out);
  const auto run = [&](auto rows) {
    using Rows = decltype(rows);
    const bool vectors = aligned && rows.vectors();
    p.pieces = vectors ? a.cols / 8 : a.cols;
    const RowTiles tiles = row_tiles(a.tokens, p.pieces);
    launch(vectors ? embedding_kernel<Rows, 8> : embedding_kernel<Rows, 1>, tiles.grid, tiles.block, 0,
           context.stream, rows, p);
  };
  by_storage(a.table_dtype, [&](auto zero) {
    using T = decltype(zero);
    run(StoredRows<T>{static_cast<const T*>(a.table), a.cols});
  });
  by_quantized(a.table_dtype, a.table, a.table_scales, a.cols, run);
}

void embedding_backward(Context& context, const allmrec_embedding_backward_args& a) {
  ScatterAdd scatter = {};
  scatter.count = a.tokens;
  scatter.cols = scatter.ldx = scatter.ldout = a.cols;
  scatter.x = a.dy;
  scatter.x_dtype = a.dy_dtype;
  scatter.out_dtype = ALLMREC_F32;
  scatter.dropout = dropout_of(a.dropout);
  if (a.d_table || a.d_soft) scatter.jobs[scatter.num_jobs++] = {a.ids, a.d_table, a.d_soft, a.scale};
  if (a.d_positions) scatter.jobs[scatter.num_jobs++] = {a.position_ids, a.d_positions, nullptr, 1.0f};
  if (a.d_constant) scatter.jobs[scatter.num_jobs++] = {nullptr, a.d_constant, nullptr, 1.0f};
  scatter_add(context, scatter);
}

}  // namespace allmrec::cuda
