#pragma once

#include "../models/opt.h"
#include "model_wrap.h"

namespace allmrec::binding {

// NativeOpt.
class OptWrap : public ModelWrap<OptWrap, Opt> {
 public:
  static constexpr const char* kName = "Opt";
  static constexpr napi_type_tag kTag = {0x616c6c6d72656300, 0x6f70740000000001};

  static Napi::Function define(Napi::Env env);
  explicit OptWrap(const Napi::CallbackInfo& info);

 private:
  Napi::Value logits(const Napi::CallbackInfo& info);
  Napi::Value log_probs(const Napi::CallbackInfo& info);
  Napi::Value soft_gradient(const Napi::CallbackInfo& info);
  Napi::Value score_answers(const Napi::CallbackInfo& info);
  Napi::Value set_adapter(const Napi::CallbackInfo& info);
  Napi::Value generate(const Napi::CallbackInfo& info);
};

}  // namespace allmrec::binding
