#include "opt_wrap.h"

#include <algorithm>
#include <chrono>

#include "../models/candidate_scoring.h"
#include "../models/generation/greedy.h"
#include "../models/opt_memory.h"
#include "batches.h"
#include "classes.h"
#include "lora_wrap.h"

namespace allmrec::binding {
namespace {

Tensor soft_rows(Tape& tape, const std::vector<float>& soft, const OptConfig& config) {
  if (soft.empty()) return {};
  return tape.from_host(soft.data(), static_cast<int64_t>(soft.size()) / config.embed_size,
                        config.embed_size);
}

// What logits and logProbs take first.
struct Inputs {
  LlmBatch batch;
  std::vector<float> soft;
  std::vector<int32_t> rows;
};

Inputs read_inputs(const Napi::CallbackInfo& info, const OptConfig& config) {
  Inputs inputs;
  inputs.batch = read_llm_batch(info[0], "batch");
  inputs.soft = read_soft(info[1], "soft", config);
  inputs.rows = read_ints(info[2], "rows");
  return inputs;
}

struct Generated {
  std::vector<std::vector<int32_t>> tokens;
  std::vector<double> step_seconds;
};

Napi::Value generated_to_js(Napi::Env env, const Generated& generated) {
  std::vector<int32_t> offsets{0}, values;
  for (const std::vector<int32_t>& row : generated.tokens) {
    values.insert(values.end(), row.begin(), row.end());
    offsets.push_back(static_cast<int32_t>(values.size()));
  }
  Napi::Object object = Napi::Object::New(env);
  object.Set("offsets", to_js(env, offsets));
  object.Set("values", to_js(env, values));
  Napi::Float64Array seconds = Napi::Float64Array::New(env, generated.step_seconds.size());
  std::copy(generated.step_seconds.begin(), generated.step_seconds.end(), seconds.Data());
  object.Set("stepSeconds", seconds);
  return object;
}

OptConfig read_opt_config(const Fields& config) {
  OptConfig c;
  c.vocab_size = config.integer("vocabSize", 1);
  c.hidden_size = config.size("hiddenSize");
  c.embed_size = config.size("embedSize");
  c.num_layers = config.size("numLayers", 0, 1024);
  c.num_heads = config.size("numHeads");
  c.ffn_size = config.size("ffnSize");
  c.max_positions = config.size("maxPositions");
  c.norm_before = config.boolean("normBefore");
  c.final_norm = config.boolean("finalNorm");
  c.activation = read_activation(config);
  if (config.has("bias")) c.bias = config.boolean("bias");
  if (config.has("normAffine")) c.norm_affine = config.boolean("normAffine");
  if (config.has("tiedHead")) c.tied_head = config.boolean("tiedHead");
  c.dtype = read_dtype(config, "dtype", true);
  return c;
}

}  // namespace

Napi::Value opt_memory(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const OptConfig config = read_opt_config(Fields(info[0], "config"));
    const Fields fields(info[1], "pass");
    OptPass pass;
    pass.tokens = fields.integer("tokens", 0);
    pass.rows = fields.integer("rows", 0);
    pass.sequences = fields.integer("sequences", 0);
    const int64_t capacity = fields.integer("capacity", 0);
    pass.cached = capacity > 0;
    const OptMemory memory =
        allmrec::opt_memory(config, fields.boolean("onCpu"), pass, capacity, fields.size("threads"));
    Napi::Object object = Napi::Object::New(info.Env());
    const auto set = [&](const char* name, int64_t value) { object.Set(name, static_cast<double>(value)); };
    set("parameters", memory.parameters);
    set("weights", memory.weights);
    set("cache", memory.cache);
    set("arena", memory.arena);
    set("work", memory.work);
    return object;
  });
}

Napi::Function define_opt(Napi::Env env) {
  return OptWrap::define(env);
}

Napi::Function OptWrap::define(Napi::Env env) {
  return define_class(
      env, {method("logits", &OptWrap::logits), method("logProbs", &OptWrap::log_probs),
            method("softGradient", &OptWrap::soft_gradient), method("scoreAnswers", &OptWrap::score_answers),
            method("generate", &OptWrap::generate), method("setAdapter", &OptWrap::set_adapter)});
}

OptWrap::OptWrap(const Napi::CallbackInfo& info) : ModelWrap(info) {
  create(info, read_opt_config);
}

Napi::Value OptWrap::logits(const Napi::CallbackInfo& info) {
  return promise(info, [&](const State& model) {
    return run_job(info.Env(), model->engine->executor, read_cancel(info[3]),
                   [model, in = read_inputs(info, model->core.config())] {
                     Arena arena(model->engine->device);
                     Tape tape(*model->engine->device, arena, false);
                     const Tensor soft = soft_rows(tape, in.soft, model->core.config());
                     return to_host(
                         tape, model->core.logits(tape, model->core.hidden(tape, in.batch, soft, in.rows)));
                   });
  });
}

