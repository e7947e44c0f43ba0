#pragma once

#include "../device.h"

namespace allmrec::cpu::ALLMREC_ISA {

// Every op of the table for one instruction set, each defined in the file of ops/ that has its name.
#define ALLMREC_DECLARE(op, args) void op(Device& device, const args& a);
ALLMREC_OPS(ALLMREC_DECLARE)
#undef ALLMREC_DECLARE
void cast_rows(Device& device, const CastRows& a);

}  // namespace allmrec::cpu::ALLMREC_ISA
