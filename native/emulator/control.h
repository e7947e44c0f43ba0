#pragma once

// What a test sets and asks of the emulator. Environment variables set the same things at start:
//   ALLMREC_EMULATOR_SCHEDULE  forward, reverse, random or random:<seed>
//   ALLMREC_EMULATOR_STREAMS   eager (default) or late
//   ALLMREC_EMULATOR_MEMORY    bytes of device memory
//   ALLMREC_EMULATOR_FAIL_LAUNCH  the number, from 1, of the launch that breaks the device
//   ALLMREC_EMULATOR_DEVICES   1, 0, or none for a machine without a driver
//   ALLMREC_EMULATOR_SKIP      <end of a file name>:<line>, a synchronisation that does nothing
//   ALLMREC_EMULATOR_SITES     a file that gets a line `file:line kind kernel` for each synchronisation run

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace allmrec::emulator {

// The order in which threads and blocks run. A kernel has to be right in every one of them.
enum class Schedule { forward, reverse, random };
void set_schedule(Schedule schedule, uint64_t seed = 1);

// eager: work is done when it is submitted. late: only when the host waits for it or another stream does, so
// that a missing wait shows.
enum class Streams { eager, late };
void set_streams(Streams streams);

struct Fault {
  std::string kind;    // "mismatched barriers", "shared memory race", …
  std::string kernel;  // its name without namespace and parameters
  std::string text;    // the whole line as printed
};
// All faults since the last clear_faults(), which also makes the device usable again.
std::vector<Fault> faults();
void clear_faults();
// Faults are not printed while quiet.
void set_quiet(bool quiet);

void limit_memory(size_t bytes);  // 0: the default, 16 GiB
void fail_launch(long number);    // counted from now, from 1; 0: none
enum class Devices { one, none, no_driver };
void set_devices(Devices devices);

// As ALLMREC_EMULATOR_SKIP; empty: nothing.
void skip_site(const std::string& site);

struct Statistics {
  uint64_t launches, blocks, threads, switches;
};
Statistics statistics();
size_t memory_in_use();

// The build this is: "fast", "asan" or "race".
const char* build_kind();

}  // namespace allmrec::emulator
