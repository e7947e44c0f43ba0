#include "environment.h"

namespace allmrec::binding {

std::shared_ptr<Environment> Environment::create(Napi::Env env) {
  std::shared_ptr<Environment> self(new Environment(env));
  const Napi::String name = Napi::String::New(env, "allmrec");
  if (napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, self.get(),
                                      on_job_done, &self->completions_) != napi_ok)
    throw Napi::Error::New(env, "Cannot create a thread-safe function.");
  napi_unref_threadsafe_function(env, self->completions_);
  // Hooks run in reverse order: this one, added after the thread-safe function's own, is called while that
  // still works.
  napi_add_env_cleanup_hook(env, on_cleanup, self.get());
  self->self_ = self;
  return self;
}

void Environment::job_queued() {
  if (pending_++ == 0) napi_ref_threadsafe_function(env_, completions_);
}

void Environment::job_done(std::unique_ptr<Job> job) {
  // The queue has no bound, so this never blocks. It fails only when the environment has gone, which it has
  // not before every executor is joined; were it otherwise, the job would have to leak, for it must not be
  // destroyed here.
  napi_call_threadsafe_function(completions_, job.release(), napi_tsfn_nonblocking);
}

void Environment::on_job_done(napi_env env, napi_value, void* context, void* data) {
  std::unique_ptr<Job> job(static_cast<Job*>(data));
  if (env == nullptr) return;  // the environment has ended: nobody waits, and `context` may be gone
  auto* self = static_cast<Environment*>(context);
  if (--self->pending_ == 0) napi_unref_threadsafe_function(env, self->completions_);
  job->finish();
}

void Environment::on_cleanup(void* data) {
  const std::shared_ptr<Environment> self = std::move(static_cast<Environment*>(data)->self_);
  self->close();
}

}  // namespace allmrec::binding
