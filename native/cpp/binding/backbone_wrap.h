#pragma once

#include "../models/backbone.h"
#include "model_wrap.h"

namespace allmrec::binding {

// Numbers and words of a JavaScript object; other fields are left out.
NamedOptions read_named_options(Napi::Value value, const std::string& name);

// A backbone of whichever kind its configuration names.
class AnyBackbone {
 public:
  AnyBackbone(std::shared_ptr<Device> device, const std::pair<std::string, NamedOptions>& config)
      : backbone_(make_backbone(config.first, std::move(device), config.second)) {}

  Backbone& operator*() const { return *backbone_; }
  Backbone* operator->() const { return backbone_.get(); }
  ParameterSet& parameters() { return backbone_->parameters(); }
  void load(const std::vector<std::string>& paths) { backbone_->load(paths); }

 private:
  std::unique_ptr<Backbone> backbone_;
};

// NativeBackbone.
class BackboneWrap : public ModelWrap<BackboneWrap, AnyBackbone> {
 public:
  static constexpr const char* kName = "Backbone";
  static constexpr napi_type_tag kTag = {0x616c6c6d72656300, 0x6261636b626f6e65};

  static Napi::Function define(Napi::Env env);
  explicit BackboneWrap(const Napi::CallbackInfo& info);

 private:
  Napi::Value initialise(const Napi::CallbackInfo& info);
  Napi::Value item_table(const Napi::CallbackInfo& info);
  Napi::Value features(const Napi::CallbackInfo& info);
  Napi::Value user_vectors(const Napi::CallbackInfo& info);
  Napi::Value score_candidates(const Napi::CallbackInfo& info);
  Napi::Value score_vectors(const Napi::CallbackInfo& info);
  Napi::Value rank_catalogue(const Napi::CallbackInfo& info);
};

}  // namespace allmrec::binding
