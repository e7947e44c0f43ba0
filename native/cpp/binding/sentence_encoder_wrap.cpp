#include "sentence_encoder_wrap.h"

#include "batches.h"
#include "classes.h"

namespace allmrec::binding {

Napi::Function define_sentence_encoder(Napi::Env env) {
  return SentenceEncoderWrap::define(env);
}

Napi::Function SentenceEncoderWrap::define(Napi::Env env) {
  return define_class(env, {method("initialise", &SentenceEncoderWrap::initialise),
                            method("hiddenStates", &SentenceEncoderWrap::hidden_states),
                            method("encode", &SentenceEncoderWrap::encode),
                            method("pooledGradients", &SentenceEncoderWrap::pooled_gradients)});
}

EncoderConfig read_encoder_config(const Fields& config) {
  EncoderConfig c;
  c.kind = config.choice<EncoderKind>("kind",
                                      {{"distilbert", EncoderKind::distilbert}, {"bert", EncoderKind::bert}});
  c.vocab_size = config.integer("vocabSize", 1);
  c.hidden_size = config.size("hiddenSize");
  c.num_layers = config.size("numLayers", 0, 1024);
  c.num_heads = config.size("numHeads");
  c.intermediate_size = config.size("intermediateSize");
  c.max_positions = config.size("maxPositions");
  c.type_vocab_size = config.size("typeVocabSize", c.kind == EncoderKind::bert ? 1 : 0);
  c.layer_norm_eps = config.number("layerNormEps", 0, 1);
  c.activation = read_activation(config);
  c.dropout_rate = config.number("dropoutRate", 0, 1);
  c.activation_dtype = read_dtype(config, "activationDtype", false);
  c.weight_dtype = read_dtype(config, "weightDtype", false);
  return c;
}

SentenceEncoderWrap::SentenceEncoderWrap(const Napi::CallbackInfo& info) : ModelWrap(info) {
  create(info, read_encoder_config);
}

Napi::Value SentenceEncoderWrap::initialise(const Napi::CallbackInfo& info) {
  return promise(info, [&](const State& model) {
    const auto seed = static_cast<uint64_t>(read_integer(info[0], "seed", 0, kSafeInteger));
    const auto std = static_cast<float>(read_number(info[1], "std", 0, 1e6));
    return run_job(info.Env(), model->engine->executor, read_cancel(info[2]), [model, seed, std] {
      model->core.initialise(seed, std);
      return Nothing{};
    });
  });
}

Napi::Value SentenceEncoderWrap::hidden_states(const Napi::CallbackInfo& info) {
  return promise(info, [&](const State& model) {
    TokenBatch texts = to_token_batch(read_ragged(info[0], "texts"));
    return run_job(
        info.Env(), model->engine->executor, read_cancel(info[1]), [model, texts = std::move(texts)] {
          Arena arena(model->engine->device);
          Tape tape(*model->engine->device, arena, false);
          return to_host(tape, ops::cast(tape, model->core.hidden_states(tape, texts), ALLMREC_F32));
        });
  });
}

Napi::Value SentenceEncoderWrap::encode(const Napi::CallbackInfo& info) {
  return promise(info, [&](const State& model) {
    TokenBatch texts = to_token_batch(read_ragged(info[0], "texts"));
    const int64_t tokens = read_integer(info[1], "tokensPerBatch", 1, kInt32Max);
    return run_job(info.Env(), model->engine->executor, read_cancel(info[2]),
                   [model, texts = std::move(texts), tokens] { return model->core.encode(texts, tokens); });
  });
}

Napi::Value SentenceEncoderWrap::pooled_gradients(const Napi::CallbackInfo& info) {
  return promise(info, [&](const State& model) {
    TokenBatch texts = to_token_batch(read_ragged(info[0], "texts"));
    std::vector<float> w = read_floats(info[1], "w");
    expect_length(w.size(), texts.size() * model->core.config().hidden_size, "w");
    const auto half = static_cast<float>(read_number(info[2], "half", -1e6, 1e6));
    return run_job(info.Env(), model->engine->executor,
                   [model, texts = std::move(texts), w = std::move(w), half] {
                     model->start_gradients();
                     Arena arena(model->engine->device);
                     Tape tape(*model->engine->device, arena, true);
                     const Tensor pooled = model->core.pooled(tape, texts);
                     ops::weighted_sum_loss(tape, "weightedSum", pooled,
                                            tape.from_host(w.data(), pooled.rows, pooled.cols), 1.0f);
                     // A mean of squares; times half the number of elements it is half their sum.
                     ops::mse_loss(tape, "meanSquare", pooled, tape.zeros(pooled.rows, pooled.cols),
                                   half * 0.5f * static_cast<float>(pooled.size()));
                     tape.backward();
                     return tape.read_losses();
                   });
  });
}

}  // namespace allmrec::binding
