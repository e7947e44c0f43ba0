#include <algorithm>

#include "../models/generation/shared_generator.h"
#include "cancel_flag.h"
#include "classes.h"
#include "opt_wrap.h"
#include "token_trie_wrap.h"

namespace allmrec::binding {
namespace {

// Stepped on the executor's thread.
struct GeneratorState {
  OptWrap::State model;
  SharedGenerator core;

  GeneratorState(OptWrap::State m, const GeneratorOptions& options)
      : model(std::move(m)), core(model->core, options) {}
};

const char* reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::eos:
      return "eos";
    case FinishReason::stop:
      return "stop";
    case FinishReason::length:
      return "length";
    case FinishReason::abort:
      return "abort";
  }
  return "";
}

Napi::Value events_to_js(Napi::Env env, const GenerationEvents& events) {
  Napi::Array tokens = Napi::Array::New(env, events.tokens.size());
  for (size_t i = 0; i < events.tokens.size(); ++i) {
    const Napi::HandleScope scope(env);
    Napi::Object token = Napi::Object::New(env);
    token.Set("request", static_cast<double>(events.tokens[i].request));
    token.Set("id", events.tokens[i].id);
    token.Set("logProb", events.tokens[i].log_prob);
    tokens.Set(static_cast<uint32_t>(i), token);
  }
  Napi::Array finished = Napi::Array::New(env, events.finished.size());
  for (size_t i = 0; i < events.finished.size(); ++i) {
    const Napi::HandleScope scope(env);
    const FinishedRequest& request = events.finished[i];
    Napi::Array sequences = Napi::Array::New(env, request.sequences.size());
    for (size_t s = 0; s < request.sequences.size(); ++s) {
      const GeneratedSequence& sequence = request.sequences[s];
      Napi::Object object = Napi::Object::New(env);
      object.Set("ids", to_js(env, sequence.ids));
      object.Set("reason", reason_name(sequence.reason));
      object.Set("logProb", sequence.log_prob);
      object.Set("score", sequence.score);
      object.Set("entry", sequence.entry);
      sequences.Set(static_cast<uint32_t>(s), object);
    }
    Napi::Object object = Napi::Object::New(env);
    object.Set("request", static_cast<double>(request.request));
    object.Set("sequences", sequences);
    finished.Set(static_cast<uint32_t>(i), object);
  }
  Napi::Object object = Napi::Object::New(env);
  object.Set("tokens", tokens);
  object.Set("finished", finished);
  return object;
}

GenerationRequest read_request(Napi::Value value, const OptConfig& config) {
  const Fields fields(value, "request");
  GenerationRequest request;
  request.ids = fields.ints("ids");
  request.soft = fields.floats("soft");
  expect_rows(request.soft.size(), config.embed_size, "request.soft");
  request.seen = fields.ints("seen");
  GenerationOptions& o = request.options;
  o.max_new_tokens = fields.size("maxNewTokens", 0);
  o.eos_id = static_cast<int32_t>(fields.integer("eosId", -1));
  o.repetition_penalty = fields.number("repetitionPenalty", 1e-3, 1e6);
  o.sequences = fields.size("sequences", 1, 4096);
  o.stream = fields.boolean("stream");
  o.log_probs = fields.boolean("logProbs");
  if (fields.has("sampling")) {
    const Fields sampling(fields.get("sampling"), "request.sampling");
    o.sampling.enabled = true;
    o.sampling.temperature = sampling.number("temperature", 1e-6, 1e6);
    o.sampling.top_k = sampling.size("topK", 0, kInt32Max);
    o.sampling.top_p = sampling.number("topP", 1e-6, 1);
    o.sampling.seed = sampling.seed("seed");
  }
  if (fields.has("beam")) {
    const Fields beam(fields.get("beam"), "request.beam");
    o.beam.beams = beam.size("beams", 1, 1024);
    o.beam.length_penalty = beam.number("lengthPenalty", -1e3, 1e3);
    o.beam.early_stopping = beam.choice<EarlyStopping>(
        "earlyStopping",
        {{"no", EarlyStopping::no}, {"yes", EarlyStopping::yes}, {"never", EarlyStopping::never}});
  }
  if (fields.has("stopTokens")) {
    const Ragged stops = fields.ragged("stopTokens");
    for (int64_t r = 0; r < stops.rows(); ++r)
      o.stop_tokens.emplace_back(stops.values.begin() + stops.offsets[r],
                                 stops.values.begin() + stops.offsets[r + 1]);
  }
  if (fields.has("stopStrings"))
    o.stop_bytes = read_strings(fields.get("stopStrings"), fields.name_of("stopStrings"));
  if (fields.has("trie")) request.trie = read_trie(fields.get("trie"), fields.name_of("trie"));
  return request;
}

