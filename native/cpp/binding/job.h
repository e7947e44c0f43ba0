#pragma once

#include <napi.h>

#include <exception>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include "../core/cancellation.h"
#include "../core/executor.h"
#include "convert.h"

namespace allmrec::binding {

// What jobs without a result return.
struct Nothing {};
inline Napi::Value to_js(Napi::Env env, const Nothing&) {
  return env.Undefined();
}

// A job whose promise is settled with build(env, result of execute), or rejected with what either threw. The
// result is given as an rvalue: large arrays are handed to JavaScript, not copied.
template <typename Execute, typename Build>
class PromiseJob final : public Job {
 public:
  PromiseJob(Napi::Env env, Flag cancelled, Execute execute, Build build)
      : Job(std::move(cancelled)), env_(env), execute_(std::move(execute)), build_(std::move(build)) {
    napi_value promise;
    if (napi_create_promise(env, &deferred_, &promise) != napi_ok) throw Napi::Error::New(env);
    promise_ = promise;
  }

  napi_value promise() const { return promise_; }

  void execute() noexcept override {
    const Cancellation scope(cancelled().get());
    try {
      Cancellation::poll();
      result_.emplace(execute_());
    } catch (...) {
      error_ = std::current_exception();
    }
  }

  void finish() noexcept override {
    try {
      try {
        if (error_) std::rethrow_exception(error_);
        napi_resolve_deferred(env_, deferred_, build_(env_, std::move(*result_)));
      } catch (...) {
        napi_reject_deferred(env_, deferred_, current_exception_to_js(env_));
      }
    } catch (...) {
      // The environment is ending and takes no more values: nobody waits for this promise.
    }
  }

 private:
  Napi::Env env_;
  Execute execute_;
  Build build_;
  napi_deferred deferred_ = nullptr;
  napi_value promise_ = nullptr;  // valid until the call that made the job returns
  std::optional<std::invoke_result_t<Execute&>> result_;
  std::exception_ptr error_;
};

// Work in its place in the queue that nobody waits for; it must not throw.
template <typename Execute>
class DetachedJob final : public Job {
 public:
  explicit DetachedJob(Execute execute)
      : Job(std::make_shared<std::atomic<bool>>(false)), execute_(std::move(execute)) {}
  void execute() noexcept override { execute_(); }
  void finish() noexcept override {}

 private:
  Execute execute_;
};

// Queues a call and returns its promise.
template <typename Execute, typename Build>
Napi::Value run_job(Napi::Env env, Executor& executor, Flag cancelled, Execute execute, Build build) {
  auto job = std::make_unique<PromiseJob<Execute, Build>>(env, std::move(cancelled), std::move(execute),
                                                          std::move(build));
  const Napi::Value promise(env, job->promise());
  executor.enqueue(std::move(job));
  return promise;
}

template <typename Execute>
Napi::Value run_job(Napi::Env env, Executor& executor, Flag cancelled, Execute execute) {
  return run_job(env, executor, std::move(cancelled), std::move(execute),
                 [](Napi::Env e, auto&& result) { return to_js(e, std::move(result)); });
}

template <typename Execute>
Napi::Value run_job(Napi::Env env, Executor& executor, Execute execute) {
  return run_job(env, executor, std::make_shared<std::atomic<bool>>(false), std::move(execute));
}

template <typename Execute>
void run_detached(Executor& executor, Execute execute) {
  executor.enqueue(std::make_unique<DetachedJob<Execute>>(std::move(execute)));
}

// A method that returns a promise reports everything through it: what `fn` throws becomes a rejection.
template <typename Fn>
Napi::Value as_promise(Napi::Env env, Fn&& fn) {
  try {
    return fn();
  } catch (...) {
    const Napi::Promise::Deferred deferred = Napi::Promise::Deferred::New(env);
    deferred.Reject(current_exception_to_js(env));
    return deferred.Promise();
  }
}

}  // namespace allmrec::binding
