#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace allmrec::io {

// A file written under another name beside its own, and renamed by commit(). Destroyed before that, it leaves
// nothing behind and the old file as it was.
class AtomicFile {
 public:
  explicit AtomicFile(const std::string& path);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();

  void write(const void* bytes, size_t count);
  void commit();  // flushes file and folder to the disk

 private:
  void write_through(const char* bytes, size_t count);
  [[noreturn]] void fail(const char* step, int error) const;

  std::string path_, temporary_;
  int fd_ = -1;
  std::vector<char> buffer_;
};

}  // namespace allmrec::io
