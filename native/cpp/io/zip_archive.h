#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>

#include "mapped_file.h"

namespace allmrec::io {

struct ZipRecord {
  const uint8_t* data = nullptr;  // into the mapping; null where the record is compressed
  size_t size = 0;
};

// A zip file with stored (uncompressed) records, as torch.save writes it; zip64 included. Checksums are not
// compared: torch itself does not, and can be told to write none.
class ZipArchive {
 public:
  explicit ZipArchive(const MappedFile& file);

  // Null when missing; throws ErrorCode::unsupported when the record is compressed or encrypted.
  const ZipRecord* find(const std::string& name) const;
  const std::unordered_map<std::string, ZipRecord>& records() const { return records_; }

 private:
  std::string path_;
  std::unordered_map<std::string, ZipRecord> records_;
};

}  // namespace allmrec::io
