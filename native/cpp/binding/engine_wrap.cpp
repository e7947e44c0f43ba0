#include "engine_wrap.h"

#include <cstdio>

#include "../backend/registry.h"
#include "addon.h"
#include "convert.h"
#include "job.h"
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

void Engine::print_profile() noexcept {
  if (!profile) return;
  try {
    const std::string table = profile->table();
    std::fwrite(table.data(), 1, table.size(), stderr);
    std::fflush(stderr);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "a-llmrec profile: %s\n", error.what());
  }
}

Napi::Value to_js(Napi::Env env, const DeviceDescription& d) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("backend", d.backend);
  object.Set("available", d.available);
  object.Set("name", d.name);
  object.Set("instruction", d.instruction);
  object.Set("memoryBytes", static_cast<double>(d.memory_bytes));
  object.Set("threads", d.threads);
  object.Set("libraries", d.libraries);
  object.Set("reason", d.reason);
  return object;
}

Napi::Function EngineWrap::define(Napi::Env env) {
  return DefineClass(
      env, "Engine",
      {InstanceMethod("info", &EngineWrap::info), InstanceMethod("memory", &EngineWrap::memory),
       InstanceMethod("trim", &EngineWrap::trim), InstanceMethod("stop", &EngineWrap::stop),
       InstanceMethod("dispose", &EngineWrap::dispose)});
}

EngineWrap::EngineWrap(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  guarded(info.Env(), [&] {
    const Fields options(info[0], "options");
    const std::string name = options.string("device");
    const int threads = options.has("threads") ? options.size("threads", 0, 1024) : 0;
    const bool profiled = options.has("profile") && options.boolean("profile");
    if (options.has("cudaLibrary")) set_backend_library("cuda", options.string("cudaLibrary"));
    if (options.has("cublasLt")) {
      const std::string value = options.string("cublasLt");
      for (const BackendEntry& entry : list_backends())
        if (entry.name != "cpu" && entry.table) entry.table->configure("cublaslt", value.c_str());
    }
    DeviceDescription d;
    std::shared_ptr<Device> device = open_device(name, threads, d.reason);
    const allmrec_device_info opened = device->info();
    d.backend = device->backend_name();
    d.available = true;
    d.name = opened.name;
    d.instruction = opened.instruction;
    d.memory_bytes = opened.memory_bytes;
    d.threads = opened.threads;
    d.libraries = opened.libraries ? opened.libraries : "";
    engine_ = std::make_shared<Engine>(std::move(device), std::move(d), profiled,
                                       Addon::of(info.Env()).environment());
    set_tag(info.This(), kTag);
  });
}

Napi::Value EngineWrap::info(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    if (!engine_) throw Error(ErrorCode::disposed, "The engine is used after dispose().");
    return to_js(info.Env(), engine_->description);
  });
}

Napi::Value EngineWrap::memory(const Napi::CallbackInfo& info) {
  return as_promise(info.Env(), [&] {
    if (!engine_) throw Error(ErrorCode::disposed, "The engine is used after dispose().");
    return run_job(
        info.Env(), engine_->executor, std::make_shared<std::atomic<bool>>(false),
        [engine = engine_] { return engine->device->memory(); },
        [](Napi::Env env, const allmrec_memory_info& memory) {
          Napi::Object object = Napi::Object::New(env);
          object.Set("inUse", static_cast<double>(memory.in_use));
          object.Set("cached", static_cast<double>(memory.cached));
          object.Set("peak", static_cast<double>(memory.peak));
          object.Set("free", static_cast<double>(memory.free));
          object.Set("total", static_cast<double>(memory.total));
          return object;
        });
  });
}

// Behind whatever is queued, the disposal of a model among it.
void EngineWrap::trim(const Napi::CallbackInfo&) {
  if (!engine_) return;
  run_detached(engine_->executor, [engine = engine_]() noexcept {
    try {
      engine->device->trim();
    } catch (const Error&) {
      // A device that cannot give memory back says so at its next call that matters.
    }
  });
}

void EngineWrap::stop(const Napi::CallbackInfo&) {
  if (engine_) engine_->executor.stop();
}

std::shared_ptr<Engine> read_engine(Napi::Value value) {
  const EngineWrap* wrap = unwrap<EngineWrap>(value, kTag, "engine", "an Engine");
  if (!wrap->engine_) throw Error(ErrorCode::disposed, "The engine is used after dispose().");
  return wrap->engine_;
}

}  // namespace allmrec::binding
