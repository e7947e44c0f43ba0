#include "input_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>

#include "../core/error.h"

namespace allmrec::io {

namespace {

constexpr size_t kLargestRead = size_t{1} << 30;  // Linux and macOS cut a read near 2^31

[[noreturn]] void fail(const std::string& path, const char* step, int error) {
  const bool missing =
      error == ENOENT || error == ENOTDIR || error == EACCES || error == ELOOP || error == ENAMETOOLONG;
  throw Error(missing ? ErrorCode::file_not_found : ErrorCode::checkpoint,
              path + ": " + step + ": " + std::strerror(error));
}

}  // namespace

std::shared_ptr<const InputFile> InputFile::open(const std::string& path) {
  // The system would open the file named before the zero byte.
  if (path.find('\0') != std::string::npos)
    throw Error(ErrorCode::invalid_argument,
                path.substr(0, path.find('\0')) + ": expected a path without a zero byte");
  std::shared_ptr<InputFile> file(new InputFile);
  file->path_ = path;
  // Without O_NONBLOCK a named pipe would block here before it can be refused.
  do file->fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  while (file->fd_ < 0 && errno == EINTR);
  if (file->fd_ < 0) fail(path, "cannot open the file", errno);
  struct stat status {};
  if (::fstat(file->fd_, &status) != 0) fail(path, "cannot stat the file", errno);
  if (!S_ISREG(status.st_mode)) {
    throw Error(ErrorCode::checkpoint, path + ": expected a regular file, found " +
                                           (S_ISDIR(status.st_mode) ? "a folder" : "a device or pipe"));
  }
  file->size_ = static_cast<uint64_t>(status.st_size);
  return file;
}

std::shared_ptr<const InputFile> InputFile::from_bytes(const void* bytes, size_t size, std::string label) {
  std::shared_ptr<InputFile> file(new InputFile);
  file->path_ = std::move(label);
  file->size_ = size;
  file->copy_.reset(new uint8_t[size]);
  if (size > 0) std::memcpy(file->copy_.get(), bytes, size);
  return file;
}

void InputFile::read(uint64_t offset, size_t count, void* to) const {
  if (offset > size_ || count > size_ - offset)
    throw Error(ErrorCode::internal, path_ + ": a read beyond the end of the file");
  if (count == 0) return;
  if (copy_) {
    std::memcpy(to, copy_.get() + offset, count);
    return;
  }
  auto* out = static_cast<uint8_t*>(to);
  while (count > 0) {
    const ssize_t done = ::pread(fd_, out, std::min(count, kLargestRead), static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) fail(path_, "cannot read the file", errno);
    if (done == 0) {
      throw Error(ErrorCode::checkpoint,
                  path_ + ": the file became shorter while it was read: expected " + std::to_string(size_) +
                      " bytes, found " + std::to_string(offset) +
                      " (does another process write to it? Replace files by renaming)");
    }
    out += done;
    offset += static_cast<uint64_t>(done);
    count -= static_cast<size_t>(done);
  }
}

void InputFile::prefetch([[maybe_unused]] uint64_t offset, [[maybe_unused]] uint64_t count) const noexcept {
#ifdef POSIX_FADV_WILLNEED
  if (fd_ >= 0 && count > 0)
    ::posix_fadvise(fd_, static_cast<off_t>(offset), static_cast<off_t>(count), POSIX_FADV_WILLNEED);
#endif
}

InputFile::~InputFile() {
  if (fd_ >= 0) ::close(fd_);
}

}  // namespace allmrec::io
