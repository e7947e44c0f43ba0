#pragma once

#include <napi.h>

#include <memory>

#include "environment.h"

namespace allmrec::binding {

// What is kept for each environment that loads the addon; nothing of N-API is static.
class Addon : public Napi::Addon<Addon> {
 public:
  Addon(Napi::Env env, Napi::Object exports);
  static Addon& of(Napi::Env env) { return *env.GetInstanceData<Addon>(); }
  const std::shared_ptr<Environment>& environment() const { return environment_; }

 private:
  Napi::Value list_devices(const Napi::CallbackInfo& info);
  Napi::Value open_tensor_file(const Napi::CallbackInfo& info);

  std::shared_ptr<Environment> environment_;
  Napi::FunctionReference tensor_file_;
};

}  // namespace allmrec::binding
