#pragma once

#include "../models/sentence_encoder.h"
#include "model_wrap.h"

namespace allmrec::binding {

EncoderConfig read_encoder_config(const Fields& config);

// NativeSentenceEncoder.
class SentenceEncoderWrap : public ModelWrap<SentenceEncoderWrap, SentenceEncoder> {
 public:
  static constexpr const char* kName = "SentenceEncoder";
  static constexpr napi_type_tag kTag = {0x616c6c6d72656300, 0x656e636f64650001};

  static Napi::Function define(Napi::Env env);
  explicit SentenceEncoderWrap(const Napi::CallbackInfo& info);

 private:
  Napi::Value initialise(const Napi::CallbackInfo& info);
  Napi::Value hidden_states(const Napi::CallbackInfo& info);
  Napi::Value encode(const Napi::CallbackInfo& info);
  Napi::Value pooled_gradients(const Napi::CallbackInfo& info);
};

}  // namespace allmrec::binding
