#pragma once

#include <napi.h>

#include "../core/executor.h"

namespace allmrec::binding {

// NativeCancelFlag: a flag that running and queued jobs share.
class CancelFlagWrap : public Napi::ObjectWrap<CancelFlagWrap> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit CancelFlagWrap(const Napi::CallbackInfo& info);

 private:
  friend Flag read_cancel(Napi::Value value);
  void cancel(const Napi::CallbackInfo&) { flag_->store(true); }

  Flag flag_ = std::make_shared<std::atomic<bool>>(false);
};

// The flag of an optional last argument; a fresh one when it is undefined.
Flag read_cancel(Napi::Value value);

}  // namespace allmrec::binding
