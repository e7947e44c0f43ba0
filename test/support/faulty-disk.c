// A disk that fails, preloaded into a process: what changes files below the folders of ALLMREC_FAULT_FOLDERS
// (separated by colons) is counted, and from the call on that the shared control file ALLMREC_FAULT_CONTROL names it
// fails with an error, once or for good, or kills the process. A write that fails or kills is done by half before.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

// As test/support/faulty-disk.ts has it.
struct control {
  int64_t at;            // number of the first call that fails, from 1; 0 = none
  int64_t error;         // errno; 0 = SIGKILL
  int64_t lasts;         // 1 = every later call fails too
  _Atomic int64_t count;  // calls so far
  _Atomic int64_t failed; // calls that have failed
  char path[1024];       // of the first that failed
};

static struct control *control;
static const char *folders;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void start(void) {
  folders = getenv("ALLMREC_FAULT_FOLDERS");
  const char *path = getenv("ALLMREC_FAULT_CONTROL");
  if (!folders || !path) return;
  const int fd = REAL(open)(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return;
  void *map = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (map != MAP_FAILED) control = map;
}

static int is_ours(const char *path) {
  for (const char *folder = folders; *folder;) {
    const size_t length = strcspn(folder, ":");
    if (strncmp(path, folder, length) == 0) return 1;
    folder += length + (folder[length] == ':');
  }
  return 0;
}

enum { OTHER, WRITE, REMOVAL };

// 0: goes on; 1: fails, errno is set; 2: a write that is to be done by half.
static int fault(const char *path, int kind) {
  if (!control || !path || !is_ours(path)) return 0;
  const int64_t number = atomic_fetch_add(&control->count, 1) + 1;
  const int64_t at = control->at;
  if (at == 0 || number < at || (number > at && !control->lasts)) return 0;
  // Deleting works on a full disk.
  if (kind == REMOVAL && control->error != 0 && control->error != EROFS && control->error != EIO) return 0;
  if (atomic_fetch_add(&control->failed, 1) == 0) {
    strncpy(control->path, path, sizeof control->path - 1);
    if (kind == WRITE) return 2;
  }
  if (control->error == 0) kill(getpid(), SIGKILL);
  errno = (int)control->error;
  return 1;
}

static const char *path_of(int fd, char *buffer, size_t size) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t length = readlink(link, buffer, size - 1);
  if (length < 0) return NULL;
  buffer[length] = 0;
  return buffer;
}

static int fault_fd(int fd, int kind) {
  char buffer[1100];
  if (!control) return 0;
  return fault(path_of(fd, buffer, sizeof buffer), kind);
}

static void die_if_told(void) {
  if (control->error == 0) kill(getpid(), SIGKILL);
}

static const char *absolute(const char *path, char *buffer, size_t size) {
  if (!path || path[0] == '/') return path;
  char folder[1024];
  if (!getcwd(folder, sizeof folder)) return path;
  snprintf(buffer, size, "%s/%s", folder, path);
  return buffer;
}

#define FAULT_PATH(path, kind)                                   \
  do {                                                           \
    char buffer_[2200];                                          \
    const int saved_ = errno;                                    \
    if (fault(absolute(path, buffer_, sizeof buffer_), kind)) return -1; \
    errno = saved_;                                              \
  } while (0)

#define OPEN(name)                                                       \
  int name(const char *path, int flags, ...) {                           \
    va_list list;                                                        \
    va_start(list, flags);                                               \
    const mode_t mode = va_arg(list, mode_t);                            \
    va_end(list);                                                        \
    if (flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)) FAULT_PATH(path, OTHER); \
    return REAL(name)(path, flags, mode);                                \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                     \
  int name(int at, const char *path, int flags, ...) {                   \
    va_list list;                                                        \
    va_start(list, flags);                                               \
    const mode_t mode = va_arg(list, mode_t);                            \
    va_end(list);                                                        \
    if (flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)) FAULT_PATH(path, OTHER); \
    return REAL(name)(at, path, flags, mode);                            \
  }
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int fd, const void *data, size_t count) {
  switch (fault_fd(fd, WRITE)) {
    case 1: return -1;
    case 2: {
      const ssize_t done = REAL(write)(fd, data, count / 2);
      die_if_told();
      if (count > 1) return done;
      errno = (int)control->error;
      return -1;
    }
  }
  return REAL(write)(fd, data, count);
}

#define PWRITE(name, offset_type)                                        \
  ssize_t name(int fd, const void *data, size_t count, offset_type offset) { \
    switch (fault_fd(fd, WRITE)) {                                       \
      case 1: return -1;                                                 \
      case 2: {                                                          \
        const ssize_t done = REAL(name)(fd, data, count / 2, offset);    \
        die_if_told();                                                   \
        if (count > 1) return done;                                      \
        errno = (int)control->error;                                     \
        return -1;                                                       \
      }                                                                  \
    }                                                                    \
    return REAL(name)(fd, data, count, offset);                          \
  }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define FAULT_FD(fd)                   \
  do {                                 \
    const int saved_ = errno;          \
    if (fault_fd(fd, OTHER)) return -1; \
    errno = saved_;                    \
  } while (0)

ssize_t writev(int fd, const struct iovec *pieces, int count) {
  FAULT_FD(fd);
  return REAL(writev)(fd, pieces, count);
}
ssize_t pwritev(int fd, const struct iovec *pieces, int count, off_t offset) {
  FAULT_FD(fd);
  return REAL(pwritev)(fd, pieces, count, offset);
}
ssize_t pwritev64(int fd, const struct iovec *pieces, int count, off64_t offset) {
  FAULT_FD(fd);
  return REAL(pwritev64)(fd, pieces, count, offset);
}
int ftruncate(int fd, off_t size) {
  FAULT_FD(fd);
  return REAL(ftruncate)(fd, size);
}
int ftruncate64(int fd, off64_t size) {
  FAULT_FD(fd);
  return REAL(ftruncate64)(fd, size);
}
int fsync(int fd) {
  FAULT_FD(fd);
  return REAL(fsync)(fd);
}
int fdatasync(int fd) {
  FAULT_FD(fd);
  return REAL(fdatasync)(fd);
}
int rename(const char *from, const char *to) {
  FAULT_PATH(to, OTHER);
  return REAL(rename)(from, to);
}
int mkdir(const char *path, mode_t mode) {
  FAULT_PATH(path, OTHER);
  return REAL(mkdir)(path, mode);
}
int unlink(const char *path) {
  FAULT_PATH(path, REMOVAL);
  return REAL(unlink)(path);
}
int rmdir(const char *path) {
  FAULT_PATH(path, REMOVAL);
  return REAL(rmdir)(path);
}
