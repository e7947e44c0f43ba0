#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>

#include "mapped_file.h"

namespace allmrec::io {

struct ZipRecord {
  const uint8_t* data = nullptr;  // into the mapping
  size_t size = 0;
};

// A zip file with stored (uncompressed) records, as torch.save writes it; zip64 included. Checksums are not
// compared: torch itself does not, and can be told to write none.
class ZipArchive {
 public:
  explicit ZipArchive(const MappedFile& file);

  const ZipRecord* find(const std::string& name) const;
  const std::unordered_map<std::string, ZipRecord>& records() const { return records_; }

 private:
  std::unordered_map<std::string, ZipRecord> records_;
};

}  // namespace allmrec::io
