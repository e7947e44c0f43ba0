#pragma once

#include <napi.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <thread>

// Where jobs run and how their results come back to JavaScript.
namespace allmrec::binding {

using Flag = std::shared_ptr<std::atomic<bool>>;

// One call. Made on the JavaScript thread with copies of its inputs; `execute` runs on the executor's thread
// and touches no N-API; `finish` settles the promise on the JavaScript thread. Jobs are destroyed on the
// JavaScript thread only, because they may hold the last reference to an engine, whose executor must not join
// itself.
class Job {
 public:
  explicit Job(Flag cancelled) : cancelled_(std::move(cancelled)) {}
  virtual ~Job() = default;
  virtual void execute() noexcept = 0;
  virtual void finish(Napi::Env env) noexcept = 0;
  const Flag& cancelled() const { return cancelled_; }

 private:
  Flag cancelled_;
};

class Executor;

// What one Node environment (the main thread or a worker) owns: the way back to its thread, and the executors
// to stop when it ends.
class Environment : public std::enable_shared_from_this<Environment> {
 public:
  static std::shared_ptr<Environment> create(Napi::Env env);

  // On the JavaScript thread. While jobs are pending the process does not exit by itself.
  void job_queued();
  // From an executor's thread.
  void job_done(std::unique_ptr<Job> job);

  void add(Executor* executor) { executors_.insert(executor); }
  void remove(Executor* executor) { executors_.erase(executor); }
  bool closed() const { return closed_; }

 private:
  explicit Environment(napi_env env) : env_(env) {}
  static void on_job_done(napi_env env, napi_value callback, void* context, void* data);
  static void on_cleanup(void* self);

  napi_env env_;
  napi_threadsafe_function completions_ = nullptr;
  std::set<Executor*> executors_;
  int64_t pending_ = 0;
  bool closed_ = false;
  std::shared_ptr<Environment> self_;  // until the environment's cleanup
};

// One thread with a queue of jobs, first in, first out.
class Executor {
 public:
  // at_end: called once, on the JavaScript thread, when the last job has run.
  explicit Executor(std::shared_ptr<Environment> environment, std::function<void()> at_end = {});
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  void enqueue(std::unique_ptr<Job> job);  // on the JavaScript thread
  // Whether jobs stand behind the one that runs: one that can go on later makes way for them.
  bool waiting() const;
  // Cancels what runs, waits for it, drops the rest. Idempotent; on the JavaScript thread.
  void stop();

 private:
  void work();

  std::shared_ptr<Environment> environment_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::unique_ptr<Job>> queue_;
  Flag running_;  // the flag of the job in `execute`
  bool stopping_ = false;
  std::function<void()> at_end_;
  std::thread thread_;
};

}  // namespace allmrec::binding
