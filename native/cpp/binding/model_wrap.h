#pragma once

#include <napi.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "../autograd/tape.h"
#include "../io/safetensors.h"
#include "../nn/parameter_set.h"
#include "cancel_flag.h"
#include "engine_wrap.h"
#include "job.h"
#include "wrap.h"

namespace allmrec::binding {

// What trainers need of a model, whichever it is. Used on the executor's thread only, but for names and
// shapes, which never change.
struct AnyModel {
  std::shared_ptr<Engine> engine;
  // Set while gradients lie in the model that no optimizer has taken: the next step clears them first.
  bool gradients_left = false;

  explicit AnyModel(std::shared_ptr<Engine> e) : engine(std::move(e)) {}
  virtual ~AnyModel() = default;
  virtual ParameterSet& parameters() = 0;

  // Before gradients are computed for inspection.
  void start_gradients() {
    parameters().set_trainable(true);
    parameters().zero_grad();
    gradients_left = true;
  }
};

// A model of the core, alive as long as its wrap, a trainer or a running job holds it.
template <typename Core>
struct Model final : AnyModel {
  Core core;

  template <typename Config>
  Model(std::shared_ptr<Engine> e, const Config& config)
      : AnyModel(std::move(e)), core(engine->device, config) {}
  ParameterSet& parameters() override { return core.parameters(); }
};

// An activation's values. Throws ErrorCode::numeric when one of them is not finite.
inline std::vector<float> to_host(Tape& tape, const Tensor& t) {
  std::vector<float> host(static_cast<size_t>(t.size()));
  tape.device().download(host.data(), t.data, host.size() * sizeof(float));
  const auto bad = std::find_if(host.begin(), host.end(), [](float x) { return !std::isfinite(x); });
  if (bad != host.end())
    throw Error(ErrorCode::numeric, "What was computed is not finite, in row " +
                                        std::to_string((bad - host.begin()) / t.cols) + " and column " +
                                        std::to_string((bad - host.begin()) % t.cols) + " of " +
                                        std::to_string(t.rows) + " × " + std::to_string(t.cols) +
                                        ": weights or inputs are too large.");
  return host;
}

// No dtype: each weight as it is stored in memory, quants with their scales.
void save_model(ParameterSet& parameters, const std::string& path,
                const std::map<std::string, std::string>& metadata, std::optional<io::FileDType> dtype);

// The methods of NativeModel. Derived has kName, kTag and a constructor that calls `own`.
template <typename Derived, typename Core>
class ModelWrap : public Napi::ObjectWrap<Derived> {
 public:
  using State = std::shared_ptr<Model<Core>>;
  using Property = typename Napi::ObjectWrap<Derived>::PropertyDescriptor;

