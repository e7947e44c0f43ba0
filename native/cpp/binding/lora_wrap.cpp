#include "lora_wrap.h"

#include "classes.h"
#include "opt_wrap.h"

namespace allmrec::binding {

Napi::Function define_lora(Napi::Env env) {
  return LoraWrap::define(env);
}

Napi::Function LoraWrap::define(Napi::Env env) {
  return define_class(
      env, {method("initialise", &LoraWrap::initialise), method("mergeInto", &LoraWrap::merge_into)});
}

LoraWrap::LoraWrap(const Napi::CallbackInfo& info) : ModelWrap(info) {
  create(info, [](const Fields& config) {
    LoraConfig c;
    c.rank = config.size("rank");
    c.alpha = static_cast<float>(config.number("alpha", 0, 1e6));
    c.dropout = static_cast<float>(config.number("dropout", 0, 0.999));
    c.hidden_size = config.size("hiddenSize");
    c.num_layers = config.size("numLayers", 0, 1024);
    return c;
  });
}

std::shared_ptr<Lora> LoraWrap::read_optional(Napi::Value value, const std::string& name) {
  if (value.IsUndefined() || value.IsNull()) return nullptr;
  return core_of(read(value, name));
}

Napi::Value LoraWrap::initialise(const Napi::CallbackInfo& info) {
  return promise(info, [&](const State& model) {
    const auto seed = static_cast<uint64_t>(read_integer(info[0], "seed", 0, kSafeInteger));
    return run_job(info.Env(), model->engine->executor, read_cancel(info[1]), [model, seed] {
      model->core.initialise(seed);
      return Nothing{};
    });
  });
}

Napi::Value LoraWrap::merge_into(const Napi::CallbackInfo& info) {
  return promise(info, [&](const State& model) {
    const OptWrap::State llm = OptWrap::read(info[0], "llm");
    if (llm->engine != model->engine)
      fail("The adapter and its language model must be created on one engine.");
    return run_job(info.Env(), model->engine->executor, read_cancel(info[1]), [model, llm] {
      model->core.merge_into(llm->core);
      return Nothing{};
    });
  });
}

}  // namespace allmrec::binding
