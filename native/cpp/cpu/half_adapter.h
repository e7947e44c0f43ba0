#pragma once

#include "device.h"

// The CPU's kernels compute in float32. Here an op on F16 or BF16 activations becomes the same op on float32
// copies, whose outputs are rounded once; what is added to is read as it was. Ops that only move values
// (gather_rows, put_rows, copy_2d, cast) and inputs with dtypes of their own (weights, tables of embeddings,
// attention's keys and values) need no copies.
namespace allmrec::cpu {

// Ops without half activations, and all others on float32.
template <typename Args>
void run(Device& device, void (*kernel)(Device&, const Args&), const Args& a) {
  kernel(device, a);
}

#define ALLMREC_HALF_ARGS(X)          \
  X(allmrec_gemm_args)                \
  X(allmrec_column_sum_args)          \
  X(allmrec_layer_norm_args)          \
  X(allmrec_layer_norm_backward_args) \
  X(allmrec_attention_args)           \
  X(allmrec_attention_backward_args)  \
  X(allmrec_activation_args)          \
  X(allmrec_activation_backward_args) \
  X(allmrec_add_args)                 \
  X(allmrec_dropout_args)             \
  X(allmrec_embedding_args)           \
  X(allmrec_embedding_backward_args)  \
  X(allmrec_rows_args)                \
  X(allmrec_segment_mean_args)        \
  X(allmrec_copy_2d_args)
#define ALLMREC_DECLARE(args) void run(Device& device, void (*kernel)(Device&, const args&), const args& a);
ALLMREC_HALF_ARGS(ALLMREC_DECLARE)
#undef ALLMREC_DECLARE
#undef ALLMREC_HALF_ARGS

}  // namespace allmrec::cpu
