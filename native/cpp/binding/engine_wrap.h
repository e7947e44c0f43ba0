#pragma once

#include <napi.h>

#include <memory>

#include "../backend/device.h"
#include "../backend/profile.h"
#include "../core/executor.h"

namespace allmrec::binding {

// An opened device with the one thread that uses it. Shared by the models created on it, so it lives as long
// as any. Allocating and freeing device memory is allowed on every thread, all else on the executor's alone.
struct Engine {
  std::shared_ptr<Device> device;
  DeviceDescription description;
  std::unique_ptr<Profile> profile;  // or nullptr
  Executor executor;

  Engine(std::shared_ptr<Device> opened, DeviceDescription described, bool profiled,
         std::shared_ptr<JobOwner> owner)
      : device(std::move(opened)),
        description(std::move(described)),
        profile(profiled ? std::make_unique<Profile>(device) : nullptr),
        executor(std::move(owner), [this] { print_profile(); }) {}

 private:
  // To the standard error, when no job uses the device any more.
  void print_profile() noexcept;
};

Napi::Value to_js(Napi::Env env, const DeviceDescription& description);

// NativeEngine.
class EngineWrap : public Napi::ObjectWrap<EngineWrap> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit EngineWrap(const Napi::CallbackInfo& info);

 private:
  friend std::shared_ptr<Engine> read_engine(Napi::Value value);
  Napi::Value info(const Napi::CallbackInfo& info);
  Napi::Value memory(const Napi::CallbackInfo& info);
  void trim(const Napi::CallbackInfo& info);
  void stop(const Napi::CallbackInfo& info);
  void dispose(const Napi::CallbackInfo&) { engine_.reset(); }

  std::shared_ptr<Engine> engine_;
};

// The engine a model is created on. Throws ErrorCode::disposed after its dispose().
std::shared_ptr<Engine> read_engine(Napi::Value value);

}  // namespace allmrec::binding
