#include <cstdlib>
#include <cstring>

#include "runtime.h"
#include "scheduler.h"

namespace allmrec::emulator {

Statistics counted = {};

namespace {

bool begins(const char* text, const char* start) {
  return std::strncmp(text, start, std::strlen(start)) == 0;
}

Settings from_environment() {
  Settings result;
  if (const char* value = std::getenv("ALLMREC_EMULATOR_SCHEDULE")) {
    if (begins(value, "reverse")) result.schedule = Schedule::reverse;
    if (begins(value, "random")) result.schedule = Schedule::random;
    if (begins(value, "random:")) result.seed = std::strtoull(value + 7, nullptr, 10);
  }
  if (const char* value = std::getenv("ALLMREC_EMULATOR_STREAMS"))
    result.streams = begins(value, "late") ? Streams::late : Streams::eager;
  if (const char* value = std::getenv("ALLMREC_EMULATOR_MEMORY"))
    result.memory = std::strtoull(value, nullptr, 10);
  if (const char* value = std::getenv("ALLMREC_EMULATOR_FAIL_LAUNCH"))
    result.fail_launch = std::strtol(value, nullptr, 10);
  if (const char* value = std::getenv("ALLMREC_EMULATOR_DEVICES")) {
    if (begins(value, "0")) result.devices = Devices::none;
    if (begins(value, "none")) result.devices = Devices::no_driver;
  }
  return result;
}

}  // namespace

Settings settings = from_environment();

void set_schedule(Schedule schedule, uint64_t seed) {
  settings.schedule = schedule;
  settings.seed = seed;
}
void set_quiet(bool quiet) {
  settings.quiet = quiet;
}
void limit_memory(size_t bytes) {
  settings.memory = bytes;
}
void fail_launch(long number) {
  settings.fail_launch = number;
}
void set_devices(Devices devices) {
  settings.devices = devices;
}
Statistics statistics() {
  return counted;
}

const char* build_kind() {
#if defined(ALLMREC_EMULATOR_RACE)
  return "race";
#elif defined(__SANITIZE_ADDRESS__)
  return "asan";
#else
  return "fast";
#endif
}

}  // namespace allmrec::emulator
