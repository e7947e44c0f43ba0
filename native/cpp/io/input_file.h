#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace allmrec::io {

// A file that is read in pieces, by position. It is never mapped: where another process cuts a file short, or
// a disk or a network share fails, a read gives an error, while touching a mapping would end the process.
// Threads may share it.
class InputFile {
 public:
  static std::shared_ptr<const InputFile> open(const std::string& path);

  // A file that is in memory already: the bytes are copied, `label` stands for the path in messages.
  static std::shared_ptr<const InputFile> from_bytes(const void* bytes, size_t size, std::string label);

  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;
  ~InputFile();

  // Bytes [offset, offset + count), which the caller has checked against size(). Throws ErrorCode::checkpoint
  // when the file has become shorter since it was opened, or cannot be read.
  void read(uint64_t offset, size_t count, void* to) const;

  // A hint that these bytes are about to be read.
  void prefetch(uint64_t offset, uint64_t count) const noexcept;

  uint64_t size() const { return size_; }  // when it was opened
  const std::string& path() const { return path_; }

 private:
  InputFile() = default;

  std::string path_;
  uint64_t size_ = 0;
  int fd_ = -1;
  std::unique_ptr<uint8_t[]> copy_;
};

}  // namespace allmrec::io
