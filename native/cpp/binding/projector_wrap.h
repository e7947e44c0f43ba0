#pragma once

#include "../models/projector.h"
#include "model_wrap.h"

namespace allmrec::binding {

// NativeProjector.
class ProjectorWrap : public ModelWrap<ProjectorWrap, Projector> {
 public:
  static constexpr const char* kName = "Projector";
  static constexpr napi_type_tag kTag = {0x616c6c6d72656300, 0x70726f6a65630001};

  static Napi::Function define(Napi::Env env);
  explicit ProjectorWrap(const Napi::CallbackInfo& info);

 private:
  Napi::Value initialise(const Napi::CallbackInfo& info);
  Napi::Value users(const Napi::CallbackInfo& info);
  Napi::Value items(const Napi::CallbackInfo& info);
  Napi::Value gradients(const Napi::CallbackInfo& info);

  using Map = Tensor (Projector::*)(Tape&, const Tensor&);
  Napi::Value map_rows(const Napi::CallbackInfo& info, const char* name, int ProjectorConfig::*width,
                       Map map);
};

}  // namespace allmrec::binding
