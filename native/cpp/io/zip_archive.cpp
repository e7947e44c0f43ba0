#include "zip_archive.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "../core/error.h"
#include "json.h"

namespace allmrec::io {

namespace {

constexpr uint32_t kLocalHeader = 0x04034b50, kCentralHeader = 0x02014b50, kEnd = 0x06054b50;
constexpr uint32_t kEnd64 = 0x06064b50, kEnd64Locator = 0x07064b50;
constexpr uint64_t kEndSize = 22, kEnd64LocatorSize = 20;
constexpr uint64_t kLocalHeaderSize = 30;
constexpr uint16_t kZip64Extra = 1;

struct Directory {
  uint64_t offset = 0, size = 0, count = 0;
  uint64_t end = 0;  // where the records that describe the directory begin
};

[[noreturn]] void fail(const InputFile& file, const std::string& reason) {
  throw Error(ErrorCode::checkpoint, file.path() + ": zip: " + reason);
}

// The end record carries a comment of up to 65535 bytes, so it is searched for from the back; only one whose
// comment reaches the end of the file counts, which a truncated file has not got.
uint64_t find_end_record(const InputFile& file) {
  constexpr uint64_t kLongestComment = 0xffff;
  if (file.size() >= kEndSize) {
    std::vector<uint8_t> tail(static_cast<size_t>(std::min(file.size(), kEndSize + kLongestComment)));
    const uint64_t tail_at = file.size() - tail.size();
    file.read(tail_at, tail.size(), tail.data());
    for (size_t at = tail.size() - kEndSize + 1; at-- > 0;) {
      uint32_t signature;
      uint16_t comment;
      std::memcpy(&signature, &tail[at], sizeof signature);
      std::memcpy(&comment, &tail[at + 20], sizeof comment);
      if (signature == kEnd && at + kEndSize + comment == tail.size()) return tail_at + at;
    }
  }
  fail(file, "expected an end of central directory, found none (the file is truncated)");
}

Directory find_directory(const InputFile& file) {
  Directory directory;
  const uint64_t end_at = directory.end = find_end_record(file);
  ByteReader end(file, {end_at + 4, kEndSize - 4}, file.path() + ": zip end record");
  const auto disk = end.read<uint16_t>("disk number");
  const auto first_disk = end.read<uint16_t>("disk number");
  const auto count_here = end.read<uint16_t>("record count");
  directory.count = end.read<uint16_t>("record count");
  directory.size = end.read<uint32_t>("directory size");
  directory.offset = end.read<uint32_t>("directory offset");

  const uint64_t locator_at = end_at < kEnd64LocatorSize ? end_at : end_at - kEnd64LocatorSize;
  ByteReader locator(file, {locator_at, end_at - locator_at}, file.path() + ": zip64 locator");
  if (locator.remaining() > 0 && locator.read<uint32_t>("zip64 locator") == kEnd64Locator) {
    locator.skip(4, "disk number");
    const auto end64_at = locator.read<uint64_t>("zip64 end offset");
    if (end64_at > locator_at) fail(file, "the zip64 end record lies beyond its locator");
    ByteReader end64(file, {end64_at, locator_at - end64_at}, file.path() + ": zip64 end record");
    if (end64.read<uint32_t>("zip64 end signature") != kEnd64)
      fail(file, "expected a zip64 end record at byte " + std::to_string(end64_at));
    end64.skip(20, "zip64 end record");  // its size, versions and disk numbers
    end64.read<uint64_t>("record count");
    directory.count = end64.read<uint64_t>("record count");
    directory.size = end64.read<uint64_t>("directory size");
    directory.offset = end64.read<uint64_t>("directory offset");
    directory.end = end64_at;
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
  reader.skip(4, "central header");  // versions
  entry.flags = reader.read<uint16_t>("central header");
  entry.method = reader.read<uint16_t>("central header");
  reader.skip(8, "central header");  // time, date, checksum
  entry.stored_size = reader.read<uint32_t>("central header");
  entry.size = reader.read<uint32_t>("central header");
  const auto name_length = reader.read<uint16_t>("central header");
  const auto extra_length = reader.read<uint16_t>("central header");
  const auto comment_length = reader.read<uint16_t>("central header");
  reader.skip(8, "central header");  // disk, attributes
  entry.local_offset = reader.read<uint32_t>("central header");
  entry.name = reader.take_text(name_length, "record name");
  const bool size = entry.size == kIn64, stored_size = entry.stored_size == kIn64;
  const bool offset = entry.local_offset == kIn64;
  const uint8_t* extra = reader.take(extra_length, "extra field");
  if (size || stored_size || offset) {
    read_zip64_extra(ByteReader(extra, extra_length, reader.where() + ": record " + quoted(entry.name)),
                     entry, size, stored_size, offset);
  }
  reader.skip(comment_length, "record comment");
  return entry;
}

ZipRecord locate(const InputFile& file, const Directory& directory, const CentralEntry& entry) {
  const std::string where = file.path() + ": zip record " + quoted(entry.name);
  constexpr uint16_t kEncrypted = 1;
  if (entry.method != 0 || (entry.flags & kEncrypted) != 0) return {};
  if (entry.size != entry.stored_size) {
    throw Error(ErrorCode::checkpoint, where + ": expected equal sizes of a stored record, found " +
                                           std::to_string(entry.size) + " and " +
                                           std::to_string(entry.stored_size));
  }
  if (entry.local_offset > directory.offset)
    throw Error(ErrorCode::checkpoint,
                where + ": its offset " + std::to_string(entry.local_offset) + " lies outside the file");
  // Headers lie far apart: one is read with its name, and nothing beyond.
  const uint64_t room = directory.offset - entry.local_offset;
  ByteReader header(file, {entry.local_offset, std::min(room, kLocalHeaderSize + entry.name.size())}, where);
  if (header.read<uint32_t>("local header") != kLocalHeader) header.fail("expected a local header");
  header.skip(22, "local header");
  const auto name_length = header.read<uint16_t>("local header");
  const auto extra_length = header.read<uint16_t>("local header");
  if (name_length != entry.name.size() || header.take_text(name_length, "record name") != entry.name)
    header.fail("expected the name of the central directory in the local header");
  ByteReader body(file, {entry.local_offset, room}, where);
  body.skip(header.position(), "local header");
  body.skip(extra_length, "extra field");  // torch pads data to 64 bytes with it
  return {body.skip(entry.size, "record data"), true};
}

}  // namespace

ZipArchive::ZipArchive(const InputFile& file) : path_(file.path()) {
  const Directory directory = find_directory(file);
  ByteReader reader(file, {directory.offset, directory.size}, file.path() + ": zip directory");
  // Each entry takes at least 46 bytes, so a false count ends in an error of the reader.
  for (uint64_t i = 0; i < directory.count; ++i) {
    const CentralEntry entry = read_central_entry(reader);
    if (!records_.emplace(entry.name, locate(file, directory, entry)).second)
      fail(file, "two records are named " + quoted(entry.name));
  }
}

const ZipRecord* ZipArchive::find(const std::string& name) const {
  const auto at = records_.find(name);
  if (at == records_.end()) return nullptr;
  if (!at->second.stored) {
    throw Error(ErrorCode::unsupported, path_ + ": zip record " + quoted(name) +
                                            ": expected a stored record as torch.save writes it, found a "
                                            "compressed or encrypted one");
  }
  return &at->second;
}

}  // namespace allmrec::io
