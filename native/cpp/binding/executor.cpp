#include "executor.h"

#include "../core/error.h"

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
  job->finish(env);
}

void Environment::on_cleanup(void* data) {
  const std::shared_ptr<Environment> self = std::move(static_cast<Environment*>(data)->self_);
  self->closed_ = true;
  const std::set<Executor*> executors = self->executors_;
  for (Executor* executor : executors) {
    // Dropping one executor's jobs may destroy another engine.
    if (self->executors_.count(executor)) executor->stop();
  }
}

Executor::Executor(std::shared_ptr<Environment> environment, std::function<void()> at_end)
    : environment_(std::move(environment)), at_end_(std::move(at_end)) {
  if (environment_->closed()) throw Error(ErrorCode::disposed, "The environment has ended.");
  thread_ = std::thread([this] { work(); });
  environment_->add(this);
}

Executor::~Executor() {
  stop();
  environment_->remove(this);
}

void Executor::enqueue(std::unique_ptr<Job> job) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (stopping_) throw Error(ErrorCode::disposed, "The environment has ended.");
    queue_.push_back(std::move(job));
  }
  environment_->job_queued();
  wake_.notify_one();
}

bool Executor::waiting() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return stopping_ || !queue_.empty();
}

void Executor::stop() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    if (running_) running_->store(true);
  }
  wake_.notify_one();
  if (thread_.joinable()) {
    thread_.join();
    if (at_end_) at_end_();
  }
  // Destroying a job may destroy this executor's engine; what is left must not be a member then.
  const std::deque<std::unique_ptr<Job>> dropped = std::move(queue_);
}

void Executor::work() {
  for (;;) {
    std::unique_ptr<Job> job;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (stopping_) return;
      job = std::move(queue_.front());
      queue_.pop_front();
      running_ = job->cancelled();
    }
    job->execute();
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      running_.reset();
    }
    environment_->job_done(std::move(job));
  }
}

}  // namespace allmrec::binding
