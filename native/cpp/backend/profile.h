#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "device.h"

namespace allmrec {

// What a device's ops took from here on, beside the least they could have taken.
class Profile {
 public:
  // Finds the device's ceilings, which takes a moment, and begins.
  explicit Profile(std::shared_ptr<Device> device);
  // Ends it and gives a table, the longest ops first: calls, milliseconds, their share of the wall clock's,
  // work, and how near to the limit it was done. The device must not be in use.
  std::string table();

 private:
  std::shared_ptr<Device> device_;
  Ceilings ceilings_;
  std::chrono::steady_clock::time_point begun_;
};

}  // namespace allmrec
