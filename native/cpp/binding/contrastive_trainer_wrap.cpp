#include "../models/contrastive_trainer.h"

#include "batches.h"
#include "classes.h"
#include "sentence_encoder_wrap.h"
#include "trainer_wrap.h"

namespace allmrec::binding {
namespace {

// NativeContrastiveTrainer.
class ContrastiveTrainerWrap : public TrainerWrap<ContrastiveTrainerWrap, ContrastiveTrainer> {
 public:
  static constexpr const char* kName = "ContrastiveTrainer";

  static Napi::Function define(Napi::Env env) {
    return define_class(env, {method("step", &ContrastiveTrainerWrap::step)});
  }

  explicit ContrastiveTrainerWrap(const Napi::CallbackInfo& info) : TrainerWrap(info) {
    guarded(info.Env(), [&] {
      const SentenceEncoderWrap::State encoder = SentenceEncoderWrap::read(info[0], "encoder");
      const Fields options(info[1], "options");
      const AdamOptions adam = read_adam(options);
      const float temperature = options.number("temperature", 1e-4, 1e4);
      const uint64_t seed = options.seed("seed");
      create({encoder}, {}, [encoder, adam, temperature, seed] {
        return std::make_unique<ContrastiveTrainer>(encoder->core, adam, temperature, seed);
      });
    });
  }

 private:
  Napi::Value step(const Napi::CallbackInfo& info) {
    return promise(info, [&](const State& trainer) {
      TokenBatch texts = to_token_batch(read_ragged(info[0], "texts"));
      return run_job(info.Env(), trainer->engine().executor, read_cancel(info[1]),
                     [trainer, texts = std::move(texts)] {
                       return trainer->step([&](ContrastiveTrainer& core) { return core.step(texts); });
                     });
    });
  }
};

}  // namespace

Napi::Function define_contrastive_trainer(Napi::Env env) {
  return ContrastiveTrainerWrap::define(env);
}

}  // namespace allmrec::binding
