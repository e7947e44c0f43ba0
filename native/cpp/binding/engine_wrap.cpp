#include "engine_wrap.h"

#include "addon.h"
#include "convert.h"
#include "wrap.h"

namespace allmrec::binding {
namespace {

constexpr napi_type_tag kTag = {0x616c6c6d72656300, 0x656e67696e650001};

// `auto` takes the first plug-in that opens and the CPU otherwise; why not is kept in the description's
// reason.
std::shared_ptr<Device> open_device(const std::string& name, int threads, std::string& reason) {
  if (name != "auto") return Device::open(name, threads);
  try {
    return Device::open("cuda", threads);
  } catch (const Error& error) {
    reason = error.what();
    return Device::open("cpu", threads);
  }
}

}  // namespace

Napi::Value to_js(Napi::Env env, const DeviceDescription& d) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("backend", d.backend);
  object.Set("available", d.available);
  object.Set("name", d.name);
  object.Set("instruction", d.instruction);
  object.Set("memoryBytes", static_cast<double>(d.memory_bytes));
  object.Set("threads", d.threads);
  object.Set("reason", d.reason);
  return object;
}

Napi::Function EngineWrap::define(Napi::Env env) {
  return DefineClass(
      env, "Engine",
      {InstanceMethod("info", &EngineWrap::info), InstanceMethod("dispose", &EngineWrap::dispose)});
}

EngineWrap::EngineWrap(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  guarded(info.Env(), [&] {
    const Fields options(info[0], "options");
    const std::string name = options.string("device");
    const int threads = options.has("threads") ? options.size("threads", 0, 1024) : 0;
    DeviceDescription d;
    std::shared_ptr<Device> device = open_device(name, threads, d.reason);
    const allmrec_device_info opened = device->info();
    d.backend = device->backend_name();
    d.available = true;
    d.name = opened.name;
    d.instruction = opened.instruction;
    d.memory_bytes = opened.memory_bytes;
    d.threads = opened.threads;
    engine_ = std::make_shared<Engine>(std::move(device), std::move(d), Addon::of(info.Env()).environment());
    info.This().As<Napi::Object>().TypeTag(&kTag);
  });
}

Napi::Value EngineWrap::info(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    if (!engine_) throw Error(ErrorCode::disposed, "The engine is used after dispose().");
    return to_js(info.Env(), engine_->description);
  });
}

std::shared_ptr<Engine> read_engine(Napi::Value value) {
  const EngineWrap* wrap = unwrap<EngineWrap>(value, kTag, "engine", "an Engine");
  if (!wrap->engine_) throw Error(ErrorCode::disposed, "The engine is used after dispose().");
  return wrap->engine_;
}

}  // namespace allmrec::binding
