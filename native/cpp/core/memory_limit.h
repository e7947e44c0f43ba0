#pragma once

#include <cstdint>
#include <string>

namespace allmrec {

// What bounds this process's memory, in bytes; kUnlimited where nothing does or the system does not say.
struct MemoryLimits {
  static constexpr int64_t kUnlimited = INT64_MAX;
  int64_t machine = kUnlimited;        // memory and swap
  int64_t container = kUnlimited;      // of the control group and those above it, with their swap
  int64_t address_space = kUnlimited;  // RLIMIT_AS
  int64_t data = kUnlimited;           // RLIMIT_DATA: private writable pages

  // What there is to back memory that is written to. More may be handed out, but the process would be killed
  // when it is used.
  int64_t existing() const { return machine < container ? machine : container; }
};

// root: where /proc and /sys are looked for, another one for tests.
MemoryLimits memory_limits(const std::string& root = "");

// "1.5 GB"
std::string bytes_text(int64_t bytes);

// What the process has and what bounds it, as a sentence for an error: "This process has 120 MB resident, …".
// Takes little memory itself.
std::string memory_text();

}  // namespace allmrec
