#include "alignment_wrap.h"

#include <algorithm>

#include "batches.h"
#include "classes.h"

namespace allmrec::binding {

Napi::Function define_alignment(Napi::Env env) {
  return AlignmentWrap::define(env);
}

Napi::Function AlignmentWrap::define(Napi::Env env) {
  return define_class(env, {method("initialise", &AlignmentWrap::initialise),
                            method("encodeItems", &AlignmentWrap::encode_items),
                            method("decodeItems", &AlignmentWrap::decode_items),
                            method("encodeTexts", &AlignmentWrap::encode_texts),
                            method("decodeTexts", &AlignmentWrap::decode_texts)});
}

AlignmentWrap::AlignmentWrap(const Napi::CallbackInfo& info) : ModelWrap(info) {
  create(info, [](const Fields& config) {
    AlignmentConfig c;
    c.item_size = config.size("itemSize");
    c.text_size = config.size("textSize");
    c.joint_size = config.size("jointSize");
    c.activation = read_activation(config);
    c.matching_weight = config.number("matchingWeight", 0);
    c.item_reconstruction_weight = config.number("itemReconstructionWeight", 0);
    c.text_reconstruction_weight = config.number("textReconstructionWeight", 0);
    c.recommendation_weight = config.number("recommendationWeight", 0);
    c.reference_compat = config.boolean("referenceCompat");
    return c;
  });
}

Napi::Value AlignmentWrap::initialise(const Napi::CallbackInfo& info) {
  return promise(info, [&](const State& model) {
    const auto seed = static_cast<uint64_t>(read_integer(info[0], "seed", 0, kSafeInteger));
    return run_job(info.Env(), model->engine->executor, read_cancel(info[1]), [model, seed] {
      model->core.initialise(seed);
      return Nothing{};
    });
  });
}

// Rows through one of the four layers, block by block: a catalogue's texts may be many.
Napi::Value AlignmentWrap::map_rows(const Napi::CallbackInfo& info, const char* name,
                                    int AlignmentConfig::*width, Map map) {
  return promise(info, [&](const State& model) {
    const int64_t cols = model->core.config().*width;
    std::vector<float> input = read_floats(info[0], name);
    const int64_t rows = expect_rows(input.size(), cols, name);
    return run_job(info.Env(), model->engine->executor, read_cancel(info[1]),
                   [model, input = std::move(input), rows, cols, map] {
                     constexpr int64_t kBlock = 4096;
                     std::vector<float> output;
                     Arena arena(model->engine->device);
                     for (int64_t first = 0; first < rows; first += kBlock) {
                       arena.reset();
                       Tape tape(*model->engine->device, arena, false);
                       const Tensor x =
                           tape.from_host(input.data() + first * cols, std::min(kBlock, rows - first), cols);
                       const std::vector<float> part = to_host(tape, (model->core.*map)(tape, x));
                       output.insert(output.end(), part.begin(), part.end());
                     }
                     return output;
                   });
  });
}

Napi::Value AlignmentWrap::encode_items(const Napi::CallbackInfo& info) {
  return map_rows(info, "items", &AlignmentConfig::item_size, &Alignment::encode_items);
}

Napi::Value AlignmentWrap::decode_items(const Napi::CallbackInfo& info) {
  return map_rows(info, "latents", &AlignmentConfig::joint_size, &Alignment::decode_items);
}

Napi::Value AlignmentWrap::encode_texts(const Napi::CallbackInfo& info) {
  return map_rows(info, "texts", &AlignmentConfig::text_size, &Alignment::encode_texts);
}

Napi::Value AlignmentWrap::decode_texts(const Napi::CallbackInfo& info) {
  return map_rows(info, "latents", &AlignmentConfig::joint_size, &Alignment::decode_texts);
}

}  // namespace allmrec::binding
