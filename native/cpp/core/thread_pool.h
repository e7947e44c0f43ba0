#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace allmrec {

// A fixed team of threads, the caller being thread 0. Idle threads spin for a few microseconds, then block,
// so that a busy machine loses nothing to them. One `run` at a time; calls from several owners are serialised
// by the executor above it, and a task must not call `run` itself.
class ThreadPool {
 public:
  explicit ThreadPool(int threads);  // 0 = the number of hardware threads this process may use
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return size_; }

  // Calls fn(task, thread) for every task in [0, tasks); threads take the next task as they come free. What a
  // task computes must depend on its number alone, so that results are the same for any number of threads.
  // The first exception a task throws is thrown again here once all threads have stopped; the remaining tasks
  // are dropped. So they are when the caller's job is cancelled, with ErrorCode::cancelled.
  template <typename Fn>
  void run(int64_t tasks, Fn&& fn) {
    const Job job{const_cast<void*>(static_cast<const void*>(&fn)), [](void* body, int64_t task, int thread) {
                    (*static_cast<std::remove_reference_t<Fn>*>(body))(task, thread);
                  }};
    run_job(tasks, job);
  }

  // fn(begin, end, thread) over [0, n) in blocks of `grain`; runs in the caller when there is one block only.
  template <typename Fn>
  void parallel_for(int64_t n, int64_t grain, Fn&& fn) {
    if (n <= 0) return;
    if (grain < 1) grain = 1;
    if (n <= grain) {
      fn(int64_t{0}, n, 0);
      return;
    }
    run((n + grain - 1) / grain, [&](int64_t task, int thread) {
      const int64_t begin = task * grain;
      fn(begin, begin + grain < n ? begin + grain : n, thread);
    });
  }

 private:
  // A task's body, which outlives the job: nothing is copied or allocated for a job.
  struct Job {
    void* body;
    void (*call)(void* body, int64_t task, int thread);
  };
  void run_job(int64_t tasks, const Job& job);
  void worker(int thread);
  void work(int thread);
  uint64_t wait_for_job(uint64_t last);

  int size_;
  std::vector<std::thread> threads_;

  // The job. Written before `state_` opens it, read only by threads that have entered.
  Job job_{};
  const std::atomic<bool>* cancelled_ = nullptr;
  int64_t tasks_ = 0;
  alignas(64) std::atomic<int64_t> next_{0};

  // Number of the job · 2^16, whether it is open (2^15), and how many workers are in it: one word, so that a
  // worker that wakes late either enters an open job or sees it closed, and `run` waits for those inside
  // only.
  alignas(64) std::atomic<uint64_t> state_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> caller_sleeps_{false};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  std::exception_ptr error_;
};

}  // namespace allmrec
