#include "profile.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>

#include "ceilings.h"

namespace allmrec {
namespace {

template <typename... Values>
std::string formatted(const char* format, Values... values) {
  char text[256];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

std::string line(const ProfileRow& row, double wall, const std::string& share, const char* bound) {
  return formatted("%-22s %9" PRId64 " %11.1f %8.1f %11.3f %10.3f %9s  %s\n", row.op.c_str(), row.calls,
                   row.milliseconds, 100 * row.milliseconds / wall, 1e-9 * row.flops, 1e-9 * row.bytes,
                   share.c_str(), bound);
}

std::string share_of_limit(const ProfileRow& row) {
  return row.floor_milliseconds > 0 ? formatted("%.1f", 100 * row.floor_milliseconds / row.milliseconds)
                                    : "-";
}

}  // namespace

Profile::Profile(std::shared_ptr<Device> device)
    : device_(std::move(device)), ceilings_(ceilings_of(*device_)) {
  device_->profile_begin(ceilings_);
  begun_ = std::chrono::steady_clock::now();
}

std::string Profile::table() {
  const std::chrono::duration<double, std::milli> wall = std::chrono::steady_clock::now() - begun_;
  std::vector<ProfileRow> rows = device_->profile_end();
  const allmrec_device_info info = device_->info();
  std::sort(rows.begin(), rows.end(),
            [](const ProfileRow& a, const ProfileRow& b) { return a.milliseconds > b.milliseconds; });
  std::string text = formatted("a-llmrec profile: %s, %s, %s, %d %s\n", device_->backend_name(), info.name,
                               info.instruction, static_cast<int>(info.threads),
                               std::string(device_->backend_name()) == "cpu" ? "threads" : "multiprocessors");
  if (ceilings_.bytes > 0)
    text += formatted("limits: float32 %.4g, half %.4g, int8 %.4g GFLOP/s, memory %.4g GB/s\n",
                      1e-9 * ceilings_.float32_flops, 1e-9 * ceilings_.half_flops,
                      1e-9 * ceilings_.int8_flops, 1e-9 * ceilings_.bytes);
  text += formatted("%-22s %9s %11s %8s %11s %10s %9s  %s\n", "op", "calls", "ms", "% wall", "GFLOP", "GB",
                    "% limit", "bound");
  ProfileRow all;
  all.op = "all ops";
  for (const ProfileRow& row : rows) {
    const bool arithmetic = 2 * row.arithmetic_floor_milliseconds > row.floor_milliseconds;
    text += line(row, wall.count(), share_of_limit(row),
                 row.floor_milliseconds > 0 ? (arithmetic ? "arithmetic" : "memory") : "-");
    all.calls += row.calls;
    all.milliseconds += row.milliseconds;
    all.flops += row.flops;
    all.bytes += row.bytes;
    all.floor_milliseconds += row.floor_milliseconds;
  }
  text += line(all, wall.count(), share_of_limit(all), "-");
  return text +
         formatted("wall clock %.1f ms; attention is counted as if every query saw the longest sequence\n",
                   wall.count());
}

}  // namespace allmrec