std::shared_ptr<const TokenBytes> read_token_bytes(Napi::Value value) {
  const Fields fields(value, "tokenBytes");
  auto table = std::make_shared<TokenBytes>();
  table->offsets = fields.ints("offsets");
  const Napi::Value bytes = fields.get("bytes");
  if (!bytes.IsTypedArray() || bytes.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)
    expected(fields.name_of("bytes"), "a Uint8Array", bytes);
  const auto array = bytes.As<Napi::Uint8Array>();
  table->bytes.assign(array.Data(), array.Data() + array.ElementLength());
  const auto size = static_cast<int64_t>(table->bytes.size());
  expect_range(table->offsets, fields.name_of("offsets"), 0, size);
  if (table->offsets.empty() || table->offsets.front() != 0 || table->offsets.back() != size ||
      !std::is_sorted(table->offsets.begin(), table->offsets.end()))
    fail("Expected `tokenBytes.offsets` to start at 0, ascend and end with the number of bytes.");
  return table;
}

// NativeGenerator.
class GeneratorWrap : public Napi::ObjectWrap<GeneratorWrap> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(
        env, "Generator",
        {InstanceMethod("setTokenBytes", &GeneratorWrap::set_token_bytes),
         InstanceMethod("submit", &GeneratorWrap::submit), InstanceMethod("abort", &GeneratorWrap::abort),
         InstanceMethod("advance", &GeneratorWrap::advance),
         InstanceMethod("dispose", &GeneratorWrap::dispose)});
  }

  explicit GeneratorWrap(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    guarded(info.Env(), [&] {
      OptWrap::State model = OptWrap::read(info[0], "model");
      const Fields fields(info[1], "options");
      GeneratorOptions options;
      options.slots = fields.integer("slots", 1, 65536);
      if (fields.has("cacheTokens")) options.cache_rows = fields.integer("cacheTokens", 1);
      if (fields.has("promptTokens")) options.prompt_tokens = fields.integer("promptTokens", 1);
      state_ = std::make_shared<GeneratorState>(std::move(model), options);
    });
  }
  ~GeneratorWrap() override { close(); }

 private:
  const std::shared_ptr<GeneratorState>& state() const {
    if (!state_) throw Error(ErrorCode::disposed, "This Generator is used after dispose().");
    return state_;
  }

  Napi::Value set_token_bytes(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      bytes_ = read_token_bytes(info[0]);
      return info.Env().Undefined();
    });
  }

  Napi::Value submit(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      GeneratorState& generator = *state();
      GenerationRequest request = read_request(info[0], generator.model->core.config());
      request.bytes = bytes_;
      request.id = last_ + 1;
      generator.core.submit(std::move(request));
      return to_js(info.Env(), static_cast<double>(++last_));
    });
  }

  Napi::Value abort(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      state()->core.abort(read_integer(info[0], "request", 1, kSafeInteger));
      return info.Env().Undefined();
    });
  }

  // Steps until there is something to tell, nothing to do, or another job waits for the device. Cancelled in
  // the middle of a step it drops what it has begun; requests submitted after that are still to come.
  Napi::Value advance(const Napi::CallbackInfo& info) {
    return as_promise(info.Env(), [&] {
      const std::shared_ptr<GeneratorState> generator = state();
      const Flag stop = read_cancel(info[0]);
      return run_job(
          info.Env(), generator->model->engine->executor, stop,
          [generator, stop] {
            const Executor& executor = generator->model->engine->executor;
            return generator->core.advance([&] { return stop->load() || executor.waiting(); });
          },
          events_to_js);
    });
  }

  Napi::Value dispose(const Napi::CallbackInfo& info) {
    close();
    return info.Env().Undefined();
  }

  // What is left of it is the executor's to free.
  void close() {
    if (!state_) return;
    try {
      run_detached(state_->model->engine->executor, [state = state_]() noexcept { state->core.clear(); });
    } catch (const Error&) {
      // The environment has ended, and its executors with it.
    }
    state_.reset();
  }

  std::shared_ptr<GeneratorState> state_;
  std::shared_ptr<const TokenBytes> bytes_;
  int64_t last_ = 0;
};

}  // namespace

Napi::Function define_generator(Napi::Env env) {
  return GeneratorWrap::define(env);
}

}  // namespace allmrec::binding
