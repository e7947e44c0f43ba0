#include "memory_limit.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace allmrec {
namespace {

constexpr int64_t kUnlimited = MemoryLimits::kUnlimited;

// The beginning of a small file, without the memory a stream takes; empty when it cannot be read.
struct Text {
  char data[4096] = "";

  explicit Text(const char* path) {
    const int file = ::open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return;
    const ssize_t bytes = ::read(file, data, sizeof data - 1);
    data[bytes > 0 ? bytes : 0] = '\0';
    ::close(file);
  }

  // The number behind `key` at the beginning of a line, −1 without.
  int64_t number(const char* key) const {
    for (const char* line = data; line; line = std::strchr(line, '\n')) {
      line += *line == '\n';
      if (std::strncmp(line, key, std::strlen(key)) == 0) return std::atoll(line + std::strlen(key));
    }
    return -1;
  }
};

// "max" and the numbers that stand for it are unlimited.
int64_t limit_of(const std::string& path) {
  const Text text(path.c_str());
  if (text.data[0] < '0' || text.data[0] > '9') return kUnlimited;
  const int64_t value = std::strtoll(text.data, nullptr, 10);
  return value >= int64_t{1} << 60 ? kUnlimited : value;
}

int64_t sum_of(int64_t a, int64_t b) {
  return a > kUnlimited - b ? kUnlimited : a + b;
}

// The least limit of a control group and those above it.
int64_t container_limit(const std::string& root, int64_t swap) {
  const Text groups((root + "/proc/self/cgroup").c_str());
  const std::string base = root + "/sys/fs/cgroup";
  int64_t least = kUnlimited;
  const auto walk = [&](std::string group, const std::string& folder, const char* file,
                        const char* swap_file) {
    for (;;) {
      const int64_t limit = limit_of(folder + group + "/" + file);
      if (limit != kUnlimited)
        least = std::min(
            least,
            sum_of(limit, swap_file ? std::min(swap, limit_of(folder + group + "/" + swap_file)) : swap));
      const size_t slash = group.rfind('/');
      if (slash == std::string::npos) return;
      group.resize(slash);
    }
  };
  const std::string text = groups.data;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string line = text.substr(at, end - at);
    at = end + 1;
    // A namespace may hide the group's path: the root of what is mounted is looked at too.
    if (line.rfind("0::", 0) == 0)
      walk(line.substr(3) == "/" ? "" : line.substr(3), base, "memory.max", "memory.swap.max");
    const size_t memory = line.find(":memory:");
    if (memory != std::string::npos)
      walk(line.substr(memory + 8) == "/" ? "" : line.substr(memory + 8), base + "/memory",
           "memory.limit_in_bytes", nullptr);
  }
  return least;
}

int64_t bytes_of(const rlimit& limit) {
  return limit.rlim_cur >= static_cast<rlim_t>(kUnlimited) ? kUnlimited
                                                           : static_cast<int64_t>(limit.rlim_cur);
}

}  // namespace

MemoryLimits memory_limits(const std::string& root) {
  MemoryLimits limits;
  const Text memory((root + "/proc/meminfo").c_str());
  const int64_t total = memory.number("MemTotal:"), swap = memory.number("SwapTotal:");
  if (total > 0) limits.machine = (total + std::max<int64_t>(swap, 0)) * 1024;
  limits.container = container_limit(root, std::max<int64_t>(swap, 0) * 1024);
  rlimit limit{};
  if (getrlimit(RLIMIT_AS, &limit) == 0) limits.address_space = bytes_of(limit);
  if (getrlimit(RLIMIT_DATA, &limit) == 0) limits.data = bytes_of(limit);
  return limits;
}

std::string bytes_text(int64_t bytes) {
  const auto value = static_cast<double>(bytes);
  char text[48];
  if (bytes < 10'000)
    std::snprintf(text, sizeof text, "%lld bytes", static_cast<long long>(bytes));
  else if (value < 1e6)
    std::snprintf(text, sizeof text, "%.1f kB", value / 1e3);
  else if (value < 1e9)
    std::snprintf(text, sizeof text, "%.1f MB", value / 1e6);
  else
    std::snprintf(text, sizeof text, "%.2f GB", value / 1e9);
  return text;
}

std::string memory_text() {
  const Text status("/proc/self/status");
  std::string text = "This process has";
  const auto add = [&text](const char* before, int64_t bytes, const char* what) {
    text += before + bytes_text(bytes) + what;
  };
  const auto kilobytes = [&status](const char* key) {
    return std::max<int64_t>(status.number(key), 0) * 1024;
  };
  add(" ", kilobytes("VmRSS:"), " resident");
  add(", ", kilobytes("VmData:"), " of data");
  add(" and ", kilobytes("VmSize:"), " of address space");
  const MemoryLimits limits = memory_limits();
  const char* before = "; its limits are ";
  const auto limit = [&](int64_t bytes, const char* what) {
    if (bytes == kUnlimited) return;
    add(before, bytes, what);
    before = ", ";
  };
  limit(limits.data, " of data (RLIMIT_DATA)");
  limit(limits.address_space, " of address space (RLIMIT_AS)");
  limit(limits.container, " in its control group");
  limit(limits.machine, " in the machine");
  return text;
}

}  // namespace allmrec
