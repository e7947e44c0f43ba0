#include "executor.h"

#include "error.h"

namespace allmrec {

void JobOwner::close() {
  closed_ = true;
  const std::set<Executor*> executors = executors_;
  for (Executor* executor : executors) {
    // Dropping one executor's jobs may destroy another engine.
    if (executors_.count(executor)) executor->stop();
  }
}

Executor::Executor(std::shared_ptr<JobOwner> owner, std::function<void()> at_end)
    : owner_(std::move(owner)), at_end_(std::move(at_end)) {
  if (owner_->closed_) throw Error(ErrorCode::disposed, "The environment has ended.");
  thread_ = std::thread([this] { work(); });
  owner_->executors_.insert(this);
}

Executor::~Executor() {
  stop();
  owner_->executors_.erase(this);
}

void Executor::enqueue(std::unique_ptr<Job> job) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (stopping_) throw Error(ErrorCode::disposed, "The environment has ended.");
    queue_.push_back(std::move(job));
  }
  owner_->job_queued();
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
    owner_->job_done(std::move(job));
  }
}

}  // namespace allmrec
