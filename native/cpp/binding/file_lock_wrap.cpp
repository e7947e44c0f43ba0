#include "../io/file_lock.h"

#include <napi.h>

#include <memory>

#include "classes.h"
#include "convert.h"

namespace allmrec::binding {
namespace {

// NativeFileLock. Released when the environment ends or the object is collected.
class FileLockWrap : public Napi::ObjectWrap<FileLockWrap> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(
        env, "FileLock",
        {InstanceAccessor<&FileLockWrap::held>("held"), InstanceAccessor<&FileLockWrap::owner>("owner"),
         InstanceMethod("release", &FileLockWrap::release)});
  }

  explicit FileLockWrap(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    guarded(info.Env(), [&] {
      lock_ = std::make_unique<io::FileLock>(read_string(info[0], "path"), read_string(info[1], "owner"));
    });
  }

 private:
  Napi::Value held(const Napi::CallbackInfo& info) { return Napi::Boolean::New(info.Env(), lock_->held()); }
  Napi::Value owner(const Napi::CallbackInfo& info) { return Napi::String::New(info.Env(), lock_->owner()); }
  void release(const Napi::CallbackInfo&) { lock_->release(); }

  std::unique_ptr<io::FileLock> lock_;
};

}  // namespace

Napi::Function define_file_lock(Napi::Env env) {
  return FileLockWrap::define(env);
}

Napi::Value exchange_paths(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const bool done = io::exchange_paths(read_string(info[0], "a"), read_string(info[1], "b"));
    return Napi::Boolean::New(info.Env(), done);
  });
}

}  // namespace allmrec::binding
