#include "cancel_flag.h"

#include "wrap.h"

namespace allmrec::binding {
namespace {
constexpr napi_type_tag kTag = {0x616c6c6d72656300, 0x63616e63656c0001};
}

Napi::Function CancelFlagWrap::define(Napi::Env env) {
  return DefineClass(env, "CancelFlag", {InstanceMethod("cancel", &CancelFlagWrap::cancel)});
}

CancelFlagWrap::CancelFlagWrap(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  set_tag(info.This(), kTag);
}

Flag read_cancel(Napi::Value value) {
  if (value.IsUndefined()) return std::make_shared<std::atomic<bool>>(false);
  return unwrap<CancelFlagWrap>(value, kTag, "cancel", "a CancelFlag")->flag_;
}

}  // namespace allmrec::binding
