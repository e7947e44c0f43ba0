#pragma once

#include <napi.h>

#include <atomic>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "../nn/adam.h"
#include "model_wrap.h"

namespace allmrec::binding {

AdamOptions read_adam(const Fields& options);
void save_optimizer(Device& device, const Adam& adam, const std::string& path,
                    std::map<std::string, std::string> metadata);
void load_optimizer(Device& device, Adam& adam, const std::string& path);

// A trainer of the core with the models it teaches and those it holds frozen. All but `steps` belongs to the
// executor's thread, its creation too: moments are cleared with the device's threads, which may be busy with
// another job.
template <typename Core>
struct Trainer {
  std::vector<std::shared_ptr<AnyModel>> learning, frozen;  // outlive `core`
  std::unique_ptr<Core> core;
  std::exception_ptr failure;  // of the creation
  std::atomic<int64_t> steps{0};

  Engine& engine() const { return *learning.front()->engine; }

  // The core trainer; another trainer of the same models may have frozen them or freed them meanwhile.
  Core& ready() {
    if (failure) std::rethrow_exception(failure);
    for (const auto& model : learning) model->parameters().set_trainable(true);
    for (const auto& model : frozen) model->parameters().set_trainable(false);
    return *core;
  }

  // compute(core) adds gradients of a part of the next step.
  template <typename Compute>
  auto accumulate(Compute&& compute) {
    Core& trainer = ready();
    begin_gradients();
    auto result = compute(trainer);
    accumulating = true;
    return result;
  }

  // compute(core) makes optimizer steps.
  template <typename Compute>
  auto step(Compute&& compute) {
    Core& trainer = ready();
    begin_gradients();
    struct CountSteps {
      Trainer& self;
      ~CountSteps() { self.steps = self.core->optimizer().steps(); }
    } count{*this};
    auto result = compute(trainer);
    for (const auto& model : learning) model->gradients_left = false;
    return result;
  }

  // compute(core) leaves gradients behind.
  template <typename Compute>
  auto gradients(Compute&& compute) {
    Core& trainer = ready();
    accumulating = false;
    for (const auto& model : learning) model->start_gradients();
    return compute(trainer);
  }

 private:
  // Gradients that were left behind are cleared, but for those of the parts of this step. Should a part fail,
  // so has the step.
  void begin_gradients() {
    for (const auto& model : learning) {
      if (model->gradients_left && !accumulating) model->parameters().zero_grad();
      model->gradients_left = true;  // until the optimizer has taken them
    }
    accumulating = false;
  }

  bool accumulating = false;  // the gradients are those of the first parts of a step
};

// The methods of NativeTrainer. Derived has kName.
template <typename Derived, typename Core>
class TrainerWrap : public Napi::ObjectWrap<Derived> {
 public:
  using State = std::shared_ptr<Trainer<Core>>;
  using Property = typename Napi::ObjectWrap<Derived>::PropertyDescriptor;

  explicit TrainerWrap(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Derived>(info) {}

 protected:
  static Property method(const char* name, Napi::Value (Derived::*function)(const Napi::CallbackInfo&)) {
    return Napi::ObjectWrap<Derived>::InstanceMethod(name, function);
  }

  static Napi::Function define_class(Napi::Env env, std::vector<Property> own) {
    for (const Property& p : {method("steps", as_derived(&TrainerWrap::steps)),
                              method("setLearningRate", as_derived(&TrainerWrap::set_learning_rate)),
                              method("saveOptimizer", as_derived(&TrainerWrap::save)),
                              method("loadOptimizer", as_derived(&TrainerWrap::load)),
                              method("dispose", as_derived(&TrainerWrap::dispose))})
      own.push_back(p);
    return Napi::ObjectWrap<Derived>::DefineClass(env, Derived::kName, own);
  }

  // For the constructor. make() creates the core trainer on the executor; what it throws rejects every later
  // call.
  template <typename Make>
  void create(std::vector<std::shared_ptr<AnyModel>> learning, std::vector<std::shared_ptr<AnyModel>> frozen,
              Make make) {
    auto trainer = std::make_shared<Trainer<Core>>();
    trainer->learning = std::move(learning);
    trainer->frozen = std::move(frozen);
    for (const auto* models : {&trainer->learning, &trainer->frozen})
      for (const auto& model : *models)
        if (model->engine.get() != &trainer->engine())
          fail("The models of a trainer must be created on one engine.");
    run_detached(trainer->engine().executor, [trainer, make = std::move(make)]() mutable {
      try {
        trainer->core = make();
      } catch (...) {
        trainer->failure = std::current_exception();
      }
    });
    state_ = std::move(trainer);
  }

  const State& state() const {
    if (!state_)
      throw Error(ErrorCode::disposed, std::string("This ") + Derived::kName + " is used after dispose().");
    return state_;
  }

  template <typename Fn>
  Napi::Value promise(const Napi::CallbackInfo& info, Fn&& fn) {
    return as_promise(info.Env(), [&] { return fn(state()); });
  }

 private:
  using Method = Napi::Value (Derived::*)(const Napi::CallbackInfo&);
  static Method as_derived(Napi::Value (TrainerWrap::*function)(const Napi::CallbackInfo&)) {
    return static_cast<Method>(function);
  }

  Napi::Value steps(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] { return to_js(info.Env(), static_cast<double>(state()->steps.load())); });
  }

  // Takes its place in the queue, so that steps asked for before keep the old rate.
  Napi::Value set_learning_rate(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      const State trainer = state();
      const auto rate = static_cast<float>(read_number(info[0], "value", 0, 1e6));
      run_detached(trainer->engine().executor, [trainer, rate] {
        if (trainer->core) trainer->core->optimizer().set_learning_rate(rate);
      });
      return info.Env().Undefined();
    });
  }

  Napi::Value save(const Napi::CallbackInfo& info) {
    return promise(info, [&](const State& trainer) {
      const std::string path = read_string(info[0], "path");
      std::map<std::string, std::string> metadata = read_metadata(info[1], "metadata");
      return run_job(info.Env(), trainer->engine().executor, read_cancel(info[2]),
                     [trainer, path, metadata = std::move(metadata)] {
                       save_optimizer(*trainer->engine().device, trainer->ready().optimizer(), path,
                                      metadata);
                       return Nothing{};
                     });
    });
  }

  Napi::Value load(const Napi::CallbackInfo& info) {
    return promise(info, [&](const State& trainer) {
      const std::string path = read_string(info[0], "path");
      return run_job(info.Env(), trainer->engine().executor, read_cancel(info[1]), [trainer, path] {
        load_optimizer(*trainer->engine().device, trainer->ready().optimizer(), path);
        trainer->steps = trainer->core->optimizer().steps();
        return Nothing{};
      });
    });
  }

  Napi::Value dispose(const Napi::CallbackInfo& info) {
    state_.reset();
    return info.Env().Undefined();
  }

  State state_;
};

}  // namespace allmrec::binding
