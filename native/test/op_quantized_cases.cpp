#include "op_fixture.h"

namespace allmrec::test {

void quantized_cases(Cases& cases) {
  (void)cases;
}

}  // namespace allmrec::test
