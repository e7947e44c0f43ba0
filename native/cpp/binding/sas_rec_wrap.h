#pragma once

#include "../models/sas_rec.h"
#include "model_wrap.h"

namespace allmrec::binding {

// NativeSasRec.
class SasRecWrap : public ModelWrap<SasRecWrap, SasRec> {
 public:
  static constexpr const char* kName = "SasRec";
  static constexpr napi_type_tag kTag = {0x616c6c6d72656300, 0x7361735f72650001};

  static Napi::Function define(Napi::Env env);
  explicit SasRecWrap(const Napi::CallbackInfo& info);

 private:
  Napi::Value initialise(const Napi::CallbackInfo& info);
  Napi::Value features(const Napi::CallbackInfo& info);
  Napi::Value user_vectors(const Napi::CallbackInfo& info);
  Napi::Value score_candidates(const Napi::CallbackInfo& info);
  Napi::Value rank_catalogue(const Napi::CallbackInfo& info);
};

}  // namespace allmrec::binding
