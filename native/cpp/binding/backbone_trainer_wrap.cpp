#include "../models/backbone_trainer.h"

#include "backbone_wrap.h"
#include "batches.h"
#include "classes.h"
#include "trainer_wrap.h"

namespace allmrec::binding {
namespace {

// NativeBackboneTrainer.
class BackboneTrainerWrap : public TrainerWrap<BackboneTrainerWrap, BackboneTrainer> {
 public:
  static constexpr const char* kName = "BackboneTrainer";

  static Napi::Function define(Napi::Env env) {
    return define_class(env,
                        {method("stepsPerEpoch", &BackboneTrainerWrap::steps_per_epoch),
                         method("examplesPerEpoch", &BackboneTrainerWrap::examples_per_epoch),
                         method("run", &BackboneTrainerWrap::run), method("step", &BackboneTrainerWrap::step),
                         method("gradients", &BackboneTrainerWrap::gradients)});
  }

  explicit BackboneTrainerWrap(const Napi::CallbackInfo& info) : TrainerWrap(info) {
    guarded(info.Env(), [&] {
      const BackboneWrap::State model = BackboneWrap::read(info[0], "model");
      model_ = model;
      const Backbone& backbone = *model->core;
      Sequences train = read_sequences(info[1], "train", backbone.num_items());
      Sequences known = read_sequences(info[2], "known", backbone.num_items());
      expect_length(known.offsets.size(), train.users() + 1, "known.offsets");
      if (backbone.num_users() > 0)
        expect_length(train.offsets.size(), backbone.num_users() + 1, "train.offsets");
      const Fields options(info[3], "options");
      BackboneTrainOptions o;
      o.batch_size = options.size("batchSize");
      o.l2_embedding = options.number_or("l2Embedding", 0.0f, 0, 1e6);
      o.seed = options.seed("seed");
      o.adam = read_adam(options);
      o.model = read_named_options(info[3], "options");
      sampling_ = backbone.negatives(o.model);
      examples_ = static_cast<int64_t>(BackboneTrainer::examples_of(backbone, o.model, train, known).size());
      steps_per_epoch_ = (examples_ + o.batch_size - 1) / o.batch_size;
      create({model}, {}, [model, train = std::move(train), known = std::move(known), o]() mutable {
        known.sort();  // here, and not in the event loop
        return std::make_unique<BackboneTrainer>(*model->core, std::move(train), std::move(known), o);
      });
    });
  }

 private:
  // histories or users, positives, negatives; of a trainer that is not disposed of.
  Examples read_examples(const Napi::CallbackInfo& info) const {
    const BackboneWrap::State model = model_.lock();
    const Backbone& backbone = *model->core;
    Examples examples;
    int64_t positives = 0;
    if (backbone.examples() == ExampleKind::sequences) {
      examples.histories = read_sequence_batch(info[0], "histories", backbone);
      positives = static_cast<int64_t>(examples.histories.items.size());
    } else {
      examples.users = read_ints(info[0], "users");
      expect_range(examples.users, "users", 0, backbone.num_users() - 1);
      positives = static_cast<int64_t>(examples.users.size());
    }
    examples.positives = read_ints(info[1], "positives");
    expect_length(examples.positives.size(), positives, "positives");
    expect_range(examples.positives, "positives", 1, backbone.num_items(), ErrorCode::unknown_item);
    const int64_t negatives = positives * sampling_.per_positive + sampling_.shared;
    examples.negatives = read_ints(info[2], "negatives");
    if (negatives > 0) expect_length(examples.negatives.size(), negatives, "negatives");
    expect_range(examples.negatives, "negatives", 1, backbone.num_items(), ErrorCode::unknown_item);
    return examples;
  }

  Napi::Value steps_per_epoch(const Napi::CallbackInfo& info) {
    return to_js(info.Env(), static_cast<double>(steps_per_epoch_));
  }
  Napi::Value examples_per_epoch(const Napi::CallbackInfo& info) {
    return to_js(info.Env(), static_cast<double>(examples_));
  }

  Napi::Value run(const Napi::CallbackInfo& info) {
    return promise(info, [&](const State& trainer) {
      const int64_t steps = read_integer(info[0], "steps", 0, kSafeInteger);
      return run_job(info.Env(), trainer->engine().executor, read_cancel(info[1]), [trainer, steps] {
        return trainer->step([&](BackboneTrainer& core) { return core.run(steps); });
      });
    });
  }

  Napi::Value step(const Napi::CallbackInfo& info) {
    return promise(info, [&](const State& trainer) {
      return run_job(info.Env(), trainer->engine().executor, read_cancel(info[3]),
                     [trainer, examples = read_examples(info)] {
                       return trainer->step([&](BackboneTrainer& core) { return core.step(examples); });
                     });
    });
  }

  Napi::Value gradients(const Napi::CallbackInfo& info) {
    return promise(info, [&](const State& trainer) {
      return run_job(info.Env(), trainer->engine().executor, [trainer, examples = read_examples(info)] {
        return trainer->gradients([&](BackboneTrainer& core) { return core.gradients(examples); });
      });
    });
  }

  BackboneWrap::State::weak_type model_;  // the trainer's, so that dispose() frees it
  NegativeSampling sampling_;
  int64_t examples_ = 0, steps_per_epoch_ = 0;
};

}  // namespace

Napi::Function define_backbone_trainer(Napi::Env env) {
  return BackboneTrainerWrap::define(env);
}

}  // namespace allmrec::binding
