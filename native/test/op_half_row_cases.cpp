#include "op_fixture.h"

namespace allmrec::test {

void half_row_cases(Cases& cases) {
  (void)cases;
}

}  // namespace allmrec::test
