#include "symbols.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

namespace allmrec::emulator {

namespace {

struct Symbol {
  uintptr_t address;
  size_t bytes;
  bool is_function;
  std::string name;
};

// The file an address was loaded from, and where.
struct Module {
  std::string path;
  uintptr_t base = 0;
  std::vector<Symbol> symbols;  // by address
};

void read_symbols(Module& module) {
  const int file = open(module.path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat status;
  if (file < 0) return;
  const bool sized = fstat(file, &status) == 0 && status.st_size > static_cast<off_t>(sizeof(ElfW(Ehdr)));
  const auto bytes = sized ? static_cast<size_t>(status.st_size) : 0;
  void* const mapped = sized ? mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, file, 0) : MAP_FAILED;
  close(file);
  if (mapped == MAP_FAILED) return;
  const auto* const image = static_cast<const char*>(mapped);
  const auto* const header = reinterpret_cast<const ElfW(Ehdr)*>(image);
  const bool is_elf = std::memcmp(header->e_ident, ELFMAG, SELFMAG) == 0 && header->e_shoff != 0 &&
                      header->e_shoff + header->e_shnum * sizeof(ElfW(Shdr)) <= bytes;
  const auto* const sections = reinterpret_cast<const ElfW(Shdr)*>(image + (is_elf ? header->e_shoff : 0));
  for (int i = 0; is_elf && i < header->e_shnum; ++i) {
    const ElfW(Shdr)& table = sections[i];
    if (table.sh_type != SHT_SYMTAB || table.sh_offset + table.sh_size > bytes) continue;
    const char* const names = image + sections[table.sh_link].sh_offset;
    const auto* const symbols = reinterpret_cast<const ElfW(Sym)*>(image + table.sh_offset);
    for (size_t s = 0; s < table.sh_size / sizeof(ElfW(Sym)); ++s) {
      const int type = symbols[s].st_info & 15;
      if ((type != STT_FUNC && type != STT_OBJECT) || symbols[s].st_size == 0) continue;
      module.symbols.push_back({module.base + symbols[s].st_value, symbols[s].st_size, type == STT_FUNC,
                                names + symbols[s].st_name});
    }
  }
  munmap(mapped, bytes);
  std::sort(module.symbols.begin(), module.symbols.end(),
            [](const Symbol& a, const Symbol& b) { return a.address < b.address; });
}

const Module* module_of(const void* address) {
  struct Search {
    uintptr_t address;
    Module module;
    bool found;
  } search{reinterpret_cast<uintptr_t>(address), {}, false};
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* data) {
        auto& wanted = *static_cast<Search*>(data);
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const ElfW(Phdr)& segment = info->dlpi_phdr[i];
          const uintptr_t begin = info->dlpi_addr + segment.p_vaddr;
          if (segment.p_type != PT_LOAD || wanted.address < begin ||
              wanted.address >= begin + segment.p_memsz)
            continue;
          wanted.module.path = info->dlpi_name[0] != 0 ? info->dlpi_name : "/proc/self/exe";
          wanted.module.base = info->dlpi_addr;
          wanted.found = true;
          return 1;
        }
        return 0;
      },
      &search);
  if (!search.found) return nullptr;
  static std::map<uintptr_t, Module> modules;
  const auto [entry, is_new] = modules.emplace(search.module.base, search.module);
  if (is_new) read_symbols(entry->second);
  return &entry->second;
}

const Symbol* symbol_at(const void* address) {
  const Module* const module = module_of(address);
  if (module == nullptr) return nullptr;
  const auto wanted = reinterpret_cast<uintptr_t>(address);
  auto after = std::upper_bound(module->symbols.begin(), module->symbols.end(), wanted,
                                [](uintptr_t a, const Symbol& symbol) { return a < symbol.address; });
  while (after != module->symbols.begin()) {
    --after;
    if (wanted < after->address + after->bytes) return &*after;
    if (after->address + (1u << 20) < wanted) break;
  }
  return nullptr;
}

