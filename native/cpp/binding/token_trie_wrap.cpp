#include "token_trie_wrap.h"

#include "cancel_flag.h"
#include "classes.h"
#include "convert.h"
#include "job.h"
#include "wrap.h"

namespace allmrec::binding {
namespace {

constexpr napi_type_tag kTag = {0x616c6c6d72656300, 0x7472696500000001};

}  // namespace

Napi::Function define_token_trie(Napi::Env env) {
  return TokenTrieWrap::define(env);
}

Napi::Function TokenTrieWrap::define(Napi::Env env) {
  return DefineClass(
      env, "TokenTrie",
      {InstanceMethod("build", &TokenTrieWrap::build), InstanceMethod("size", &TokenTrieWrap::size)});
}

TokenTrieWrap::TokenTrieWrap(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  guarded(info.Env(), [&] {
    engine_ = read_engine(info[0]);
    set_tag(info.This(), kTag);
  });
}

Napi::Value TokenTrieWrap::build(const Napi::CallbackInfo& info) {
  return as_promise(info.Env(), [&] {
    Ragged rows = read_ragged(info[0], "rows");
    const auto eos_id = static_cast<int32_t>(read_integer(info[1], "eosId", 0, kInt32Max));
    if (!engine_) fail("This trie is built already.");
    const std::shared_ptr<Engine> engine = std::move(engine_);
    return run_job(
        info.Env(), engine->executor, read_cancel(info[2]),
        [rows = std::move(rows), eos_id]() -> std::shared_ptr<const TokenTrie> {
          return std::make_shared<TokenTrie>(rows.offsets, rows.values, eos_id);
        },
        [built = built_](Napi::Env env, const std::shared_ptr<const TokenTrie>& trie) {
          *built = trie;
          return env.Undefined();
        });
  });
}

Napi::Value TokenTrieWrap::size(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const std::shared_ptr<const TokenTrie> trie = read_trie(info.This(), "this");
    Napi::Object object = Napi::Object::New(info.Env());
    object.Set("nodes", static_cast<double>(trie->nodes()));
    object.Set("entries", static_cast<double>(trie->entries()));
    object.Set("depth", trie->depth());
    return object;
  });
}

std::shared_ptr<const TokenTrie> read_trie(Napi::Value value, const std::string& name) {
  const TokenTrieWrap* wrap = unwrap<TokenTrieWrap>(value, kTag, name, "a TokenTrie");
  if (!*wrap->built_) fail("The trie `" + name + "` is used before it is built.");
  return *wrap->built_;
}

}  // namespace allmrec::binding
