#include "projector_wrap.h"

#include "batches.h"
#include "classes.h"

namespace allmrec::binding {

Napi::Function define_projector(Napi::Env env) {
  return ProjectorWrap::define(env);
}

Napi::Function ProjectorWrap::define(Napi::Env env) {
  return define_class(
      env, {method("initialise", &ProjectorWrap::initialise), method("users", &ProjectorWrap::users),
            method("items", &ProjectorWrap::items), method("gradients", &ProjectorWrap::gradients)});
}

ProjectorWrap::ProjectorWrap(const Napi::CallbackInfo& info) : ModelWrap(info) {
  create(info, [](const Fields& config) {
    ProjectorConfig c;
    c.kind = config.choice<ProjectorKind>("kind",
                                          {{"mlp", ProjectorKind::mlp}, {"linear", ProjectorKind::linear}});
    c.user_size = config.size("userSize");
    c.joint_size = config.size("jointSize");
    c.token_size = config.size("tokenSize");
    return c;
  });
}

Napi::Value ProjectorWrap::initialise(const Napi::CallbackInfo& info) {
  return promise(info, [&](const State& model) {
    const auto seed = static_cast<uint64_t>(read_integer(info[0], "seed", 0, kSafeInteger));
    const auto scale = static_cast<float>(read_number(info[1], "scale", 0, 1e6));
    return run_job(info.Env(), model->engine->executor, read_cancel(info[2]), [model, seed, scale] {
      model->core.initialise(seed, scale);
      return Nothing{};
    });
  });
}

Napi::Value ProjectorWrap::map_rows(const Napi::CallbackInfo& info, const char* name,
                                    int ProjectorConfig::*width, Map map) {
  return promise(info, [&](const State& model) {
    const int64_t cols = model->core.config().*width;
    std::vector<float> input = read_floats(info[0], name);
    const int64_t rows = expect_rows(input.size(), cols, name);
    return run_job(info.Env(), model->engine->executor, read_cancel(info[1]),
                   [model, input = std::move(input), rows, cols, map] {
                     Arena arena(model->engine->device);
                     Tape tape(*model->engine->device, arena, false);
                     const WithPrecision fixed(tape, kScorePrecision);
                     return to_host(tape, (model->core.*map)(tape, tape.from_host(input.data(), rows, cols)));
                   });
  });
}

Napi::Value ProjectorWrap::users(const Napi::CallbackInfo& info) {
  return map_rows(info, "x", &ProjectorConfig::user_size, &Projector::users);
}

Napi::Value ProjectorWrap::items(const Napi::CallbackInfo& info) {
  return map_rows(info, "e", &ProjectorConfig::joint_size, &Projector::items);
}

Napi::Value ProjectorWrap::gradients(const Napi::CallbackInfo& info) {
  return promise(info, [&](const State& model) {
    const ProjectorConfig& config = model->core.config();
    std::vector<float> x = read_floats(info[0], "x"), wx = read_floats(info[1], "wx");
    std::vector<float> e = read_floats(info[2], "e"), we = read_floats(info[3], "we");
    const int64_t users = expect_rows(x.size(), config.user_size, "x");
    const int64_t items = expect_rows(e.size(), config.joint_size, "e");
    expect_length(wx.size(), users * config.token_size, "wx");
    expect_length(we.size(), items * config.token_size, "we");
    struct Gradients {
      std::vector<float> x, e;
    };
    return run_job(
        info.Env(), model->engine->executor, std::make_shared<std::atomic<bool>>(false),
        [model, x = std::move(x), wx = std::move(wx), e = std::move(e), we = std::move(we), users, items] {
          const ProjectorConfig& c = model->core.config();
          model->start_gradients();
          Arena arena(model->engine->device);
          Tape tape(*model->engine->device, arena, true);
          const Tensor user_rows = tape.variable(tape.from_host(x.data(), users, c.user_size));
          const Tensor item_rows = tape.variable(tape.from_host(e.data(), items, c.joint_size));
          ops::weighted_sum_loss(tape, "users", model->core.users(tape, user_rows),
                                 tape.from_host(wx.data(), users, c.token_size), 1.0f);
          ops::weighted_sum_loss(tape, "items", model->core.items(tape, item_rows),
                                 tape.from_host(we.data(), items, c.token_size), 1.0f);
          tape.backward();
          return Gradients{tape.grad_to_host(user_rows), tape.grad_to_host(item_rows)};
        },
        [](Napi::Env env, const Gradients& gradients) {
          Napi::Object object = Napi::Object::New(env);
          object.Set("x", to_js(env, gradients.x));
          object.Set("e", to_js(env, gradients.e));
          return object;
        });
  });
}

}  // namespace allmrec::binding
