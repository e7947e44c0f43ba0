#include "addon.h"

#include "cancel_flag.h"
#include "classes.h"
#include "convert.h"
#include "engine_wrap.h"

namespace allmrec::binding {

Addon::Addon(Napi::Env env, Napi::Object exports) : environment_(Environment::create(env)) {
  const Napi::Function tensor_file = define_tensor_file(env);
  tensor_file_ = Napi::Persistent(tensor_file);
  Napi::Array sets = Napi::Array::New(env);
  sets.Set(0u, "generic");
#if defined(__x86_64__)
  sets.Set(1u, "avx2");
  sets.Set(2u, "avx512");
  sets.Set(3u, "avx512+vnni");
  sets.Set(4u, "avx512+vnni+bf16");
#endif
  DefineAddon(exports, {
                           InstanceValue("version", Napi::String::New(env, ALLMREC_VERSION), napi_enumerable),
                           InstanceValue("instructionSets", sets, napi_enumerable),
                           InstanceMethod("listDevices", &Addon::list_devices, napi_enumerable),
                           InstanceMethod("openTensorFile", &Addon::open_tensor_file, napi_enumerable),
                       });
  const std::pair<const char*, Napi::Function> values[] = {
      {"writeSafetensors", Napi::Function::New(env, write_safetensors, "writeSafetensors")},
      {"FileLock", define_file_lock(env)},
      {"exchangePaths", Napi::Function::New(env, exchange_paths, "exchangePaths")},
      {"CancelFlag", CancelFlagWrap::define(env)},
      {"Engine", EngineWrap::define(env)},
      {"Backbone", define_backbone(env)},
      {"BackboneTrainer", define_backbone_trainer(env)},
      {"SentenceEncoder", define_sentence_encoder(env)},
      {"ContrastiveTrainer", define_contrastive_trainer(env)},
      {"Alignment", define_alignment(env)},
      {"AlignmentTrainer", define_alignment_trainer(env)},
      {"Opt", define_opt(env)},
      {"optMemory", Napi::Function::New(env, opt_memory, "optMemory")},
      {"Generator", define_generator(env)},
      {"TokenTrie", define_token_trie(env)},
      {"LlmTrainer", define_llm_trainer(env)},
      {"Projector", define_projector(env)},
      {"ProjectionTrainer", define_projection_trainer(env)},
      {"Lora", define_lora(env)},
      {"LoraTrainer", define_lora_trainer(env)},
      {"RecFormer", define_recformer(env)},
      {"RecFormerTrainer", define_recformer_trainer(env)},
      {"Gru", define_gru(env)},
  };
  for (const auto& [name, value] : values) exports.Set(name, value);
}

Napi::Value Addon::list_devices(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    Napi::Array array = Napi::Array::New(info.Env());
    for (const DeviceDescription& d : Device::list()) array.Set(array.Length(), to_js(info.Env(), d));
    return array;
  });
}

Napi::Value Addon::open_tensor_file(const Napi::CallbackInfo& info) {
  return tensor_file_.New({info[0]});
}

}  // namespace allmrec::binding

using AllmrecAddon = allmrec::binding::Addon;
NODE_API_ADDON(AllmrecAddon)
