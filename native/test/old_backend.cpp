// A back end of an older op table: what a newer addon says of it is tested with this library.
#include <cstdint>

namespace {
struct OldTable {
  uint32_t abi_version = 1;
  uint32_t struct_size = 400;
  const void* functions[49] = {};
};
const OldTable table;
}  // namespace

extern "C" __attribute__((visibility("default"))) const void* allmrec_backend_entry(void) {
  return &table;
}
extern "C" __attribute__((visibility("default"))) const char* allmrec_backend_version(void) {
  return "0.0.9";
}
