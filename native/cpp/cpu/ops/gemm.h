#pragma once

#include "ops.h"

// The ways a product can go besides float32 arithmetic. Each returns false when the product is not its own,
// or the processor lacks the instructions; m, n > 0.
namespace allmrec::cpu::ALLMREC_ISA {

bool gemm_few_rows(Device& device, const allmrec_gemm_args& g);  // up to a dozen rows, B stored (n, k)
bool gemm_bf16(Device& device, const allmrec_gemm_args& g);      // operands rounded to bfloat16
bool gemm_int8(Device& device, const allmrec_gemm_args& g);      // A rounded to int8, B of I8 or I4

}  // namespace allmrec::cpu::ALLMREC_ISA
