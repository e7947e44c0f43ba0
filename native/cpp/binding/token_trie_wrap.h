#pragma once

#include <napi.h>

#include <memory>

#include "../models/generation/token_trie.h"
#include "engine_wrap.h"

namespace allmrec::binding {

// NativeTokenTrie: made on the executor, for a catalogue's titles take a while to sort.
class TokenTrieWrap : public Napi::ObjectWrap<TokenTrieWrap> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit TokenTrieWrap(const Napi::CallbackInfo& info);

 private:
  friend std::shared_ptr<const TokenTrie> read_trie(Napi::Value value, const std::string& name);
  Napi::Value build(const Napi::CallbackInfo& info);
  Napi::Value size(const Napi::CallbackInfo& info);

  std::shared_ptr<Engine> engine_;
  // Shared with the job that fills it, which may outlive this.
  std::shared_ptr<std::shared_ptr<const TokenTrie>> built_ =
      std::make_shared<std::shared_ptr<const TokenTrie>>();
};

// Throws ErrorCode::invalid_argument before it is built.
std::shared_ptr<const TokenTrie> read_trie(Napi::Value value, const std::string& name);

}  // namespace allmrec::binding
