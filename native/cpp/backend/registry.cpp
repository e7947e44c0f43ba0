#include "registry.h"

#include <dlfcn.h>

#include <cstdlib>
#include <mutex>

#include "../core/error.h"
#include "../cpu/backend.h"

namespace allmrec {
namespace {

// A plug-in is opened once per process, with its symbols kept to itself, and never closed: a driver's threads
// and handlers may outlive any owner we could name.
BackendEntry load_plugin(const std::string& name, const char* variable) {
  BackendEntry entry;
  entry.name = name;
  const char* path = std::getenv(variable);
  if (path == nullptr || *path == '\0') {
    entry.reason =
        "no_library: no " + name + " back end is installed; " + variable + " may name its library.";
    return entry;
  }
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    entry.reason = std::string("cannot_open: ") + dlerror();
    return entry;
  }
  auto entry_point = reinterpret_cast<allmrec_backend_entry_fn>(dlsym(library, "allmrec_backend_entry"));
  if (entry_point == nullptr) {
    entry.reason = std::string("no_entry_point: ") + path + " does not export allmrec_backend_entry.";
    return entry;
  }
  const allmrec_backend* table = entry_point();
  if (table == nullptr || table->abi_version != ALLMREC_BACKEND_ABI || table->struct_size != sizeof(*table)) {
    entry.reason = std::string("wrong_version: ") + path + " speaks version " +
                   (table ? std::to_string(table->abi_version) : "none") +
                   " of the op table, this build version " + std::to_string(ALLMREC_BACKEND_ABI) + ".";
    return entry;
  }
  entry.table = table;
  return entry;
}

}  // namespace

std::vector<BackendEntry> list_backends() {
  static std::mutex mutex;
  static const BackendEntry* cuda = nullptr;
  std::lock_guard<std::mutex> lock(mutex);
  if (cuda == nullptr) cuda = new BackendEntry(load_plugin("cuda", "ALLMREC_CUDA_LIBRARY"));
  BackendEntry cpu;
  cpu.name = "cpu";
  cpu.table = cpu_backend();
  return {cpu, *cuda};
}

const allmrec_backend* find_backend(const std::string& name) {
  for (const BackendEntry& entry : list_backends()) {
    if (entry.name != name) continue;
    if (entry.table) return entry.table;
    throw Error(ErrorCode::device, "Device `" + name + "` cannot be used (" + entry.reason + ")");
  }
  throw Error(ErrorCode::invalid_argument, "Expected `device` to be auto, cpu or cuda, got `" + name + "`.");
}

}  // namespace allmrec
