#include "batches.h"
#include "classes.h"
#include "recformer_wrap.h"
#include "trainer_wrap.h"

namespace allmrec::binding {
namespace {

// NativeRecFormerTrainer.
class RecFormerTrainerWrap : public TrainerWrap<RecFormerTrainerWrap, RecFormerTrainer> {
 public:
  static constexpr const char* kName = "RecFormerTrainer";

  static Napi::Function define(Napi::Env env) {
    return define_class(env, {method("setItems", &RecFormerTrainerWrap::set_items),
                              method("step", &RecFormerTrainerWrap::step),
                              method("contrast", &RecFormerTrainerWrap::contrast),
                              method("evaluate", &RecFormerTrainerWrap::evaluate),
                              method("gradients", &RecFormerTrainerWrap::gradients)});
  }

  explicit RecFormerTrainerWrap(const Napi::CallbackInfo& info) : TrainerWrap(info) {
    guarded(info.Env(), [&] {
      const RecFormerWrap::State model = RecFormerWrap::read(info[0], "model");
      const Fields options(info[1], "options");
      const AdamOptions adam = read_adam(options);
      const float temperature = options.number("temperature", 1e-4, 1e4);
      const uint64_t seed = options.seed("seed");
      size_ = model->core.size();
      create({model}, {}, [model, adam, temperature, seed] {
        return std::make_unique<RecFormerTrainer>(model->core, adam, temperature, seed);
      });
    });
  }

 private:
  struct Inputs {
    RecFormerBatch batch;
    std::vector<int32_t> targets;
  };
  static Inputs read(const Napi::CallbackInfo& info) {
    return {read_recformer_batch(info[0], "batch"), read_ints(info[1], "targets")};
  }

  Napi::Value set_items(const Napi::CallbackInfo& info) {
    return promise(info, [&](const State& trainer) {
      std::vector<float> vectors = read_floats(info[0], "vectors");
      expect_rows(vectors.size(), size_, "vectors");
      return run_job(info.Env(), trainer->engine().executor,
                     [trainer, vectors = std::move(vectors)]() mutable {
                       trainer->ready().set_items(std::move(vectors));
                       return Nothing{};
                     });
    });
  }

  Napi::Value step(const Napi::CallbackInfo& info) {
    return promise(info, [&](const State& trainer) {
      return run_job(
          info.Env(), trainer->engine().executor, read_cancel(info[2]), [trainer, in = read(info)] {
            return trainer->step([&](RecFormerTrainer& core) { return core.step(in.batch, in.targets); });
          });
    });
  }

  Napi::Value contrast(const Napi::CallbackInfo& info) {
    return promise(info, [&](const State& trainer) {
      return run_job(
          info.Env(), trainer->engine().executor, read_cancel(info[2]), [trainer, in = read(info)] {
            return trainer->step([&](RecFormerTrainer& core) { return core.contrast(in.batch, in.targets); });
          });
    });
  }

  Napi::Value evaluate(const Napi::CallbackInfo& info) {
    return promise(info, [&](const State& trainer) {
      return run_job(info.Env(), trainer->engine().executor, read_cancel(info[2]),
                     [trainer, in = read(info)] { return trainer->ready().evaluate(in.batch, in.targets); });
    });
  }

  Napi::Value gradients(const Napi::CallbackInfo& info) {
    return promise(info, [&](const State& trainer) {
      return run_job(info.Env(), trainer->engine().executor, read_cancel(info[2]),
                     [trainer, in = read(info)] {
                       return trainer->gradients(
                           [&](RecFormerTrainer& core) { return core.gradients(in.batch, in.targets); });
                     });
    });
  }

  int64_t size_ = 0;
};

}  // namespace

Napi::Function define_recformer_trainer(Napi::Env env) {
  return RecFormerTrainerWrap::define(env);
}

}  // namespace allmrec::binding