Napi::Value OptWrap::log_probs(const Napi::CallbackInfo& info) {
  return promise(info, [&](const State& model) {
    Inputs in = read_inputs(info, model->core.config());
    std::vector<int32_t> rows = read_ints(info[3], "pairRows");
    std::vector<int32_t> targets = read_ints(info[4], "pairTargets");
    expect_range(rows, "pairRows", 0, static_cast<int64_t>(in.rows.size()) - 1);
    expect_length(targets.size(), static_cast<int64_t>(rows.size()), "pairTargets");
    expect_range(targets, "pairTargets", 0, model->core.config().vocab_size - 1);
    std::shared_ptr<Lora> adapter = LoraWrap::read_optional(info[6], "adapter");
    if (adapter) adapter->expect_fits(model->core.config());
    return run_job(info.Env(), model->engine->executor, read_cancel(info[5]),
                   [model, in = std::move(in), rows = std::move(rows), targets = std::move(targets),
                    adapter = std::move(adapter)] {
                     const WithAdapter with(model->core, adapter);
                     Arena arena(model->engine->device);
                     Tape tape(*model->engine->device, arena, false);
                     const WithPrecision fixed(tape, kScorePrecision);
                     return allmrec::log_probs(model->core, tape, in.batch, in.soft, in.rows, rows, targets);
                   });
  });
}

Napi::Value OptWrap::soft_gradient(const Napi::CallbackInfo& info) {
  return promise(info, [&](const State& model) {
    LlmBatch batch = read_llm_batch(info[0], "batch");
    std::vector<float> soft = read_soft(info[1], "soft", model->core.config());
    TokenTargets targets = read_targets(info[2], "targets", static_cast<int64_t>(batch.ids.size()));
    return run_job(
        info.Env(), model->engine->executor, read_cancel(info[3]),
        [model, batch = std::move(batch), soft = std::move(soft), targets = std::move(targets)] {
          return allmrec::soft_gradient(model->core, batch, soft, targets);
        },
        [](Napi::Env env, const SoftGradient& result) {
          Napi::Object object = Napi::Object::New(env);
          object.Set("meanLogProb", result.mean_log_prob);
          object.Set("gradient", to_js(env, result.gradient));
          return object;
        });
  });
}

Napi::Value OptWrap::set_adapter(const Napi::CallbackInfo& info) {
  return promise(info, [&](const State& model) {
    std::shared_ptr<Lora> adapter = LoraWrap::read_optional(info[0], "adapter");
    if (adapter) adapter->expect_fits(model->core.config());
    return run_job(info.Env(), model->engine->executor, [model, adapter = std::move(adapter)] {
      model->core.set_adapter(adapter);
      return Nothing{};
    });
  });
}

Napi::Value OptWrap::score_answers(const Napi::CallbackInfo& info) {
  return promise(info, [&](const State& model) {
    std::vector<int32_t> prompt = read_ints(info[0], "prompt");
    std::vector<float> soft = read_soft(info[1], "soft", model->core.config());
    const Ragged ragged = read_ragged(info[2], "answers");
    std::vector<std::vector<int32_t>> answers;
    for (int64_t r = 0; r < ragged.rows(); ++r)
      answers.emplace_back(ragged.values.begin() + ragged.offsets[r],
                           ragged.values.begin() + ragged.offsets[r + 1]);
    expect_range(ragged.values, "answers", 0, model->core.config().vocab_size - 1);
    const int64_t tokens_per_pass = read_integer(info[3], "tokensPerPass", 1, kInt32Max);
    return run_job(
        info.Env(), model->engine->executor, read_cancel(info[4]),
        [model, prompt = std::move(prompt), soft = std::move(soft), answers = std::move(answers),
         tokens_per_pass] {
          return allmrec::score_answers(model->core, prompt, soft, answers, tokens_per_pass);
        },
        [](Napi::Env env, const AnswerLikelihoods& scores) {
          Napi::Object object = Napi::Object::New(env);
          object.Set("sum", to_js(env, scores.sum));
          object.Set("mean", to_js(env, scores.mean));
          return object;
        });
  });
}

Napi::Value OptWrap::generate(const Napi::CallbackInfo& info) {
  return promise(info, [&](const State& model) {
    LlmBatch prompts = read_llm_batch(info[0], "prompts");
    std::vector<float> soft = read_soft(info[1], "soft", model->core.config());
    const Ragged ragged = read_ragged(info[2], "seen");
    expect_length(ragged.offsets.size(), prompts.sequences() + 1, "seen.offsets");
    std::vector<std::vector<int32_t>> seen;
    for (int64_t r = 0; r < ragged.rows(); ++r)
      seen.emplace_back(ragged.values.begin() + ragged.offsets[r],
                        ragged.values.begin() + ragged.offsets[r + 1]);
    const Fields fields(info[3], "options");
    GreedyOptions options;
    options.max_new_tokens = fields.size("maxNewTokens", 0);
    options.repetition_penalty = fields.number("repetitionPenalty", 1e-3, 1e6);
    options.eos_id = static_cast<int32_t>(fields.integer("eosId", -1));
    const Flag cancel = read_cancel(info[4]);
    return run_job(
        info.Env(), model->engine->executor, cancel,
        [model, prompts = std::move(prompts), soft = std::move(soft), seen = std::move(seen), options,
         cancel] {
          using Clock = std::chrono::steady_clock;
          Generated generated;
          auto before = Clock::now();
          generated.tokens = generate_greedy(model->core, prompts, soft, seen, options, [&] {
            const auto now = Clock::now();
            generated.step_seconds.push_back(std::chrono::duration<double>(now - before).count());
            before = now;
            return !cancel->load();
          });
          return generated;
        },
        generated_to_js);
  });
}

}  // namespace allmrec::binding
