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

  std::string path_, temporary_;
  int fd_ = -1;
  std::vector<char> buffer_;
};

// Throws ErrorCode::write with the file, what failed, the system's reason (an errno) and what to do about it.
[[noreturn]] void fail_to_write(const std::string& path, const char* step, int error);

}  // namespace allmrec::io
