#include "gemm.h"
namespace allmrec::cpu::ALLMREC_ISA {
bool gemm_int8(Device&, const allmrec_gemm_args&) { return false; }
}
