#include "../models/gru.h"

#include "classes.h"
#include "model_wrap.h"

namespace allmrec::binding {
namespace {

// NativeGru.
class GruWrap : public ModelWrap<GruWrap, Gru> {
 public:
  static constexpr const char* kName = "Gru";
  static constexpr napi_type_tag kTag = {0x616c6c6d72656300, 0x6772750000000001};

  static Napi::Function define(Napi::Env env) {
    return define_class(env, {method("forwardBackward", &GruWrap::forward_backward)});
  }

  explicit GruWrap(const Napi::CallbackInfo& info) : ModelWrap(info) {
    create(info, [](const Fields& config) {
      GruConfig c;
      c.input_size = config.size("inputSize");
      c.hidden_size = config.size("hiddenSize");
      c.num_layers = config.size("numLayers", 1, 1024);
      return c;
    });
  }

 private:
  struct Result {
    std::vector<float> y, hn, grad_x, grad_h0;
  };

  Napi::Value forward_backward(const Napi::CallbackInfo& info) {
    return promise(info, [&](const State& model) {
      const GruConfig& c = model->core.config();
      std::vector<float> x = read_floats(info[0], "x"), h0 = read_floats(info[1], "h0");
      const int64_t batch = read_integer(info[2], "batch", 1, kInt32Max);
      const int64_t steps = read_integer(info[3], "steps", 1, kInt32Max / batch);
      std::vector<float> wy = read_floats(info[4], "wy"), wh = read_floats(info[5], "wh");
      expect_length(x.size(), batch * steps * c.input_size, "x");
      expect_length(h0.size(), c.num_layers * batch * c.hidden_size, "h0");
      expect_length(wy.size(), batch * steps * c.hidden_size, "wy");
      expect_length(wh.size(), static_cast<int64_t>(h0.size()), "wh");
      return run_job(
          info.Env(), model->engine->executor, std::make_shared<std::atomic<bool>>(false),
          [model, x = std::move(x), h0 = std::move(h0), batch, steps, wy = std::move(wy),
           wh = std::move(wh)] { return compute(*model, x, h0, batch, steps, wy, wh); },
          [](Napi::Env env, const Result& result) {
            Napi::Object object = Napi::Object::New(env);
            object.Set("y", to_js(env, result.y));
            object.Set("hn", to_js(env, result.hn));
            object.Set("gradX", to_js(env, result.grad_x));
            object.Set("gradH0", to_js(env, result.grad_h0));
            return object;
          });
    });
  }

  static Result compute(Model<Gru>& model, const std::vector<float>& x, const std::vector<float>& h0,
                        int64_t batch, int64_t steps, const std::vector<float>& wy,
                        const std::vector<float>& wh) {
    const GruConfig& c = model.core.config();
    model.start_gradients();
    Arena arena(model.engine->device);
    Tape tape(*model.engine->device, arena, true);
    const Tensor input = tape.variable(tape.from_host(x.data(), batch * steps, c.input_size));
    std::vector<Tensor> states;
    for (int l = 0; l < c.num_layers; ++l)
      states.push_back(
          tape.variable(tape.from_host(h0.data() + l * batch * c.hidden_size, batch, c.hidden_size)));
    const Gru::Output out = model.core.forward(tape, input, states, batch, steps);
    ops::weighted_sum_loss(tape, "y", out.y, tape.from_host(wy.data(), out.y.rows, out.y.cols), 1.0f);
    ops::weighted_sum_loss(tape, "hn", out.hn, tape.from_host(wh.data(), out.hn.rows, out.hn.cols), 1.0f);
    tape.backward();
    Result result;
    result.y = to_host(tape, out.y);
    result.hn = to_host(tape, out.hn);
    result.grad_x = tape.grad_to_host(input);
    for (const Tensor& state : states) {
      const std::vector<float> gradient = tape.grad_to_host(state);
      result.grad_h0.insert(result.grad_h0.end(), gradient.begin(), gradient.end());
    }
    return result;
  }
};

}  // namespace

Napi::Function define_gru(Napi::Env env) {
  return GruWrap::define(env);
}

}  // namespace allmrec::binding
