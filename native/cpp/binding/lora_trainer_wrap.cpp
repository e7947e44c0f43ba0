#include "batches.h"
#include "classes.h"
#include "lora_wrap.h"
#include "opt_wrap.h"
#include "trainer_wrap.h"

namespace allmrec::binding {
namespace {

// NativeLoraTrainer.
class LoraTrainerWrap : public TrainerWrap<LoraTrainerWrap, LoraTrainer> {
 public:
  static constexpr const char* kName = "LoraTrainer";

  static Napi::Function define(Napi::Env env) {
    return define_class(
        env,
        {method("step", &LoraTrainerWrap::step), method("accumulate", &LoraTrainerWrap::accumulate),
         method("evaluate", &LoraTrainerWrap::evaluate), method("gradients", &LoraTrainerWrap::gradients)});
  }

  explicit LoraTrainerWrap(const Napi::CallbackInfo& info) : TrainerWrap(info) {
    guarded(info.Env(), [&] {
      const LoraWrap::State lora = LoraWrap::read(info[0], "lora");
      const OptWrap::State llm = OptWrap::read(info[1], "llm");
      config_ = llm->core.config();
      lora->core.expect_fits(config_);
      const Fields options(info[2], "options");
      const AdamOptions adam = read_adam(options);
      const uint64_t seed = options.seed("seed");
      create({lora}, {llm}, [lora, llm, adam, seed] {
        return std::make_unique<LoraTrainer>(LoraWrap::core_of(lora), llm->core, adam, seed);
      });
    });
  }

 private:
  struct Inputs {
    LlmBatch batch;
    std::vector<float> soft;
    TokenTargets targets;
    int64_t total_targets = 0;
  };

  Inputs read(const Napi::CallbackInfo& info) const {
    Inputs in;
    in.batch = read_llm_batch(info[0], "batch");
    in.soft = read_soft(info[1], "soft", config_);
    in.targets = read_targets(info[2], "targets", static_cast<int64_t>(in.batch.ids.size()));
    return in;
  }

  // A part of a step: with the step's number of target tokens.
  Inputs read_part(const Napi::CallbackInfo& info) const {
    Inputs in = read(info);
    const auto own = static_cast<int64_t>(in.targets.rows.size());
    in.total_targets =
        info[3].IsUndefined() ? own : read_integer(info[3], "totalTargets", own, int64_t{1} << 31);
    return in;
  }

  Napi::Value step(const Napi::CallbackInfo& info) {
    return promise(info, [&](const State& trainer) {
      return run_job(info.Env(), trainer->engine().executor, read_cancel(info[4]),
                     [trainer, in = read_part(info)] {
                       return trainer->step([&](LoraTrainer& core) {
                         return core.step(in.batch, in.soft, in.targets, in.total_targets);
                       });
                     });
    });
  }

  Napi::Value accumulate(const Napi::CallbackInfo& info) {
    return promise(info, [&](const State& trainer) {
      return run_job(info.Env(), trainer->engine().executor, read_cancel(info[4]),
                     [trainer, in = read_part(info)] {
                       return trainer->accumulate([&](LoraTrainer& core) {
                         return core.accumulate(in.batch, in.soft, in.targets, in.total_targets);
                       });
                     });
    });
  }

  Napi::Value evaluate(const Napi::CallbackInfo& info) {
    return promise(info, [&](const State& trainer) {
      return run_job(info.Env(), trainer->engine().executor, read_cancel(info[3]),
                     [trainer, in = read(info)] {
                       return trainer->ready().evaluate(in.batch, in.soft, in.targets, false);
                     });
    });
  }

  Napi::Value gradients(const Napi::CallbackInfo& info) {
    return promise(info, [&](const State& trainer) {
      return run_job(
          info.Env(), trainer->engine().executor, read_cancel(info[3]), [trainer, in = read(info)] {
            return trainer->gradients(
                [&](LoraTrainer& core) { return core.evaluate(in.batch, in.soft, in.targets, true); });
          });
    });
  }

  OptConfig config_;
};

}  // namespace

Napi::Function define_lora_trainer(Napi::Env env) {
  return LoraTrainerWrap::define(env);
}

}  // namespace allmrec::binding
