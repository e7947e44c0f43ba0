#pragma once

#include <string>

#include "../core/error.h"
#include "backend.h"

namespace allmrec {

// What a back end's entry returns for an error that was thrown behind it.
inline allmrec_status status_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_argument:
      return ALLMREC_INVALID_ARGUMENT;
    case ErrorCode::unsupported:
      return ALLMREC_UNSUPPORTED;
    case ErrorCode::out_of_memory:
      return ALLMREC_OUT_OF_MEMORY;
    case ErrorCode::device:
      return ALLMREC_DEVICE_ERROR;
    case ErrorCode::device_lost:
      return ALLMREC_DEVICE_LOST;
    default:
      return ALLMREC_INTERNAL;
  }
}

// What a back end's `last_error` answers: the sentence of the calling thread's last failed call. Memory is
// asked for and models are dropped while a step runs on another thread, which has failures of its own.
inline std::string& last_error_of_thread() {
  thread_local std::string sentence;
  return sentence;
}

}  // namespace allmrec
