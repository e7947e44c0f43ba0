#include "op_fixture.h"

namespace allmrec::test {

void sequence_cases(Cases& cases) {
  (void)cases;
}

}  // namespace allmrec::test
