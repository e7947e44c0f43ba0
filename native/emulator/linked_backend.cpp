// For programs that have the emulated back end linked in: the registry finds it instead of opening a library.
#include "../cpp/backend/registry.h"

#include "../cpp/core/error.h"

extern "C" const allmrec_backend* allmrec_backend_entry(void);

namespace allmrec {

std::vector<BackendEntry> list_backends() {
  BackendEntry entry;
  entry.table = allmrec_backend_entry();
  entry.name = entry.table->name;
  return {entry};
}

const allmrec_backend* find_backend(const std::string& name) {
  const allmrec_backend* table = allmrec_backend_entry();
  if (name != table->name)
    throw Error(ErrorCode::invalid_argument,
                "This program has only the back end " + std::string(table->name) + ".");
  return table;
}

}  // namespace allmrec
