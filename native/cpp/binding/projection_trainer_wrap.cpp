#include "batches.h"
#include "classes.h"
#include "opt_wrap.h"
#include "projector_wrap.h"
#include "trainer_wrap.h"

namespace allmrec::binding {
namespace {

// NativeProjectionTrainer.
class ProjectionTrainerWrap : public TrainerWrap<ProjectionTrainerWrap, ProjectionTrainer> {
 public:
  static constexpr const char* kName = "ProjectionTrainer";

  static Napi::Function define(Napi::Env env) {
    return define_class(env, {method("step", &ProjectionTrainerWrap::step),
                              method("accumulate", &ProjectionTrainerWrap::accumulate),
                              method("evaluate", &ProjectionTrainerWrap::evaluate),
                              method("gradients", &ProjectionTrainerWrap::gradients)});
  }

  explicit ProjectionTrainerWrap(const Napi::CallbackInfo& info) : TrainerWrap(info) {
    guarded(info.Env(), [&] {
      const ProjectorWrap::State projector = ProjectorWrap::read(info[0], "projector");
      const OptWrap::State llm = OptWrap::read(info[1], "llm");
      config_ = projector->core.config();
      if (config_.token_size != llm->core.config().embed_size)
        fail("Expected the projector's tokenSize (" + std::to_string(config_.token_size) +
             ") to be the language model's embedSize (" + std::to_string(llm->core.config().embed_size) +
             ").");
      const Fields options(info[2], "options");
      const AdamOptions adam = read_adam(options);
      const uint64_t seed = options.seed("seed");
      create({projector}, {llm}, [projector, llm, adam, seed] {
        return std::make_unique<ProjectionTrainer>(projector->core, llm->core, adam, seed);
      });
    });
  }

 private:
  struct Inputs {
    LlmBatch batch;
    SoftInputs soft;
    TokenTargets targets;
    int64_t total_targets = 0;
  };

  Inputs read(const Napi::CallbackInfo& info) const {
    Inputs in;
    in.batch = read_llm_batch(info[0], "batch");
    const Fields soft(info[1], "soft");
    in.soft.users = soft.floats("users");
    expect_rows(in.soft.users.size(), config_.user_size, "soft.users");
    in.soft.items = soft.floats("items");
    expect_rows(in.soft.items.size(), config_.joint_size, "soft.items");
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
                       return trainer->step([&](ProjectionTrainer& core) {
                         return core.step(in.batch, in.soft, in.targets, in.total_targets);
                       });
                     });
    });
  }

  Napi::Value accumulate(const Napi::CallbackInfo& info) {
    return promise(info, [&](const State& trainer) {
      return run_job(info.Env(), trainer->engine().executor, read_cancel(info[4]),
                     [trainer, in = read_part(info)] {
                       return trainer->accumulate([&](ProjectionTrainer& core) {
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
                [&](ProjectionTrainer& core) { return core.evaluate(in.batch, in.soft, in.targets, true); });
          });
    });
  }

  ProjectorConfig config_;
};

}  // namespace

Napi::Function define_projection_trainer(Napi::Env env) {
  return ProjectionTrainerWrap::define(env);
}

}  // namespace allmrec::binding
