#include "recformer_wrap.h"

#include "batches.h"
#include "classes.h"
#include "sentence_encoder_wrap.h"

namespace allmrec::binding {

RecFormerBatch read_recformer_batch(Napi::Value value, const std::string& name) {
  const Fields fields(value, name);
  return {to_token_batch(fields.ragged("texts")), fields.ints("types"), fields.ints("items")};
}

Napi::Function define_recformer(Napi::Env env) {
  return RecFormerWrap::define(env);
}

Napi::Function RecFormerWrap::define(Napi::Env env) {
  return define_class(env, {method("initialise", &RecFormerWrap::initialise),
                            method("hiddenStates", &RecFormerWrap::hidden_states),
                            method("vectors", &RecFormerWrap::vectors)});
}

RecFormerWrap::RecFormerWrap(const Napi::CallbackInfo& info) : ModelWrap(info) {
  create(info, [](const Fields& config) {
    RecFormerConfig c;
    c.encoder = read_encoder_config(config);
    c.window = config.size("window", 2, 1 << 20);
    c.max_items = config.size("maxItems", 1, 1 << 20);
    return c;
  });
}

Napi::Value RecFormerWrap::initialise(const Napi::CallbackInfo& info) {
  return promise(info, [&](const State& model) {
    const auto seed = static_cast<uint64_t>(read_integer(info[0], "seed", 0, kSafeInteger));
    const auto std = static_cast<float>(read_number(info[1], "std", 0, 1e6));
    return run_job(info.Env(), model->engine->executor, read_cancel(info[2]), [model, seed, std] {
      model->core.initialise(seed, std);
      return Nothing{};
    });
  });
}

Napi::Value RecFormerWrap::hidden_states(const Napi::CallbackInfo& info) {
  return promise(info, [&](const State& model) {
    return run_job(info.Env(), model->engine->executor, read_cancel(info[1]),
                   [model, batch = read_recformer_batch(info[0], "batch")] {
                     Arena arena(model->engine->device);
                     Tape tape(*model->engine->device, arena, false);
                     return to_host(tape,
                                    ops::cast(tape, model->core.hidden_states(tape, batch), ALLMREC_F32));
                   });
  });
}

Napi::Value RecFormerWrap::vectors(const Napi::CallbackInfo& info) {
  return promise(info, [&](const State& model) {
    return run_job(info.Env(), model->engine->executor, read_cancel(info[1]),
                   [model, batch = read_recformer_batch(info[0], "batch")] {
                     Arena arena(model->engine->device);
                     Tape tape(*model->engine->device, arena, false);
                     return to_host(tape, model->core.vectors(tape, batch));
                   });
  });
}

}  // namespace allmrec::binding
