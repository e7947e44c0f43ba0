#pragma once

// Names for addresses, from the symbol table of the file they were loaded from; a stripped file has none.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace allmrec::emulator {

struct Range {
  char* begin;
  size_t bytes;
};

// A function's or variable's name without namespaces and parameters, and the offset in it:
// "kernel<float>+0x1c".
std::string symbol_name(const void* address, bool with_offset = false);

// The variables a kernel declares __shared__. They are statics whose linker names begin with the kernel's.
const std::vector<Range>& static_shared_of(const void* kernel);

// A function's own variable that is not on its stack.
bool is_local_static(const void* address);

// "file.cu:12", the source line of an instruction, by the system's addr2line; empty where that fails.
std::string source_line(const void* code);

}  // namespace allmrec::emulator
