#pragma once

#include "../backend/backend.h"

namespace allmrec {

// The processor as a back end. The environment variable ALLMREC_ISA = generic | avx2 | avx512 | avx512+vnni |
// avx512+vnni+bf16 chooses the instruction set at `open`; without it the best one the processor has is taken.
const allmrec_backend* cpu_backend();

}  // namespace allmrec
