// The table of one instruction set: ALLMREC_ISA_kernels().
#include "ops.h"

#define ALLMREC_TEXT_(x) #x
#define ALLMREC_TEXT(x) ALLMREC_TEXT_(x)
#define ALLMREC_JOIN_(a, b) a##b
#define ALLMREC_JOIN(a, b) ALLMREC_JOIN_(a, b)

namespace allmrec::cpu {

const Kernels& ALLMREC_JOIN(ALLMREC_ISA, _kernels)() {
#define ALLMREC_ENTRY(op, args) ALLMREC_ISA::op,
  static constexpr Kernels kernels = {ALLMREC_TEXT(ALLMREC_ISA), 0, ALLMREC_ISA::cast_rows,
                                      ALLMREC_OPS(ALLMREC_ENTRY)};
#undef ALLMREC_ENTRY
  return kernels;
}

}  // namespace allmrec::cpu
