#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>

#include "byte_reader.h"

namespace allmrec::io {

struct ZipRecord {
  ByteRange bytes;      // in the file
  bool stored = false;  // neither compressed nor encrypted
};

// A zip file with stored (uncompressed) records, as torch.save writes it; zip64 included. Checksums are not
// compared: torch itself does not, and can be told to write none.
class ZipArchive {
 public:
  explicit ZipArchive(const InputFile& file);

  // Null when missing; throws ErrorCode::unsupported when the record is compressed or encrypted.
  const ZipRecord* find(const std::string& name) const;
  const std::unordered_map<std::string, ZipRecord>& records() const { return records_; }

 private:
  std::string path_;
  std::unordered_map<std::string, ZipRecord> records_;
};

}  // namespace allmrec::io
