#pragma once

#include <napi.h>

// The exported classes, each defined in its own *_wrap.cpp.
namespace allmrec::binding {

Napi::Function define_tensor_file(Napi::Env env);
Napi::Function define_file_lock(Napi::Env env);
Napi::Value exchange_paths(const Napi::CallbackInfo& info);
void write_safetensors(const Napi::CallbackInfo& info);
Napi::Function define_backbone(Napi::Env env);
Napi::Function define_backbone_trainer(Napi::Env env);
Napi::Function define_sentence_encoder(Napi::Env env);
Napi::Function define_contrastive_trainer(Napi::Env env);
Napi::Function define_alignment(Napi::Env env);
Napi::Function define_alignment_trainer(Napi::Env env);
Napi::Function define_opt(Napi::Env env);
Napi::Value opt_memory(const Napi::CallbackInfo& info);
Napi::Function define_generator(Napi::Env env);
Napi::Function define_token_trie(Napi::Env env);
Napi::Function define_llm_trainer(Napi::Env env);
Napi::Function define_projector(Napi::Env env);
Napi::Function define_projection_trainer(Napi::Env env);
Napi::Function define_lora(Napi::Env env);
Napi::Function define_lora_trainer(Napi::Env env);
Napi::Function define_recformer(Napi::Env env);
Napi::Function define_recformer_trainer(Napi::Env env);
Napi::Function define_gru(Napi::Env env);

}  // namespace allmrec::binding
