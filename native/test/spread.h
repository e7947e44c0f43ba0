#pragma once

#include <cmath>

#include "reference.h"

namespace allmrec::test {

// Rows of `width` set `gap` apart, NaN between.
inline reference::Values spread(const reference::Values& x, int64_t width, int64_t gap) {
  reference::Values out;
  for (size_t i = 0; i < x.size(); ++i) {
    out.push_back(x[i]);
    if ((static_cast<int64_t>(i) + 1) % width == 0) out.insert(out.end(), gap, std::nan(""));
  }
  return out;
}

}  // namespace allmrec::test
