#include "finite_watch.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "../core/tensor.h"
#include "device.h"

namespace allmrec {
namespace {

// The first exponent of a float16 or bfloat16 that stands for no finite number.
constexpr uint16_t kF16Exponent = 0x7c00, kBf16Exponent = 0x7f80;

constexpr int64_t kBlock = 1 << 18;  // numbers that come to the host at once

// Place of the first number that is not finite, n when there is none, with how it reads.
int64_t first_not_finite(int32_t dtype, const unsigned char* data, int64_t n, const char*& reads) {
  for (int64_t i = 0; i < n; ++i) {
    bool finite = true, nan = false, negative = false;
    if (dtype == ALLMREC_F32) {
      float x;
      std::memcpy(&x, data + 4 * i, sizeof x);
      finite = std::isfinite(x), nan = std::isnan(x), negative = std::signbit(x);
    } else {
      uint16_t bits;
      std::memcpy(&bits, data + 2 * i, sizeof bits);
      const uint16_t exponent = dtype == ALLMREC_F16 ? kF16Exponent : kBf16Exponent;
      finite = (bits & exponent) != exponent, nan = (bits & 0x7fff) != exponent, negative = bits >> 15;
    }
    if (finite) continue;
    reads = nan ? "NaN" : negative ? "-infinity" : "infinity";
    return i;
  }
  return n;
}

}  // namespace

void FiniteWatch::name(const void* begin, size_t bytes, std::string name) {
  const auto* first = static_cast<const unsigned char*>(begin);
  names_[first] = {first + bytes, std::move(name)};
}

template <typename Args>
void FiniteWatch::begin(const char* op, const Args& args) {
  op_ = op;
  args_ = reinterpret_cast<const unsigned char*>(&args);
  args_size_ = sizeof args;
  ++number_;
}

// The named memory that the op's arguments point into. Every pointer of an argument struct lies at a multiple
// of its size.
std::string FiniteWatch::operands() const {
  std::string text;
  for (size_t at = 0; at + sizeof(void*) <= args_size_; at += sizeof(void*)) {
    const unsigned char* pointer;
    std::memcpy(&pointer, args_ + at, sizeof pointer);
    auto range = names_.upper_bound(pointer);
    if (range == names_.begin()) continue;
    --range;
    if (pointer < range->second.end && text.find(range->second.name) == std::string::npos)
      text += (text.empty() ? "" : " and ") + range->second.name;
  }
  return text;
}

// Rows [row, row + count), which come to the host as one piece with what lies between them.
void FiniteWatch::look_at_rows(const Written& w, int64_t row, int64_t count) {
  std::vector<unsigned char> host(static_cast<size_t>(bytes_of(w.dtype, (count - 1) * w.ld + w.cols)));
  device_.download(host.data(), static_cast<const unsigned char*>(w.data) + bytes_of(w.dtype, row * w.ld),
                   host.size());
  for (int64_t i = 0; i < count; ++i) {
    const char* reads = "";
    const int64_t column =
        first_not_finite(w.dtype, host.data() + bytes_of(w.dtype, i * w.ld), w.cols, reads);
    if (column == w.cols) continue;
    const std::string named = operands();
    throw Error(ErrorCode::numeric,
                "the first number that is not finite is " + std::string(reads) + ", in row " +
                    std::to_string(row + i) + " and column " + std::to_string(column) + " of what the op `" +
                    op_ + "` wrote (" + std::to_string(w.rows) + " × " + std::to_string(w.cols) + ", op " +
                    std::to_string(number_) + (named.empty() ? "" : ", with " + named) + ")");
  }
}

void FiniteWatch::look(const Written& w) {
  if (!w.data || w.cols == 0) return;
  if (!w.picked) {
    const int64_t block = std::max<int64_t>(1, kBlock / std::max<int64_t>(1, w.ld));
    for (int64_t row = 0; row < w.rows; row += block) look_at_rows(w, row, std::min(block, w.rows - row));
    return;
  }
  std::vector<int32_t> rows(static_cast<size_t>(w.rows));
  device_.download(rows.data(), w.picked, rows.size() * sizeof(int32_t));
  for (const int32_t row : rows)
    if (row >= 0) look_at_rows(w, row, 1);
}

int64_t FiniteWatch::last_of(const int32_t* offsets, int64_t index) {
  int32_t value = 0;
  device_.download(&value, offsets + index, sizeof value);
  return value;
}

void FiniteWatch::gemm(const allmrec_gemm_args& a) {
  begin("gemm", a);
  look({a.c, a.m, a.n, a.ldc, a.c_dtype});
}

void FiniteWatch::column_sum(const allmrec_column_sum_args& a) {
  begin("column_sum", a);
  look_at(a.out, a.cols);
}

void FiniteWatch::layer_norm(const allmrec_layer_norm_args& a) {
  begin("layer_norm", a);
  look({a.y, a.rows, a.cols, a.cols, a.dtype});
}

void FiniteWatch::layer_norm_backward(const allmrec_layer_norm_backward_args& a) {
  begin("layer_norm_backward", a);
  look({a.dx, a.rows, a.cols, a.cols, a.dtype});
  look_at(a.d_gamma, a.cols);
  look_at(a.d_beta, a.cols);
}

void FiniteWatch::attention(const allmrec_attention_args& a) {
  begin("attention", a);
  look({a.out, a.tokens, static_cast<int64_t>(a.heads) * a.head_dim, a.ldout, a.dtype});
}

void FiniteWatch::attention_backward(const allmrec_attention_backward_args& a) {
  begin("attention_backward", a);
  const allmrec_attention_args& f = a.forward;
  const int64_t width = static_cast<int64_t>(f.heads) * f.head_dim;
  look({a.dq, f.tokens, width, a.ld_dq, f.dtype});
  for (int64_t s = 0; s < f.num_sequences; ++s) {
    const int64_t start = last_of(f.kv_start, s), length = last_of(f.kv_len, s);
    const auto keys = [&](const void* base, int64_t ld) {
      if (base)
        look({static_cast<const unsigned char*>(base) + bytes_of(f.dtype, start * ld), length, width, ld,
              f.dtype});
    };
    keys(a.dk, a.ld_dk);
    keys(a.dv, a.ld_dv);
  }
  look_at(a.d_pad_k, width);
  look_at(a.d_pad_v, width);
}

void FiniteWatch::activation(const allmrec_activation_args& a) {
  begin("activation", a);
  if (a.kind != ALLMREC_ACT_RELU_BITS) look({a.y, 1, a.n, a.n, a.dtype});
}

void FiniteWatch::activation_backward(const allmrec_activation_backward_args& a) {
  begin("activation_backward", a);
  look({a.dx, 1, a.n, a.n, a.dtype});
}

void FiniteWatch::add(const allmrec_add_args& a) {
  begin("add", a);
  look({a.y, 1, a.n, a.n, a.dtype});
}

void FiniteWatch::mul(const allmrec_mul_args& a) {
  begin("mul", a);
  look_at(a.y, a.n);
}

void FiniteWatch::dropout(const allmrec_dropout_args& a) {
  begin("dropout", a);
  look({a.y, 1, a.n, a.n, a.dtype});
}

void FiniteWatch::embedding(const allmrec_embedding_args& a) {
  begin("embedding", a);
  look({a.out, a.tokens, a.cols, a.cols, a.out_dtype});
}

void FiniteWatch::embedding_backward(const allmrec_embedding_backward_args& a) {
  begin("embedding_backward", a);
  look({a.d_table, a.table_rows, a.cols, a.cols});
  look({a.d_soft, a.soft_rows, a.cols, a.cols});
  look({a.d_positions, a.position_rows, a.cols, a.cols});
  look_at(a.d_constant, a.cols);
}

void FiniteWatch::gather_rows(const allmrec_rows_args& a) {
  begin("gather_rows", a);
  look({a.out, a.count, a.cols, a.ldout, a.dtype});
}

void FiniteWatch::scatter_add_rows(const allmrec_rows_args& a) {
  begin("scatter_add_rows", a);
  look({a.out, a.count, a.cols, a.ldout, a.dtype, a.rows});
}

void FiniteWatch::put_rows(const allmrec_rows_args& a) {
  begin("put_rows", a);
  look({a.out, a.count, a.cols, a.ldout, a.dtype, a.rows});
}

void FiniteWatch::segment_mean(const allmrec_segment_mean_args& a) {
  begin("segment_mean", a);
  look({a.out, a.segments, a.cols, a.cols, a.dtype});
}

void FiniteWatch::segment_mean_backward(const allmrec_segment_mean_args& a) {
  begin("segment_mean_backward", a);
  look({a.out, last_of(a.offsets, a.segments), a.cols, a.cols, a.dtype});
}

void FiniteWatch::row_dot(const allmrec_row_dot_args& a) {
  begin("row_dot", a);
  look({a.out, a.rows, 1, 1});
}

void FiniteWatch::row_dot_backward(const allmrec_row_dot_backward_args& a) {
  begin("row_dot_backward", a);
  look({a.da, a.rows, a.cols, a.cols});
  look({a.db, a.rows, a.cols, a.cols});
}

void FiniteWatch::bce(const allmrec_bce_args& a) {
  begin("bce", a);
  look_at(a.loss, 1);
  look_at(a.d_logits, a.n);
}

void FiniteWatch::mse(const allmrec_mse_args& a) {
  begin("mse", a);
  look_at(a.loss, 1);
  look_at(a.da, a.n);
  look_at(a.db, a.n);
}

void FiniteWatch::cross_entropy(const allmrec_cross_entropy_args& a) {
  begin("cross_entropy", a);
  look({a.log_prob, a.rows, 1, 1});
  look_at(a.loss, 1);
  look({a.d_logits, a.rows, a.cols, a.ld_d});
}

void FiniteWatch::l2_normalize(const allmrec_l2_normalize_args& a) {
  begin("l2_normalize", a);
  look({a.y, a.rows, a.cols, a.cols});
}

void FiniteWatch::l2_normalize_backward(const allmrec_l2_normalize_backward_args& a) {
  begin("l2_normalize_backward", a);
  look({a.dx, a.rows, a.cols, a.cols});
}

void FiniteWatch::sum(const allmrec_sum_args& a) {
  begin("sum", a);
  look_at(a.out, 1);
}

void FiniteWatch::top_k(const allmrec_top_k_args&) {
  ++number_;
}

void FiniteWatch::gru(const allmrec_gru_args& a) {
  begin("gru", a);
  look({a.out, a.batch * a.steps, a.hidden, a.hidden});
}

void FiniteWatch::gru_backward(const allmrec_gru_backward_args& a) {
  begin("gru_backward", a);
  const int64_t h = a.forward.hidden;
  look({a.d_gates_x, a.forward.batch * a.forward.steps, 3 * h, 3 * h});
  look({a.d_h0, a.forward.batch, h, h});
  look({a.d_w_hh, 3 * h, h, h});
  look_at(a.d_b_hh, 3 * h);
}

void FiniteWatch::adam(const allmrec_adam_args& a) {
  begin("adam", a);
  for (int64_t i = 0; i < a.count; ++i) {
    look_at(a.tensors[i].param, a.tensors[i].n);
    look_at(a.tensors[i].v, a.tensors[i].n);
  }
}

void FiniteWatch::squared_norm(const allmrec_squared_norm_args& a) {
  begin("squared_norm", a);
  look_at(a.out, 1);
}

void FiniteWatch::random(const allmrec_random_args& a) {
  begin("random", a);
  look_at(a.x, a.n);
}

void FiniteWatch::copy_2d(const allmrec_copy_2d_args& a) {
  begin("copy_2d", a);
  look({a.y, a.rows, a.cols, a.ldy, a.dtype});
}

void FiniteWatch::cast(const allmrec_cast_args& a) {
  begin("cast", a);
  look({a.y, 1, a.n, a.n, a.y_dtype});
}

void FiniteWatch::quantize(const allmrec_quantize_args& a) {
  begin("quantize", a);
  if (a.dtype == ALLMREC_I8)
    look_at(a.scales, a.rows);
  else
    look({a.scales, a.rows, a.cols / 32, a.cols / 32, ALLMREC_F16});
}

void FiniteWatch::advance(const allmrec_advance_args&) {
  ++number_;
}

void FiniteWatch::conv(const allmrec_conv_args& a) {
  begin("conv", a);
  look({a.y, a.batch * a.steps, a.c_out, a.c_out});
}

void FiniteWatch::conv_backward(const allmrec_conv_backward_args& a) {
  begin("conv_backward", a);
  const allmrec_conv_args& f = a.forward;
  look({a.dx, f.batch * f.steps, f.c_in, f.c_in});
  look({a.d_w, f.taps * f.c_out, f.c_in, f.c_in});
  look_at(a.d_bias, f.c_out);
}

void FiniteWatch::spmm(const allmrec_spmm_args& a) {
  begin("spmm", a);
  look({a.out, a.rows, a.cols, a.cols});
}

void FiniteWatch::rank_catalogue(const allmrec_rank_catalogue_args&) {
  ++number_;
}

}  // namespace allmrec
