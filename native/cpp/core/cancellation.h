#pragma once

#include <atomic>

#include "error.h"

namespace allmrec {

// Whether the job of this thread has been cancelled. Every op of a device polls it, the thread pool between
// the tasks of an op, and long loops on the host: so no job is deaf, and no model passes a flag on.
class Cancellation {
 public:
  // Work of this thread stops once `flag` is set, until the end of the scope. nullptr: it is done to its end,
  // as an update must be that would leave half-new weights behind.
  explicit Cancellation(const std::atomic<bool>* flag) : before_(current_) { current_ = flag; }
  ~Cancellation() { current_ = before_; }
  Cancellation(const Cancellation&) = delete;
  Cancellation& operator=(const Cancellation&) = delete;

  static const std::atomic<bool>* flag() { return current_; }
  // Throws ErrorCode::cancelled.
  static void poll() { poll(current_); }
  static void poll(const std::atomic<bool>* flag) {
    if (flag && flag->load(std::memory_order_relaxed))
      throw Error(ErrorCode::cancelled, "The call was cancelled.");
  }

 private:
  static inline thread_local const std::atomic<bool>* current_ = nullptr;
  const std::atomic<bool>* before_;
};

}  // namespace allmrec
