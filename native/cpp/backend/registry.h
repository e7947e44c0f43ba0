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

// The compiled-in CPU back end first, then the plug-ins that can be looked for. The emulated one is listed
// only where it has been asked for.
std::vector<BackendEntry> list_backends();

// Throws ErrorCode::device with the reason when it is not there.
const allmrec_backend* find_backend(const std::string& name);

// Where to look for the library of the back end `name`, if its environment variable (ALLMREC_CUDA_LIBRARY,
// ALLMREC_CUDAEMU_LIBRARY) does not say; an empty path is "beside this library" again. Once a back end is
// loaded it stays.
void set_backend_library(const std::string& name, const std::string& path);

}  // namespace allmrec