// "void a::(anonymous namespace)::f<b::T>(int)" → "f<T>"
std::string short_name(const std::string& mangled) {
  int status = 0;
  char* const text = abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status);
  if (text == nullptr) return mangled;
  std::string name = text;
  std::free(text);
  for (const char* part :
       {"(anonymous namespace)::", "allmrec::", "cuda::", "emulator::", "test::", "void "}) {
    for (size_t at; (at = name.find(part)) != std::string::npos;) name.erase(at, std::strlen(part));
  }
  // The parameters: the last closed parenthesis that is not within template arguments.
  for (size_t i = 0, depth = 0; i < name.size(); ++i) {
    if (name[i] == '<') ++depth;
    if (name[i] == '>') --depth;
    if (name[i] != '(' || depth != 0) continue;
    size_t end = i, open = 0;
    do {
      if (name[end] == '(') ++open;
      if (name[end] == ')') --open;
      ++end;
    } while (open > 0 && end < name.size());
    name.erase(i, end - i);
    break;
  }
  return name;
}

}  // namespace

std::string symbol_name(const void* address, bool with_offset) {
  char text[64];
  const Symbol* const symbol = symbol_at(address);
  if (symbol == nullptr) {
    Dl_info info;
    if (dladdr(address, &info) != 0 && info.dli_sname != nullptr) return short_name(info.dli_sname);
    std::snprintf(text, sizeof text, "%p", address);
    return text;
  }
  std::string name = short_name(symbol->name);
  const size_t offset = reinterpret_cast<uintptr_t>(address) - symbol->address;
  if (with_offset && offset != 0) {
    std::snprintf(text, sizeof text, "+%zu", offset);
    name += text;
  }
  return name;
}

const std::vector<Range>& static_shared_of(const void* kernel) {
  static std::map<const void*, std::vector<Range>> known;
  const auto found = known.find(kernel);
  if (found != known.end()) return found->second;
  std::vector<Range>& ranges = known[kernel];
  const Symbol* const symbol = symbol_at(kernel);
  if (symbol == nullptr || symbol->name.compare(0, 2, "_Z") != 0) return ranges;
  const std::string prefix = "_ZZ" + symbol->name.substr(2) + "E";
  for (const Symbol& other : module_of(kernel)->symbols) {
    if (!other.is_function && other.name.compare(0, prefix.size(), prefix) == 0)
      ranges.push_back({reinterpret_cast<char*>(other.address), other.bytes});
  }
  return ranges;
}

bool is_local_static(const void* address) {
  const Symbol* const symbol = symbol_at(address);
  return symbol != nullptr && symbol->name.compare(0, 3, "_ZZ") == 0;
}

std::string source_line(const void* code) {
  static std::map<const void*, std::string> known;
  const auto found = known.find(code);
  if (found != known.end()) return found->second;
  std::string& text = known[code];
  const Module* const module = module_of(code);
  if (module == nullptr) return text;
  char path[4096];
  const ssize_t length = readlink(module->path.c_str(), path, sizeof path - 1);
  const std::string file = length > 0 ? std::string(path, static_cast<size_t>(length)) : module->path;
  char command[5000];
  // The call's own line is the one before the address it returns to.
  std::snprintf(command, sizeof command, "addr2line -i -e '%s' 0x%zx 2>/dev/null", file.c_str(),
                static_cast<size_t>(reinterpret_cast<uintptr_t>(code) - module->base - 1));
  FILE* const pipe = popen(command, "r");
  if (pipe == nullptr) return text;
  char buffer[4096];
  // One line for each function that was compiled into the next. The launch's own say nothing.
  while (std::fgets(buffer, sizeof buffer, pipe) != nullptr) {
    std::string line = buffer;
    line.erase(std::min(line.find(" (discriminator"), line.find_last_not_of('\n') + 1));
    const size_t slash = line.rfind('/');
    if (slash == std::string::npos || line.back() == '?') continue;
    line.erase(0, slash + 1);
    if (line.compare(0, 9, "device.h:") == 0 || line.compare(0, 11, "platform.h:") == 0) continue;
    text += (text.empty() ? "" : " from ") + line;
  }
  pclose(pipe);
  return text;
}

}  // namespace allmrec::emulator
