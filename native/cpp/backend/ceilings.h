#pragma once

// How a device's `Ceilings` (costs.h) are found.

#include <string>

#include "costs.h"
#include "device.h"

namespace allmrec {

// Of a processor: chains of multiply-adds, of bfloat16 and of 8-bit dot products where it has them, and
// passes over memory. Takes some tenths of a second. `instruction` is the instruction set the kernels were
// chosen for.
Ceilings measure_cpu(const std::string& instruction, int threads);

// Of a card, from a table; zeros where it is not in it.
Ceilings card_ceilings(const std::string& name);

// Of another card: the best our own product and copy do, which is a low ceiling but an honest one.
Ceilings measure_card(Device& device);

// Of any device; of the emulator zeros, for its times say nothing.
Ceilings ceilings_of(Device& device);

}  // namespace allmrec
