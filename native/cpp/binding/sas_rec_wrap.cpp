#include "sas_rec_wrap.h"

#include "../models/sas_rec_trainer.h"
#include "batches.h"
#include "classes.h"

namespace allmrec::binding {

Napi::Function define_sas_rec(Napi::Env env) {
  return SasRecWrap::define(env);
}

Napi::Function SasRecWrap::define(Napi::Env env) {
  return define_class(
      env, {method("initialise", &SasRecWrap::initialise), method("features", &SasRecWrap::features),
            method("userVectors", &SasRecWrap::user_vectors),
            method("scoreCandidates", &SasRecWrap::score_candidates),
            method("rankCatalogue", &SasRecWrap::rank_catalogue)});
}

SasRecWrap::SasRecWrap(const Napi::CallbackInfo& info) : ModelWrap(info) {
  create(info, [](const Fields& config) {
    SasRecConfig c;
    c.num_items = config.integer("numItems", 1, kInt32Max - 1);
    c.max_length = config.size("maxLength");
    c.hidden_units = config.size("hiddenUnits");
    c.num_blocks = config.size("numBlocks", 0, 1024);
    c.num_heads = config.size("numHeads");
    c.dropout_rate = config.number("dropoutRate", 0, 1);
    c.variant = config.choice<SasRecVariant>("variant", {{"reference", SasRecVariant::reference},
                                                         {"preNorm", SasRecVariant::pre_norm},
                                                         {"postNorm", SasRecVariant::post_norm}});
    return c;
  });
}

Napi::Value SasRecWrap::initialise(const Napi::CallbackInfo& info) {
  return promise(info, [&](const State& model) {
    const auto seed = static_cast<uint64_t>(read_integer(info[0], "seed", 0, kSafeInteger));
    return run_job(info.Env(), model->engine->executor, read_cancel(info[1]), [model, seed] {
      model->core.initialise(seed);
      return Nothing{};
    });
  });
}

Napi::Value SasRecWrap::features(const Napi::CallbackInfo& info) {
  return promise(info, [&](const State& model) {
    SequenceBatch batch = read_sequence_batch(info[0], "histories", model->core.config());
    return run_job(info.Env(), model->engine->executor, read_cancel(info[1]),
                   [model, batch = std::move(batch)] {
                     Arena arena(model->engine->device);
                     Tape tape(*model->engine->device, arena, false);
                     return to_host(tape, model->core.features(tape, batch));
                   });
  });
}

Napi::Value SasRecWrap::user_vectors(const Napi::CallbackInfo& info) {
  return promise(info, [&](const State& model) {
    Sequences histories = read_sequences(info[0], "histories", model->core.config().num_items);
    return run_job(
        info.Env(), model->engine->executor, read_cancel(info[1]),
        [model, histories = std::move(histories)] { return allmrec::user_vectors(model->core, histories); });
  });
}

Napi::Value SasRecWrap::score_candidates(const Napi::CallbackInfo& info) {
  return promise(info, [&](const State& model) {
    const SasRecConfig& config = model->core.config();
    std::vector<float> users = read_floats(info[0], "users");
    std::vector<int32_t> candidates = read_ints(info[1], "candidates");
    const int64_t per_user = read_integer(info[2], "perUser", 0, kInt32Max);
    expect_length(candidates.size(), expect_rows(users.size(), config.hidden_units, "users") * per_user,
                  "candidates");
    expect_range(candidates, "candidates", 1, config.num_items, ErrorCode::unknown_item);
    return run_job(info.Env(), model->engine->executor, read_cancel(info[3]),
                   [model, users = std::move(users), candidates = std::move(candidates), per_user] {
                     return allmrec::score_candidates(model->core, users, candidates, per_user);
                   });
  });
}

Napi::Value SasRecWrap::rank_catalogue(const Napi::CallbackInfo& info) {
  return promise(info, [&](const State& model) {
    const SasRecConfig& config = model->core.config();
    std::vector<float> users = read_floats(info[0], "users");
    const int64_t count = expect_rows(users.size(), config.hidden_units, "users");
    std::vector<int32_t> targets = read_ints(info[1], "targets");
    if (!targets.empty()) expect_length(targets.size(), count, "targets");
    expect_range(targets, "targets", 1, config.num_items, ErrorCode::unknown_item);
    Sequences exclude = read_sequences(info[2], "exclude", config.num_items);
    expect_length(exclude.offsets.size(), count + 1, "exclude.offsets");
    const auto k = static_cast<int>(read_integer(info[3], "k", 0, config.num_items));
    return run_job(
        info.Env(), model->engine->executor, read_cancel(info[4]),
        [model, users = std::move(users), targets = std::move(targets), exclude = std::move(exclude), k] {
          return allmrec::rank_catalogue(model->core, users, targets, exclude, k);
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
