#include "../models/sas_rec_trainer.h"

#include "batches.h"
#include "classes.h"
#include "sas_rec_wrap.h"
#include "trainer_wrap.h"

namespace allmrec::binding {
namespace {

// NativeSasRecTrainer.
class SasRecTrainerWrap : public TrainerWrap<SasRecTrainerWrap, SasRecTrainer> {
 public:
  static constexpr const char* kName = "SasRecTrainer";

  static Napi::Function define(Napi::Env env) {
    return define_class(env,
                        {method("stepsPerEpoch", &SasRecTrainerWrap::steps_per_epoch),
                         method("sequencesPerEpoch", &SasRecTrainerWrap::sequences_per_epoch),
                         method("run", &SasRecTrainerWrap::run), method("step", &SasRecTrainerWrap::step),
                         method("gradients", &SasRecTrainerWrap::gradients)});
  }

  explicit SasRecTrainerWrap(const Napi::CallbackInfo& info) : TrainerWrap(info) {
    guarded(info.Env(), [&] {
      const SasRecWrap::State model = SasRecWrap::read(info[0], "model");
      config_ = model->core.config();
      if (config_.variant != SasRecVariant::reference)
        throw Error(ErrorCode::unsupported,
                    "This SASRec layout can be used but not trained; train the reference's.");
      Sequences train = read_sequences(info[1], "train", config_.num_items);
      Sequences known = read_sequences(info[2], "known", config_.num_items);
      expect_length(known.offsets.size(), train.users() + 1, "known.offsets");
      const Fields options(info[3], "options");
      SasRecTrainOptions o;
      o.batch_size = options.size("batchSize");
      o.loss = options.choice<SequenceLoss>("loss",
                                            {{"bce", SequenceLoss::bce}, {"softmax", SequenceLoss::softmax}});
      o.l2_embedding = options.number("l2Embedding", 0, 1e6);
      o.seed = options.seed("seed");
      o.adam = read_adam(options);
      loss_ = o.loss;
      const auto users = SasRecTrainer::users_to_train(train, known, config_.num_items, o.loss);
      sequences_ = static_cast<double>(users.size());
      steps_per_epoch_ =
          static_cast<double>((static_cast<int64_t>(users.size()) + o.batch_size - 1) / o.batch_size);
      create({model}, {}, [model, train = std::move(train), known = std::move(known), o]() mutable {
        known.sort();  // here, and not in the event loop
        return std::make_unique<SasRecTrainer>(model->core, std::move(train), std::move(known), o);
      });
    });
  }

 private:
  struct Batch {
    SequenceBatch histories;
    std::vector<int32_t> positives, negatives;
  };

  Batch read_batch(const Napi::CallbackInfo& info) const {
    Batch batch;
    batch.histories = read_sequence_batch(info[0], "histories", config_);
    const auto tokens = static_cast<int64_t>(batch.histories.items.size());
    batch.positives = read_ints(info[1], "positives");
    expect_length(batch.positives.size(), tokens, "positives");
    expect_range(batch.positives, "positives", 1, config_.num_items, ErrorCode::unknown_item);
    batch.negatives = read_ints(info[2], "negatives");
    if (loss_ == SequenceLoss::bce || !batch.negatives.empty())
      expect_length(batch.negatives.size(), tokens, "negatives");
    expect_range(batch.negatives, "negatives", 1, config_.num_items, ErrorCode::unknown_item);
    return batch;
  }

  Napi::Value steps_per_epoch(const Napi::CallbackInfo& info) { return to_js(info.Env(), steps_per_epoch_); }
  Napi::Value sequences_per_epoch(const Napi::CallbackInfo& info) { return to_js(info.Env(), sequences_); }

  Napi::Value run(const Napi::CallbackInfo& info) {
    return promise(info, [&](const State& trainer) {
      const int64_t steps = read_integer(info[0], "steps", 0, kSafeInteger);
      return run_job(info.Env(), trainer->engine().executor, read_cancel(info[1]), [trainer, steps] {
        return trainer->step([&](SasRecTrainer& core) { return core.run(steps); });
      });
    });
  }

  Napi::Value step(const Napi::CallbackInfo& info) {
    return promise(info, [&](const State& trainer) {
      return run_job(info.Env(), trainer->engine().executor, read_cancel(info[3]),
                     [trainer, batch = read_batch(info)] {
                       return trainer->step([&](SasRecTrainer& core) {
                         return core.step(batch.histories, batch.positives, batch.negatives);
                       });
                     });
    });
  }

  Napi::Value gradients(const Napi::CallbackInfo& info) {
    return promise(info, [&](const State& trainer) {
      return run_job(info.Env(), trainer->engine().executor, [trainer, batch = read_batch(info)] {
        return trainer->gradients([&](SasRecTrainer& core) {
          return core.gradients(batch.histories, batch.positives, batch.negatives);
        });
      });
    });
  }

  SasRecConfig config_;
  SequenceLoss loss_ = SequenceLoss::bce;
  double sequences_ = 0, steps_per_epoch_ = 0;
};

}  // namespace

Napi::Function define_sas_rec_trainer(Napi::Env env) {
  return SasRecTrainerWrap::define(env);
}

}  // namespace allmrec::binding
