#include "mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <limits>

#include "../core/error.h"
#include "../core/memory_limit.h"

namespace allmrec::io {

namespace {

struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

[[noreturn]] void fail(const std::string& path, const char* step, int error) {
  const bool missing = error == ENOENT || error == ENOTDIR;
  throw Error(
      missing           ? ErrorCode::file_not_found
      : error == ENOMEM ? ErrorCode::out_of_memory
                        : ErrorCode::file_format,
      path + ": " + step + ": " + std::strerror(error) + (error == ENOMEM ? ". " + memory_text() + "." : ""));
}

}  // namespace

std::shared_ptr<const MappedFile> MappedFile::open(const std::string& path) {
  // Without O_NONBLOCK a named pipe would block here before it can be refused.
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0) fail(path, "cannot open the file", errno);
  struct stat status {};
  if (::fstat(file.fd, &status) != 0) fail(path, "cannot stat the file", errno);
  if (!S_ISREG(status.st_mode)) {
    throw Error(ErrorCode::file_format, path + ": expected a regular file, found " +
                                            (S_ISDIR(status.st_mode) ? "a folder" : "a device or pipe"));
  }
  if (static_cast<uint64_t>(status.st_size) > std::numeric_limits<size_t>::max() / 2)
    throw Error(ErrorCode::out_of_memory, path + ": the file is too large for the address space");

  std::shared_ptr<MappedFile> mapped(new MappedFile);
  mapped->path_ = path;
  mapped->size_ = static_cast<size_t>(status.st_size);
  if (mapped->size_ == 0) return mapped;  // mmap refuses a length of zero
  void* address = ::mmap(nullptr, mapped->size_, PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (address == MAP_FAILED) fail(path, "cannot map the file", errno);
  mapped->mapping_ = address;
  mapped->data_ = static_cast<const uint8_t*>(address);
  return mapped;
}

std::shared_ptr<const MappedFile> MappedFile::from_bytes(const void* bytes, size_t size, std::string label) {
  std::shared_ptr<MappedFile> mapped(new MappedFile);
  mapped->path_ = std::move(label);
  mapped->size_ = size;
  mapped->copy_.reset(new uint8_t[size]);
  if (size > 0) std::memcpy(mapped->copy_.get(), bytes, size);
  mapped->data_ = mapped->copy_.get();
  return mapped;
}

void MappedFile::advise(const void* from, size_t bytes, int advice) const noexcept {
  const auto* begin = static_cast<const uint8_t*>(from);
  if (mapping_ == nullptr || bytes == 0 || begin < data_ || begin + bytes > data_ + size_) return;
  // A page that is shared with what came before is advised on again, one shared with what follows is left to
  // it.
  static const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const auto offset = static_cast<size_t>(begin - data_), end = offset + bytes;
  const size_t first = offset / page * page, last = end == size_ ? end : end / page * page;
  if (first < last) ::madvise(static_cast<uint8_t*>(mapping_) + first, last - first, advice);
}

void MappedFile::prefetch(const void* from, size_t bytes) const noexcept {
  advise(from, bytes, MADV_WILLNEED);
}

void MappedFile::release(const void* from, size_t bytes) const noexcept {
  advise(from, bytes, MADV_DONTNEED);
}

MappedFile::~MappedFile() {
  if (mapping_ != nullptr) ::munmap(mapping_, size_);
}

}  // namespace allmrec::io
