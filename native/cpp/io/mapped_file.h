#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace allmrec::io {

// The bytes of a file, read only, mapped for as long as this lives. A file that another process truncates
// while it is mapped raises SIGBUS on access; files are replaced by renaming, never written in place.
class MappedFile {
 public:
  static std::shared_ptr<const MappedFile> open(const std::string& path);

  // A file that is in memory already: the bytes are copied, `label` stands for the path in messages.
  static std::shared_ptr<const MappedFile> from_bytes(const void* bytes, size_t size, std::string label);

  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  // Hints about bytes that are about to be read, and that have been: the whole pages of the latter leave this
  // process's memory (and come back from the file when they are read again). Outside the mapping they mean
  // nothing.
  void prefetch(const void* from, size_t bytes) const noexcept;
  void release(const void* from, size_t bytes) const noexcept;

  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  const std::string& path() const { return path_; }

 private:
  MappedFile() = default;
  void advise(const void* from, size_t bytes, int advice) const noexcept;

  std::string path_;
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
  void* mapping_ = nullptr;
  std::unique_ptr<uint8_t[]> copy_;
};

}  // namespace allmrec::io
