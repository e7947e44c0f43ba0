#include "alignment_wrap.h"
#include "batches.h"
#include "classes.h"
#include "sentence_encoder_wrap.h"
#include "trainer_wrap.h"

namespace allmrec::binding {
namespace {

// NativeAlignmentTrainer.
class AlignmentTrainerWrap : public TrainerWrap<AlignmentTrainerWrap, AlignmentTrainer> {
 public:
  static constexpr const char* kName = "AlignmentTrainer";

  static Napi::Function define(Napi::Env env) {
    return define_class(env, {method("step", &AlignmentTrainerWrap::step),
                              method("evaluate", &AlignmentTrainerWrap::evaluate),
                              method("gradients", &AlignmentTrainerWrap::gradients)});
  }

  explicit AlignmentTrainerWrap(const Napi::CallbackInfo& info) : TrainerWrap(info) {
    guarded(info.Env(), [&] {
      const AlignmentWrap::State alignment = AlignmentWrap::read(info[0], "alignment");
      config_ = alignment->core.config();
      SentenceEncoderWrap::State encoder;
      if (!info[1].IsNull()) {
        encoder = SentenceEncoderWrap::read(info[1], "encoder");
        if (encoder->core.config().hidden_size != config_.text_size)
          fail("Expected the encoder's hiddenSize (" + std::to_string(encoder->core.config().hidden_size) +
               ") to be the alignment's textSize (" + std::to_string(config_.text_size) + ").");
      }
      with_encoder_ = encoder != nullptr;
      const Fields options(info[2], "options");
      const AdamOptions adam = read_adam(options);
      const bool train_encoder = options.boolean("trainEncoder");
      const uint64_t seed = options.seed("seed");
      std::vector<std::shared_ptr<AnyModel>> learning{alignment}, frozen;
      if (encoder) (train_encoder ? learning : frozen).push_back(encoder);
      create(std::move(learning), std::move(frozen), [alignment, encoder, train_encoder, adam, seed] {
        return std::make_unique<AlignmentTrainer>(alignment->core, encoder ? &encoder->core : nullptr,
                                                  train_encoder, adam, seed);
      });
    });
  }

 private:
  AlignmentBatch read_batch(Napi::Value value) const {
    const Fields fields(value, "batch");
    AlignmentBatch batch;
    batch.users = fields.floats("users");
    const int64_t rows = expect_rows(batch.users.size(), config_.item_size, "batch.users");
    if (rows == 0) fail("Expected `batch.users` to hold at least one row.");
    auto matrix = [&](const char* field, int64_t cols) {
      std::vector<float> values = fields.floats(field);
      expect_length(values.size(), rows * cols, fields.name_of(field));
      return values;
    };
    auto tokens = [&](const char* field) {
      Ragged ragged = fields.ragged(field);
      expect_length(ragged.offsets.size(), rows + 1, fields.name_of(field) + ".offsets");
      return to_token_batch(std::move(ragged));
    };
    batch.positive_items = matrix("positiveItems", config_.item_size);
    batch.negative_items = matrix("negativeItems", config_.item_size);
    // The negative's text takes part in the authors' losses only.
    if (with_encoder_) {
      batch.positive_tokens = tokens("positiveTokens");
      if (config_.reference_compat) batch.negative_tokens = tokens("negativeTokens");
    } else {
      batch.positive_texts = matrix("positiveTexts", config_.text_size);
      if (config_.reference_compat) batch.negative_texts = matrix("negativeTexts", config_.text_size);
    }
    return batch;
  }

  Napi::Value step(const Napi::CallbackInfo& info) {
    return promise(info, [&](const State& trainer) {
      return run_job(info.Env(), trainer->engine().executor, read_cancel(info[1]),
                     [trainer, batch = read_batch(info[0])] {
                       return trainer->step([&](AlignmentTrainer& core) { return core.step(batch); });
                     });
    });
  }

  Napi::Value evaluate(const Napi::CallbackInfo& info) {
    return promise(info, [&](const State& trainer) {
      return run_job(
          info.Env(), trainer->engine().executor, read_cancel(info[1]),
          [trainer, batch = read_batch(info[0])] { return trainer->ready().evaluate(batch, false); });
    });
  }

  Napi::Value gradients(const Napi::CallbackInfo& info) {
    return promise(info, [&](const State& trainer) {
      return run_job(
          info.Env(), trainer->engine().executor, read_cancel(info[1]),
          [trainer, batch = read_batch(info[0])] {
            return trainer->gradients([&](AlignmentTrainer& core) { return core.evaluate(batch, true); });
          });
    });
  }

  AlignmentConfig config_;
  bool with_encoder_ = false;
};

}  // namespace

Napi::Function define_alignment_trainer(Napi::Env env) {
  return AlignmentTrainerWrap::define(env);
}

}  // namespace allmrec::binding
