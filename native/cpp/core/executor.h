#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <thread>

// Where jobs run, and how they come back to the thread that made them.
namespace allmrec {

using Flag = std::shared_ptr<std::atomic<bool>>;

// One call. Made on the owner's thread with copies of its inputs; `execute` runs on the executor's thread;
// `finish` reports the result on the owner's thread. Jobs are destroyed on the owner's thread only, because
// they may hold the last reference to an engine, whose executor must not join itself.
class Job {
 public:
  explicit Job(Flag cancelled) : cancelled_(std::move(cancelled)) {}
  virtual ~Job() = default;
  virtual void execute() noexcept = 0;
  virtual void finish() noexcept = 0;
  const Flag& cancelled() const { return cancelled_; }

 private:
  Flag cancelled_;
};

class Executor;

// A thread that makes jobs, as its executors see it: the way back to it, and what stops them when it ends.
class JobOwner {
 public:
  virtual ~JobOwner() = default;
  // On the owner's thread: one more job that will be given to `job_done`, or dropped by `Executor::stop`.
  virtual void job_queued() = 0;
  // From an executor's thread; the owner's thread is to finish and destroy the job.
  virtual void job_done(std::unique_ptr<Job> job) = 0;

  // On the owner's thread: stops every executor; no other can be made.
  void close();
  bool closed() const { return closed_; }

 private:
  friend class Executor;
  std::set<Executor*> executors_;
  bool closed_ = false;
};

// One thread with a queue of jobs, first in, first out.
class Executor {
 public:
  // at_end: called once, on the owner's thread, when the last job has run.
  explicit Executor(std::shared_ptr<JobOwner> owner, std::function<void()> at_end = {});
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  void enqueue(std::unique_ptr<Job> job);  // on the owner's thread
  // Whether jobs stand behind the one that runs: one that can go on later makes way for them.
  bool waiting() const;
  // Cancels what runs, waits for it, drops the rest. Idempotent; on the owner's thread.
  void stop();

 private:
  void work();

  std::shared_ptr<JobOwner> owner_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::unique_ptr<Job>> queue_;
  Flag running_;  // the flag of the job in `execute`
  bool stopping_ = false;
  std::function<void()> at_end_;
  std::thread thread_;
};

}  // namespace allmrec
