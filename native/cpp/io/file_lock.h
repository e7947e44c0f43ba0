#pragma once

#include <string>

namespace allmrec::io {

// A lock on a file that one owner holds at a time, over processes and within one. It is the kernel's (flock):
// it goes with the process however that ends, so none is ever stale. The file holds a text about its owner
// and is deleted on release.
class FileLock {
 public:
  // Takes the lock if nobody has it, and writes `owner` into the file. On file systems that have no locks it
  // counts as taken. Throws ErrorCode::write if the file cannot be made.
  FileLock(const std::string& path, const std::string& owner);
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;
  ~FileLock() { release(); }

  bool held() const { return fd_ >= 0; }
  // What the owner wrote; empty if it has not yet.
  const std::string& owner() const { return owner_; }
  void release();

 private:
  std::string path_, owner_;
  int fd_ = -1;
};

// Swaps two files or folders of one file system at one stroke. False where the system cannot.
bool exchange_paths(const std::string& a, const std::string& b);

}  // namespace allmrec::io
