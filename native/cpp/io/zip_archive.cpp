#include "zip_archive.h"

#include <algorithm>
#include <cstring>

#include "../core/error.h"
#include "byte_reader.h"

namespace allmrec::io {

namespace {

constexpr uint32_t kLocalHeader = 0x04034b50, kCentralHeader = 0x02014b50, kEnd = 0x06054b50;
constexpr uint32_t kEnd64 = 0x06064b50, kEnd64Locator = 0x07064b50;
constexpr size_t kEndSize = 22, kEnd64LocatorSize = 20;
constexpr uint16_t kZip64Extra = 1;

struct Directory {
  uint64_t offset = 0, size = 0, count = 0;
  size_t end = 0;  // where the records that describe the directory begin
};

[[noreturn]] void fail(const MappedFile& file, const std::string& reason) {
  throw Error(ErrorCode::file_format, file.path() + ": zip: " + reason);
}

// The end record carries a comment of up to 65535 bytes, so it is searched for from the back; only one whose
// comment reaches the end of the file counts, which a truncated file has not got.
size_t find_end_record(const MappedFile& file) {
  if (file.size() >= kEndSize) {
    const size_t last = file.size() - kEndSize;
    for (size_t back = 0; back <= std::min<size_t>(last, 0xffff); ++back) {
      const uint8_t* at = file.data() + last - back;
      uint32_t signature;
      uint16_t comment;
      std::memcpy(&signature, at, sizeof signature);
      std::memcpy(&comment, at + 20, sizeof comment);
      if (signature == kEnd && comment == back) return last - back;
    }
  }
  fail(file, "expected an end of central directory, found none (the file is truncated)");
}

Directory find_directory(const MappedFile& file) {
  Directory directory;
  directory.end = find_end_record(file);
  ByteReader end(file.data(), file.size(), file.path(), directory.end + 4);
  const auto disk = end.read<uint16_t>("disk number");
  const auto first_disk = end.read<uint16_t>("disk number");
  const auto count_here = end.read<uint16_t>("record count");
  directory.count = end.read<uint16_t>("record count");
  directory.size = end.read<uint32_t>("directory size");
  directory.offset = end.read<uint32_t>("directory offset");

  const size_t end_at = directory.end;
  const bool has_locator = end_at >= kEnd64LocatorSize &&
                           ByteReader(file.data(), file.size(), file.path(), end_at - kEnd64LocatorSize)
                                   .read<uint32_t>("zip64 locator") == kEnd64Locator;
  if (has_locator) {
    ByteReader locator(file.data(), file.size(), file.path(), end_at - kEnd64LocatorSize + 8);
    const auto end64_at = locator.read<uint64_t>("zip64 end offset");
    if (end64_at > end_at - kEnd64LocatorSize) fail(file, "the zip64 end record lies beyond its locator");
    ByteReader end64(file.data(), end_at - kEnd64LocatorSize, file.path(), static_cast<size_t>(end64_at));
    if (end64.read<uint32_t>("zip64 end signature") != kEnd64)
      fail(file, "expected a zip64 end record at byte " + std::to_string(end64_at));
    end64.take(20, "zip64 end record");  // its size, versions and disk numbers
    end64.read<uint64_t>("record count");
    directory.count = end64.read<uint64_t>("record count");
    directory.size = end64.read<uint64_t>("directory size");
    directory.offset = end64.read<uint64_t>("directory offset");
    directory.end = static_cast<size_t>(end64_at);
  } else if (disk != 0 || first_disk != 0 || count_here != directory.count) {
    fail(file, "archives of several files are not read");
  }
  if (directory.offset > directory.end || directory.size > directory.end - directory.offset) {
    fail(file, "the central directory (" + std::to_string(directory.size) + " bytes at " +
                   std::to_string(directory.offset) + ") lies outside the file");
  }
  return directory;
}

struct CentralEntry {
  std::string name;
  uint16_t flags = 0, method = 0;
  uint64_t stored_size = 0, size = 0, local_offset = 0;
};

// In the order of the format, each present only where the 32-bit field says so by being all ones.
void read_zip64_extra(ByteReader extra, CentralEntry& entry, bool size, bool stored_size, bool offset) {
  while (extra.remaining() >= 4) {
    const auto id = extra.read<uint16_t>("extra field");
    const auto length = extra.read<uint16_t>("extra field");
    const uint8_t* body = extra.take(length, "extra field");
    if (id != kZip64Extra) continue;
    ByteReader fields(body, length, extra.where());
    if (size) entry.size = fields.read<uint64_t>("zip64 size");
    if (stored_size) entry.stored_size = fields.read<uint64_t>("zip64 stored size");
    if (offset) entry.local_offset = fields.read<uint64_t>("zip64 offset");
    return;
  }
  extra.fail("expected a zip64 extra field, found none");
}

CentralEntry read_central_entry(ByteReader& reader) {
  constexpr uint32_t kIn64 = 0xffffffff;
  if (reader.read<uint32_t>("central header") != kCentralHeader)
    reader.fail("expected a central directory header");
  CentralEntry entry;
  reader.take(4, "central header");  // versions
  entry.flags = reader.read<uint16_t>("central header");
  entry.method = reader.read<uint16_t>("central header");
  reader.take(8, "central header");  // time, date, checksum
  entry.stored_size = reader.read<uint32_t>("central header");
  entry.size = reader.read<uint32_t>("central header");
  const auto name_length = reader.read<uint16_t>("central header");
  const auto extra_length = reader.read<uint16_t>("central header");
  const auto comment_length = reader.read<uint16_t>("central header");
  reader.take(8, "central header");  // disk, attributes
  entry.local_offset = reader.read<uint32_t>("central header");
  entry.name = reader.take_text(name_length, "record name");
  const uint8_t* extra = reader.take(extra_length, "extra field");
  reader.take(comment_length, "record comment");
  const bool size = entry.size == kIn64, stored_size = entry.stored_size == kIn64;
  const bool offset = entry.local_offset == kIn64;
  if (size || stored_size || offset) {
    read_zip64_extra(ByteReader(extra, extra_length, reader.where() + ": record \"" + entry.name + "\""),
                     entry, size, stored_size, offset);
  }
  return entry;
}

ZipRecord locate(const MappedFile& file, const Directory& directory, const CentralEntry& entry) {
  const std::string where = file.path() + ": zip record \"" + entry.name + "\"";
  constexpr uint16_t kEncrypted = 1;
  if (entry.method != 0 || (entry.flags & kEncrypted) != 0) return {};
  if (entry.size != entry.stored_size) {
    throw Error(ErrorCode::file_format, where + ": expected equal sizes of a stored record, found " +
                                            std::to_string(entry.size) + " and " +
                                            std::to_string(entry.stored_size));
  }
  const auto data_end = static_cast<size_t>(directory.offset);
  if (entry.local_offset > data_end)
    throw Error(ErrorCode::file_format,
                where + ": its offset " + std::to_string(entry.local_offset) + " lies outside the file");
  ByteReader reader(file.data(), data_end, where, static_cast<size_t>(entry.local_offset));
  if (reader.read<uint32_t>("local header") != kLocalHeader) reader.fail("expected a local header");
  reader.take(22, "local header");
  const auto name_length = reader.read<uint16_t>("local header");
  const auto extra_length = reader.read<uint16_t>("local header");
  if (reader.take_text(name_length, "record name") != entry.name)
    reader.fail("expected the name of the central directory in the local header");
  reader.take(extra_length, "extra field");  // torch pads data to 64 bytes with it
  return {reader.take(entry.size, "record data"), static_cast<size_t>(entry.size)};
}

}  // namespace

ZipArchive::ZipArchive(const MappedFile& file) : path_(file.path()) {
  const Directory directory = find_directory(file);
  ByteReader reader(file.data(), static_cast<size_t>(directory.offset + directory.size),
                    file.path() + ": zip directory", static_cast<size_t>(directory.offset));
  // Each entry takes at least 46 bytes, so a false count ends in an error of the reader.
  for (uint64_t i = 0; i < directory.count; ++i) {
    const CentralEntry entry = read_central_entry(reader);
    if (!records_.emplace(entry.name, locate(file, directory, entry)).second)
      fail(file, "two records are named \"" + entry.name + "\"");
  }
}

const ZipRecord* ZipArchive::find(const std::string& name) const {
  const auto at = records_.find(name);
  if (at == records_.end()) return nullptr;
  if (at->second.data == nullptr) {
    throw Error(ErrorCode::unsupported, path_ + ": zip record \"" + name +
                                            "\": expected a stored record as torch.save writes it, found a "
                                            "compressed or encrypted one");
  }
  return &at->second;
}

}  // namespace allmrec::io
