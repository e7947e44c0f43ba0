#pragma once

#include "check.h"

namespace allmrec::test {

void cpu_half_tests();

}  // namespace allmrec::test
