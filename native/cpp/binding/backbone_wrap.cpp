#include "backbone_wrap.h"

#include "../models/backbone_trainer.h"
#include "batches.h"
#include "classes.h"

namespace allmrec::binding {

Napi::Function define_backbone(Napi::Env env) {
  return BackboneWrap::define(env);
}

NamedOptions read_named_options(Napi::Value value, const std::string& name) {
  if (!value.IsObject()) expected(name, "an object", value);
  const Napi::Object object = value.As<Napi::Object>();
  const Napi::Array names = object.GetPropertyNames();
  NamedOptions options(name);
  for (uint32_t i = 0; i < names.Length(); ++i) {
    const std::string field = names.Get(i).As<Napi::String>().Utf8Value();
    const Napi::Value entry = object.Get(field);
    if (entry.IsNumber())
      options.set(field, entry.As<Napi::Number>().DoubleValue());
    else if (entry.IsString())
      options.set(field, entry.As<Napi::String>().Utf8Value());
  }
  return options;
}

Napi::Function BackboneWrap::define(Napi::Env env) {
  return define_class(
      env, {method("initialise", &BackboneWrap::initialise), method("itemTable", &BackboneWrap::item_table),
            method("features", &BackboneWrap::features), method("userVectors", &BackboneWrap::user_vectors),
            method("scoreCandidates", &BackboneWrap::score_candidates),
            method("scoreVectors", &BackboneWrap::score_vectors),
            method("rankCatalogue", &BackboneWrap::rank_catalogue)});
}

BackboneWrap::BackboneWrap(const Napi::CallbackInfo& info) : ModelWrap(info) {
  create(info, [&](const Fields& config) {
    return std::make_pair(config.string("kind"), read_named_options(info[1], "config"));
  });
}

Napi::Value BackboneWrap::initialise(const Napi::CallbackInfo& info) {
  return promise(info, [&](const State& model) {
    const auto seed = static_cast<uint64_t>(read_integer(info[0], "seed", 0, kSafeInteger));
    return run_job(info.Env(), model->engine->executor, read_cancel(info[1]), [model, seed] {
      model->core->initialise(seed);
      return Nothing{};
    });
  });
}

Napi::Value BackboneWrap::item_table(const Napi::CallbackInfo& info) {
  return promise(info, [&](const State& model) {
    return run_job(info.Env(), model->engine->executor, read_cancel(info[0]),
                   [model] { return allmrec::item_table(*model->core); });
  });
}

Napi::Value BackboneWrap::features(const Napi::CallbackInfo& info) {
  return promise(info, [&](const State& model) {
    SequenceBatch batch = read_sequence_batch(info[0], "histories", *model->core);
    return run_job(info.Env(), model->engine->executor, read_cancel(info[1]),
                   [model, batch = std::move(batch)] {
                     Arena arena(model->engine->device);
                     Tape tape(*model->engine->device, arena, false);
                     return to_host(tape, model->core->features(tape, batch));
                   });
  });
}

Napi::Value BackboneWrap::user_vectors(const Napi::CallbackInfo& info) {
  return promise(info, [&](const State& model) {
    Sequences histories = read_sequences(info[0], "histories", model->core->num_items());
    std::vector<int32_t> users;
    if (!info[1].IsUndefined()) {
      users = read_ints(info[1], "users");
      expect_length(users.size(), histories.users(), "users");
      if (model->core->num_users() > 0) expect_range(users, "users", -1, model->core->num_users() - 1);
    }
    return run_job(info.Env(), model->engine->executor, read_cancel(info[2]),
                   [model, histories = std::move(histories), users = std::move(users)] {
                     return allmrec::user_vectors(*model->core, histories, users);
                   });
  });
}

Napi::Value BackboneWrap::score_candidates(const Napi::CallbackInfo& info) {
  return promise(info, [&](const State& model) {
    const Backbone& backbone = *model->core;
    std::vector<float> users = read_floats(info[0], "users");
    std::vector<int32_t> candidates = read_ints(info[1], "candidates");
    const int64_t per_user = read_integer(info[2], "perUser", 0, kInt32Max);
    expect_length(candidates.size(), expect_rows(users.size(), backbone.size(), "users") * per_user,
                  "candidates");
    expect_range(candidates, "candidates", 1, backbone.num_items(), ErrorCode::unknown_item);
    return run_job(info.Env(), model->engine->executor, read_cancel(info[3]),
                   [model, users = std::move(users), candidates = std::move(candidates), per_user] {
                     return allmrec::score_candidates(*model->core, users, candidates, per_user);
                   });
  });
}

Napi::Value BackboneWrap::score_vectors(const Napi::CallbackInfo& info) {
  return promise(info, [&](const State& model) {
    const int64_t size = model->core->size();
    std::vector<float> users = read_floats(info[0], "users");
    std::vector<float> items = read_floats(info[1], "items");
    const int64_t per_user = read_integer(info[2], "perUser", 0, kInt32Max);
    expect_length(items.size(), expect_rows(users.size(), size, "users") * per_user * size, "items");
    return run_job(info.Env(), model->engine->executor, read_cancel(info[3]),
                   [model, users = std::move(users), items = std::move(items), per_user] {
                     return allmrec::score_vectors(*model->core, users, items, per_user);
                   });
  });
}

Napi::Value BackboneWrap::rank_catalogue(const Napi::CallbackInfo& info) {
  return promise(info, [&](const State& model) {
    const Backbone& backbone = *model->core;
    std::vector<float> users = read_floats(info[0], "users");
    const int64_t count = expect_rows(users.size(), backbone.size(), "users");
    std::vector<int32_t> targets = read_ints(info[1], "targets");
    if (!targets.empty()) expect_length(targets.size(), count, "targets");
    expect_range(targets, "targets", 1, backbone.num_items(), ErrorCode::unknown_item);
    Sequences exclude = read_sequences(info[2], "exclude", backbone.num_items());
    expect_length(exclude.offsets.size(), count + 1, "exclude.offsets");
    const auto k = static_cast<int>(read_integer(info[3], "k", 0, backbone.num_items()));
    return run_job(
        info.Env(), model->engine->executor, read_cancel(info[4]),
        [model, users = std::move(users), targets = std::move(targets), exclude = std::move(exclude), k] {
          return allmrec::rank_catalogue(*model->core, users, targets, exclude, k);
        },
        [](Napi::Env env, const FullRanking& ranking) {
          Napi::Object object = Napi::Object::New(env);
          object.Set("greater", to_js(env, ranking.greater));
          object.Set("ties", to_js(env, ranking.ties));
          object.Set("top", to_js(env, ranking.top));
          object.Set("topScores", to_js(env, ranking.top_scores));
          return object;
        });
  });
}

}  // namespace allmrec::binding
