// Opens a back end's library as the registry does, and its first device: prints the library's version, and
// the device's name or the reason why there is none. For scripts/cuda-library-check.mjs; needs nothing but
// the table. Usage: open_backend LIBRARY

#include <dlfcn.h>

#include <cstdio>

#include "../cpp/backend/backend.h"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  void* library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    std::printf("cannot_open: %s\n", dlerror());
    return 1;
  }
  const auto entry = reinterpret_cast<allmrec_backend_entry_fn>(dlsym(library, "allmrec_backend_entry"));
  const auto version = reinterpret_cast<const char* (*)()>(dlsym(library, "allmrec_backend_version"));
  if (!entry || !version) {
    std::printf("no_entry_point\n");
    return 1;
  }
  const allmrec_backend* table = entry();
  if (!table || table->abi_version != ALLMREC_BACKEND_ABI || table->struct_size != sizeof(*table)) {
    std::printf("wrong_version: op table %u of %u bytes\n", table ? table->abi_version : 0,
                table ? table->struct_size : 0);
    return 1;
  }
  std::printf("version: %s\n", version());
  allmrec_device* device = nullptr;
  char reason[512] = "";
  if (table->open(0, 0, &device, reason, sizeof reason) != ALLMREC_OK) {
    std::printf("reason: %s\n", reason);
    return 0;
  }
  allmrec_device_info info{};
  table->info(device, &info);
  std::printf("device: %s\n", info.name);
  table->close(device);
  return 0;
}
