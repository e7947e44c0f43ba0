#pragma once

#include <string>
#include <vector>

#include "backend.h"

namespace allmrec {

struct BackendEntry {
  std::string name;
  const allmrec_backend* table = nullptr;  // null when it could not be loaded
  std::string reason;                      // "code: sentence" when not
};

// The compiled-in CPU back end first, then the plug-ins that can be looked for.
std::vector<BackendEntry> list_backends();

// Throws ErrorCode::device with the reason when it is not there.
const allmrec_backend* find_backend(const std::string& name);

}  // namespace allmrec
