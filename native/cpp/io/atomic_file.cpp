#include "atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "../core/cancellation.h"
#include "../core/error.h"

namespace allmrec::io {

namespace {

constexpr size_t kBuffer = size_t{1} << 16;
constexpr size_t kLargestWrite = size_t{1} << 24;  // a job may be cancelled between two

const char* remedy(int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      return "make room on its disk";
    case EROFS:
    case EACCES:
    case EPERM:
      return "allow writing there, or give another folder";
    case ENOENT:
    case ENOTDIR:
      return "its folder is not there; make it, or give another";
    case ENAMETOOLONG:
      return "give a shorter name";
    case EFBIG:
      return "give a folder whose file system and limits take files of this size";
    case EMFILE:
    case ENFILE:
      return "raise the limit of open files";
    case EIO:
      return "its disk reports a fault; see the system's log";
    default:
      return "see to its disk, or give another folder";
  }
}

}  // namespace

void fail_to_write(const std::string& path, const char* step, int error) {
  throw Error(ErrorCode::write, path + ": " + step + " (" + std::strerror(error) + "); " + remedy(error) +
                                    ", then do the same again.");
}

AtomicFile::AtomicFile(const std::string& path) : path_(path) {
  static std::atomic<unsigned> counter{0};
  buffer_.reserve(kBuffer);
  // A name can be taken: by what a crash left behind, or by a process of the same id in another container.
  for (int attempt = 0; fd_ < 0; ++attempt) {
    temporary_ = path + ".tmp-" + std::to_string(::getpid()) + "-" + std::to_string(counter.fetch_add(1));
    fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd_ >= 0) break;
    const int error = errno;
    if (error == EINTR || (error == EEXIST && attempt < 1000)) continue;
    temporary_.clear();
    fail_to_write(path_, "cannot create the file", error);
  }
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* bytes, size_t count) {
  if (count == 0) return;
  const auto* from = static_cast<const char*>(bytes);
  if (buffer_.size() + count <= kBuffer) {
    buffer_.insert(buffer_.end(), from, from + count);
    return;
  }
  write_through(buffer_.data(), buffer_.size());
  buffer_.clear();
  if (count < kBuffer)
    buffer_.assign(from, from + count);
  else
    write_through(from, count);
}

void AtomicFile::write_through(const char* bytes, size_t count) {
  while (count > 0) {
    Cancellation::poll();
    const ssize_t done = ::write(fd_, bytes, std::min(count, kLargestWrite));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) fail_to_write(path_, "cannot write the file", errno);
    bytes += done;
    count -= static_cast<size_t>(done);
  }
}

void AtomicFile::commit() {
  write_through(buffer_.data(), buffer_.size());
  buffer_.clear();
  if (::fsync(fd_) != 0) fail_to_write(path_, "cannot flush the file", errno);
  const int fd = fd_;
  fd_ = -1;
  if (::close(fd) != 0) fail_to_write(path_, "cannot close the file", errno);
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0)
    fail_to_write(path_, "cannot rename the file into place", errno);
  temporary_.clear();

  // Without this the rename itself can be lost in a power cut. Some file systems cannot sync a folder; then
  // the file is still whole, under one name or the other.
  const size_t slash = path_.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path_.substr(0, slash + 1);
  const int folder_fd = ::open(folder.c_str(), O_RDONLY | O_CLOEXEC);
  if (folder_fd >= 0) {
    const int error = ::fsync(folder_fd) == 0 ? 0 : errno;
    ::close(folder_fd);
    if (error == EIO || error == ENOSPC || error == EDQUOT)
      fail_to_write(path_, "cannot flush its folder", error);
  }
}

}  // namespace allmrec::io
