#pragma once

#include <stdexcept>
#include <string>

namespace allmrec {

// The binding maps each to a stable ERR_ALLMREC_… code.
enum class ErrorCode {
  invalid_argument,
  file_not_found,
  checkpoint,
  unsupported,
  unknown_item,
  out_of_memory,
  write,
  device,
  device_lost,
  numeric,
  cancelled,
  disposed,
  internal,
};

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace allmrec
