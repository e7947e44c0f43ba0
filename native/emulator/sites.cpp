#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>

#include "scheduler.h"
#include "symbols.h"

namespace allmrec::emulator {

int skipped_line = -1;

namespace {

std::string skipped_file;

// The sites run so far, written out when the process ends.
struct Sites {
  std::string path;
  std::set<std::string> lines;
  const char* last_file = nullptr;
  int last_line = 0;
  const void* last_kernel = nullptr;
  Sites() {
    const char* const value = std::getenv("ALLMREC_EMULATOR_SITES");
    if (value != nullptr) path = value;
    const char* const skipped = std::getenv("ALLMREC_EMULATOR_SKIP");
    if (skipped != nullptr) skip_site(skipped);
  }
  ~Sites() {
    if (path.empty() || lines.empty()) return;
    FILE* const file = std::fopen(path.c_str(), "a");
    if (file == nullptr) return;
    for (const std::string& line : lines) std::fprintf(file, "%s\n", line.c_str());
    std::fclose(file);
  }
} sites;

}  // namespace

bool watches_sites() {
  return !sites.path.empty();
}

void note_site(Site site, const char* kind) {
  if (site.line == sites.last_line && site.file == sites.last_file && block.kernel == sites.last_kernel)
    return;
  sites.last_line = site.line;
  sites.last_file = site.file;
  sites.last_kernel = block.kernel;
  sites.lines.insert(std::string(site.file) + ":" + std::to_string(site.line) + " " + kind + " " +
                     symbol_name(block.kernel));
}

bool is_skipped(Site site) {
  const size_t length = std::strlen(site.file);
  return length >= skipped_file.size() &&
         std::strcmp(site.file + length - skipped_file.size(), skipped_file.c_str()) == 0;
}

void skip_site(const std::string& site) {
  const size_t colon = site.rfind(':');
  skipped_file = site.substr(0, colon);
  skipped_line = colon == std::string::npos ? -1 : std::atoi(site.c_str() + colon + 1);
}

}  // namespace allmrec::emulator
