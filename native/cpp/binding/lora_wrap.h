#pragma once

#include "../models/lora.h"
#include "model_wrap.h"

namespace allmrec::binding {

// NativeLora.
class LoraWrap : public ModelWrap<LoraWrap, Lora> {
 public:
  static constexpr const char* kName = "Lora";
  static constexpr napi_type_tag kTag = {0x616c6c6d72656300, 0x6c6f726100000001};

  static Napi::Function define(Napi::Env env);
  explicit LoraWrap(const Napi::CallbackInfo& info);

  // The adapter, which keeps its model alive.
  static std::shared_ptr<Lora> core_of(const State& model) { return {model, &model->core}; }
  // Null for null and undefined.
  static std::shared_ptr<Lora> read_optional(Napi::Value value, const std::string& name);

 private:
  Napi::Value initialise(const Napi::CallbackInfo& info);
  Napi::Value merge_into(const Napi::CallbackInfo& info);
};

}  // namespace allmrec::binding
