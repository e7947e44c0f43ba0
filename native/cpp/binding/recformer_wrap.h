#pragma once

#include "../models/recformer.h"
#include "model_wrap.h"

namespace allmrec::binding {

RecFormerBatch read_recformer_batch(Napi::Value value, const std::string& name);

// NativeRecFormer.
class RecFormerWrap : public ModelWrap<RecFormerWrap, RecFormer> {
 public:
  static constexpr const char* kName = "RecFormer";
  static constexpr napi_type_tag kTag = {0x616c6c6d72656300, 0x726563666f726d01};

  static Napi::Function define(Napi::Env env);
  explicit RecFormerWrap(const Napi::CallbackInfo& info);

 private:
  Napi::Value initialise(const Napi::CallbackInfo& info);
  Napi::Value hidden_states(const Napi::CallbackInfo& info);
  Napi::Value vectors(const Napi::CallbackInfo& info);
};

}  // namespace allmrec::binding