  explicit ModelWrap(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Derived>(info) {}
  ~ModelWrap() override { release(); }

  static State read(Napi::Value value, const std::string& name) {
    return unwrap<Derived>(value, Derived::kTag, name, std::string("of class ") + Derived::kName)->state();
  }

 protected:
  static Property method(const char* name, Napi::Value (Derived::*function)(const Napi::CallbackInfo&)) {
    return Napi::ObjectWrap<Derived>::InstanceMethod(name, function);
  }

  static Napi::Function define_class(Napi::Env env, std::vector<Property> own) {
    for (const Property& p :
         {method("parameters", as_derived(&ModelWrap::get_parameters)),
          method("parameterCount", as_derived(&ModelWrap::parameter_count)),
          method("getParameter", as_derived(&ModelWrap::get_parameter)),
          method("setParameter", as_derived(&ModelWrap::set_parameter)),
          method("getGradient", as_derived(&ModelWrap::get_gradient)),
          method("load", as_derived(&ModelWrap::load)), method("save", as_derived(&ModelWrap::save)),
          method("dispose", as_derived(&ModelWrap::dispose))})
      own.push_back(p);
    return Napi::ObjectWrap<Derived>::DefineClass(env, Derived::kName, own);
  }

  // For the constructor: info[0] is the engine, info[1] the config that `read_config` understands.
  template <typename ReadConfig>
  void create(const Napi::CallbackInfo& info, ReadConfig&& read_config) {
    guarded(info.Env(), [&] {
      const std::shared_ptr<Engine> engine = read_engine(info[0]);
      state_ = std::make_shared<Model<Core>>(engine, read_config(Fields(info[1], "config")));
      weight_ = static_cast<int64_t>(state_->parameters().bytes());
      Napi::MemoryManagement::AdjustExternalMemory(info.Env(), weight_);
      set_tag(info.This(), Derived::kTag);
    });
  }

  const State& state() const {
    if (!state_)
      throw Error(ErrorCode::disposed, std::string("This ") + Derived::kName + " is used after dispose().");
    return state_;
  }

  // fn(model's state) reads the arguments and queues the job.
  template <typename Fn>
  Napi::Value promise(const Napi::CallbackInfo& info, Fn&& fn) {
    return as_promise(info.Env(), [&] { return fn(state()); });
  }

 private:
  using Method = Napi::Value (Derived::*)(const Napi::CallbackInfo&);
  static Method as_derived(Napi::Value (ModelWrap::*function)(const Napi::CallbackInfo&)) {
    return static_cast<Method>(function);
  }

  static Parameter& find(const State& model, Napi::Value name) {
    const std::string text = read_string(name, "name");
    Parameter* parameter = model->parameters().find(text);
    if (parameter == nullptr) expected("name", std::string("a parameter of the ") + Derived::kName, name);
    return *parameter;
  }

  Napi::Value get_parameters(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    return guarded(env, [&]() -> Napi::Value {
      const auto& all = state()->parameters().all();
      Napi::Array array = Napi::Array::New(env, all.size());
      for (size_t i = 0; i < all.size(); ++i) {
        const Napi::HandleScope scope(env);
        Napi::Object object = Napi::Object::New(env);
        object.Set("name", all[i]->name);
        object.Set("shape", to_js(env, all[i]->shape));
        array.Set(static_cast<uint32_t>(i), object);
      }
      return array;
    });
  }

  Napi::Value parameter_count(const Napi::CallbackInfo& info) {
    return guarded(info.Env(),
                   [&] { return to_js(info.Env(), static_cast<double>(state()->parameters().count())); });
  }

  Napi::Value get_parameter(const Napi::CallbackInfo& info) {
    return promise(info, [&](const State& model) {
      const Parameter* parameter = &find(model, info[0]);
      return run_job(info.Env(), model->engine->executor,
                     [model, parameter] { return model->parameters().value_to_host(*parameter); });
    });
  }

  Napi::Value set_parameter(const Napi::CallbackInfo& info) {
    return promise(info, [&](const State& model) {
      Parameter* parameter = &find(model, info[0]);
      std::vector<float> values = read_floats(info[1], "values");
      expect_length(values.size(), parameter->value.size(), "values");
      return run_job(info.Env(), model->engine->executor, [model, parameter, values = std::move(values)] {
        model->parameters().upload(*parameter, values.data());
        return Nothing{};
      });
    });
  }

  Napi::Value get_gradient(const Napi::CallbackInfo& info) {
    return promise(info, [&](const State& model) {
      const Parameter* parameter = &find(model, info[0]);
      return run_job(info.Env(), model->engine->executor,
                     [model, parameter] { return model->parameters().grad_to_host(*parameter); });
    });
  }

  Napi::Value load(const Napi::CallbackInfo& info) {
    return promise(info, [&](const State& model) {
      std::vector<std::string> paths = read_strings(info[0], "paths");
      return run_job(info.Env(), model->engine->executor, read_cancel(info[1]),
                     [model, paths = std::move(paths)] {
                       model->core.load(paths);
                       return Nothing{};
                     });
    });
  }

  Napi::Value save(const Napi::CallbackInfo& info) {
    return promise(info, [&](const State& model) {
      const std::string path = read_string(info[0], "path");
      std::map<std::string, std::string> metadata = read_metadata(info[1], "metadata");
      std::optional<io::FileDType> dtype = io::FileDType::F32;
      if (!info[2].IsUndefined()) {
        const std::string text = info[2].IsString() ? info[2].As<Napi::String>().Utf8Value() : "";
        if (text == "F16")
          dtype = io::FileDType::F16;
        else if (text == "BF16")
          dtype = io::FileDType::BF16;
        else if (text == "stored")
          dtype.reset();
        else if (text != "F32")
          expected("dtype", "one of F32, F16, BF16, stored", info[2]);
      }
      return run_job(info.Env(), model->engine->executor, read_cancel(info[3]),
                     [model, path, metadata = std::move(metadata), dtype] {
                       save_model(model->parameters(), path, metadata, dtype);
                       return Nothing{};
                     });
    });
  }

  Napi::Value dispose(const Napi::CallbackInfo& info) {
    release();
    return info.Env().Undefined();
  }

  void release() {
    if (!state_) return;
    state_.reset();
    Napi::MemoryManagement::AdjustExternalMemory(this->Env(), -weight_);
  }

  State state_;
  // Bytes that the garbage collector is told of: it would see no reason to collect a model that was dropped.
  int64_t weight_ = 0;
};

}  // namespace allmrec::binding
