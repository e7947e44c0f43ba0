#include "batches.h"
#include "classes.h"
#include "opt_wrap.h"
#include "trainer_wrap.h"

namespace allmrec::binding {
namespace {

// NativeLlmTrainer.
class LlmTrainerWrap : public TrainerWrap<LlmTrainerWrap, LlmTrainer> {
 public:
  static constexpr const char* kName = "LlmTrainer";

  static Napi::Function define(Napi::Env env) {
    return define_class(env,
                        {method("step", &LlmTrainerWrap::step), method("evaluate", &LlmTrainerWrap::evaluate),
                         method("gradients", &LlmTrainerWrap::gradients)});
  }

  explicit LlmTrainerWrap(const Napi::CallbackInfo& info) : TrainerWrap(info) {
    guarded(info.Env(), [&] {
      const OptWrap::State model = OptWrap::read(info[0], "model");
      config_ = model->core.config();
      const Fields options(info[1], "options");
      const AdamOptions adam = read_adam(options);
      const std::vector<std::string> frozen =
          options.has("frozen") ? read_strings(options.get("frozen"), options.name_of("frozen"))
                                : std::vector<std::string>{};
      create({model}, {},
             [model, adam, frozen] { return std::make_unique<LlmTrainer>(model->core, adam, frozen); });
    });
  }

 private:
  struct Inputs {
    LlmBatch batch;
    std::vector<float> soft;
    TokenTargets targets;
  };

  Inputs read(const Napi::CallbackInfo& info) const {
    Inputs in;
    in.batch = read_llm_batch(info[0], "batch");
    in.soft = read_soft(info[1], "soft", config_);
    in.targets = read_targets(info[2], "targets", static_cast<int64_t>(in.batch.ids.size()));
    return in;
  }

  Napi::Value step(const Napi::CallbackInfo& info) {
    return promise(info, [&](const State& trainer) {
      return run_job(info.Env(), trainer->engine().executor, read_cancel(info[3]),
                     [trainer, in = read(info)] {
                       return trainer->step(
                           [&](LlmTrainer& core) { return core.step(in.batch, in.soft, in.targets).losses; });
                     });
    });
  }

  Napi::Value evaluate(const Napi::CallbackInfo& info) {
    return promise(info, [&](const State& trainer) {
      return run_job(info.Env(), trainer->engine().executor, read_cancel(info[3]),
                     [trainer, in = read(info)] {
                       return trainer->ready().evaluate(in.batch, in.soft, in.targets, false).losses;
                     });
    });
  }

  Napi::Value gradients(const Napi::CallbackInfo& info) {
    return promise(info, [&](const State& trainer) {
      return run_job(
          info.Env(), trainer->engine().executor, std::make_shared<std::atomic<bool>>(false),
          [trainer, in = read(info)] {
            return trainer->gradients(
                [&](LlmTrainer& core) { return core.evaluate(in.batch, in.soft, in.targets, true); });
          },
          [](Napi::Env env, const LlmTrainer::Result& result) {
            Napi::Object object = Napi::Object::New(env);
            object.Set("losses", to_js(env, result.losses));
            object.Set("softGradient", to_js(env, result.soft_gradient));
            return object;
          });
    });
  }

  OptConfig config_;
};

}  // namespace

Napi::Function define_llm_trainer(Napi::Env env) {
  return LlmTrainerWrap::define(env);
}

}  // namespace allmrec::binding
