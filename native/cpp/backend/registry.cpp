#include "registry.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <mutex>

#include "../core/error.h"
#include "../core/version.h"
#include "../cpu/backend.h"

namespace allmrec {
namespace {

struct Plugin {
  const char* name;
  const char* variable;
  bool always_listed;
  std::string path;  // set by set_backend_library
  const allmrec_backend* table = nullptr;
};

std::mutex mutex;
Plugin plugins[] = {
    {"cuda", "ALLMREC_CUDA_LIBRARY", true, {}, nullptr},
    {"cudaemu", "ALLMREC_CUDAEMU_LIBRARY", false, {}, nullptr},
};

Plugin* find_plugin(const std::string& name) {
  for (Plugin& plugin : plugins) {
    if (name == plugin.name) return &plugin;
  }
  return nullptr;
}

// The folder of the library or program this code is part of.
std::string own_folder() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&find_plugin), &info) == 0 || !info.dli_fname) return ".";
  const std::string path = info.dli_fname;
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

// The places in the order in which they are looked at. A named library is the only place.
std::vector<std::string> places(const Plugin& plugin) {
  const char* value = std::getenv(plugin.variable);
  if (value != nullptr && *value != '\0') return {value};
  if (!plugin.path.empty()) return {plugin.path};
  const std::string folder = own_folder(), file = std::string("allmrec_") + plugin.name + ".so";
  // Beside a program of a CMake build, and where build/Release/allmrec.node finds that build.
  return {folder + "/" + file, folder + "/../build-cuda/" + file, folder + "/../../build-cuda/" + file};
}

const char* reason_of_dlopen() {
  const char* text = dlerror();
  return text ? text : "unknown error";
}

// A table of another op-table version is known by its first two fields only; the package version comes from a
// function of its own.
std::string version_of(void* library, const allmrec_backend* table) {
  const auto function = reinterpret_cast<const char* (*)()>(dlsym(library, "allmrec_backend_version"));
  const char* version = function ? function() : nullptr;
  if (table == nullptr) return "no op table";
  return (version ? "version " + std::string(version) : std::string("an unnamed version")) +
         " with op table " + std::to_string(table->abi_version) + " of " +
         std::to_string(table->struct_size) + " bytes";
}

// A plug-in is opened once per process, with its symbols kept to itself, and never closed: a driver's threads
// and handlers may outlive any owner we could name.
BackendEntry load(Plugin& plugin) {
  BackendEntry entry;
  entry.name = plugin.name;
  entry.table = plugin.table;
  if (plugin.table) return entry;
  const std::vector<std::string> candidates = places(plugin);
  const std::string* path = candidates.size() == 1 ? &candidates.front() : nullptr;
  for (const std::string& candidate : candidates) {
    if (!path && access(candidate.c_str(), R_OK) == 0) path = &candidate;
  }
  if (!path) {
    entry.reason = "no_library: no " + entry.name + " back end is installed (looked for " +
                   candidates.front() + "); " + plugin.variable + " may name its library.";
    return entry;
  }
  void* library = dlopen(path->c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    entry.reason = std::string("cannot_open: ") + reason_of_dlopen();
    return entry;
  }
  const auto entry_point =
      reinterpret_cast<allmrec_backend_entry_fn>(dlsym(library, "allmrec_backend_entry"));
  if (entry_point == nullptr) {
    entry.reason = "no_entry_point: " + *path + " does not export allmrec_backend_entry.";
    return entry;
  }
  const allmrec_backend* table = entry_point();
  if (table == nullptr || table->abi_version != ALLMREC_BACKEND_ABI || table->struct_size != sizeof(*table)) {
    entry.reason = "wrong_version: " + *path + " is " + version_of(library, table) +
                   ", this build is version " + kVersion + " with op table " +
                   std::to_string(ALLMREC_BACKEND_ABI) + " of " + std::to_string(sizeof(*table)) +
                   " bytes; install the two together.";
    return entry;
  }
  if (entry.name != table->name) {
    entry.reason =
        "wrong_library: " + *path + " is the back end " + table->name + ", not " + entry.name + ".";
    return entry;
  }
  entry.table = plugin.table = table;
  return entry;
}

BackendEntry cpu_entry() {
  BackendEntry entry;
  entry.name = "cpu";
  entry.table = cpu_backend();
  return entry;
}

bool is_listed(const Plugin& plugin) {
  const char* value = std::getenv(plugin.variable);
  return plugin.always_listed || plugin.table || !plugin.path.empty() || (value && *value);
}

}  // namespace

std::vector<BackendEntry> list_backends() {
  std::lock_guard<std::mutex> lock(mutex);
  std::vector<BackendEntry> entries = {cpu_entry()};
  for (Plugin& plugin : plugins) {
    if (is_listed(plugin)) entries.push_back(load(plugin));
  }
  return entries;
}

const allmrec_backend* find_backend(const std::string& name) {
  if (name == "cpu") return cpu_backend();
  std::lock_guard<std::mutex> lock(mutex);
  Plugin* plugin = find_plugin(name);
  if (!plugin) {
    throw Error(ErrorCode::invalid_argument,
                "Expected `device` to be auto, cpu or cuda, got `" + name + "`.");
  }
  const BackendEntry entry = load(*plugin);
  if (!entry.table)
    throw Error(ErrorCode::device, "Device `" + name + "` cannot be used (" + entry.reason + ")");
  return entry.table;
}

void set_backend_library(const std::string& name, const std::string& path) {
  std::lock_guard<std::mutex> lock(mutex);
  Plugin* plugin = find_plugin(name);
  if (!plugin) throw Error(ErrorCode::invalid_argument, "There is no back end `" + name + "` to be loaded.");
  plugin->path = path;
}

}  // namespace allmrec
