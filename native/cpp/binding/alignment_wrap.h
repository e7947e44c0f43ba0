#pragma once

#include "../models/alignment.h"
#include "model_wrap.h"

namespace allmrec::binding {

// NativeAlignment.
class AlignmentWrap : public ModelWrap<AlignmentWrap, Alignment> {
 public:
  static constexpr const char* kName = "Alignment";
  static constexpr napi_type_tag kTag = {0x616c6c6d72656300, 0x616c69676e6d0001};

  static Napi::Function define(Napi::Env env);
  explicit AlignmentWrap(const Napi::CallbackInfo& info);

 private:
  Napi::Value initialise(const Napi::CallbackInfo& info);
  Napi::Value encode_items(const Napi::CallbackInfo& info);
  Napi::Value decode_items(const Napi::CallbackInfo& info);
  Napi::Value encode_texts(const Napi::CallbackInfo& info);
  Napi::Value decode_texts(const Napi::CallbackInfo& info);

  using Map = Tensor (Alignment::*)(Tape&, const Tensor&);
  Napi::Value map_rows(const Napi::CallbackInfo& info, const char* name, int AlignmentConfig::*width,
                       Map map);
};

}  // namespace allmrec::binding
