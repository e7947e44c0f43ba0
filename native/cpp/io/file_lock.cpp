#include "file_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "atomic_file.h"

#if defined(__linux__)
#include <sys/syscall.h>
#endif

namespace allmrec::io {

namespace {

constexpr size_t kOwnerBytes = 1024;

bool is_file_of(int fd, const std::string& path) {
  struct stat own, named;
  return ::fstat(fd, &own) == 0 && ::stat(path.c_str(), &named) == 0 && own.st_dev == named.st_dev &&
         own.st_ino == named.st_ino;
}

std::string read_owner(int fd) {
  char text[kOwnerBytes];
  const ssize_t count = ::pread(fd, text, sizeof text, 0);
  return count > 0 ? std::string(text, static_cast<size_t>(count)) : std::string();
}

bool has_no_locks(int error) {
  return error == ENOLCK || error == ENOTSUP || error == EOPNOTSUPP || error == ENOSYS;
}

}  // namespace

FileLock::FileLock(const std::string& path, const std::string& owner) : path_(path), owner_(owner) {
  for (;;) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) {
      if (errno == EINTR) continue;
      fail_to_write(path, "cannot create the lock", errno);
    }
    if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
      const int error = errno;
      if (error == EINTR) {
        ::close(fd);
        continue;
      }
      if (has_no_locks(error)) {
        fd_ = fd;
        break;
      }
      if (error == EWOULDBLOCK) owner_ = read_owner(fd);
      ::close(fd);
      if (error == EWOULDBLOCK) return;
      fail_to_write(path, "cannot take the lock", error);
    }
    // An owner that released it in between has deleted the file that was opened here.
    if (is_file_of(fd, path)) {
      fd_ = fd;
      break;
    }
    ::close(fd);
  }
  // The text is for people; the lock holds without it.
  if (::ftruncate(fd_, 0) == 0 && ::pwrite(fd_, owner.data(), owner.size(), 0) < 0) return;
}

void FileLock::release() {
  if (fd_ < 0) return;
  // Deleted while it is held, so that nobody loses another's; and not another's, should the folder have been
  // replaced.
  if (is_file_of(fd_, path_)) ::unlink(path_.c_str());
  ::close(fd_);
  fd_ = -1;
}

bool exchange_paths(const std::string& a, const std::string& b) {
#if defined(__linux__) && defined(SYS_renameat2)
  constexpr unsigned kExchange = 2;  // RENAME_EXCHANGE, which older headers lack
  return ::syscall(SYS_renameat2, AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), kExchange) == 0;
#elif defined(__APPLE__)
  return ::renamex_np(a.c_str(), b.c_str(), RENAME_SWAP) == 0;
#else
  (void)a, (void)b;
  return false;
#endif
}

}  // namespace allmrec::io
