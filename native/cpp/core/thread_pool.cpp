#include "thread_pool.h"

#include <chrono>
#include <new>
#include <system_error>

#if defined(__linux__)
#include <sched.h>
#endif

#include "cancellation.h"

namespace allmrec {

namespace {

constexpr uint64_t kJob = uint64_t{1} << 16;
constexpr uint64_t kOpen = uint64_t{1} << 15;
constexpr uint64_t kInside = kOpen - 1;

// Longer than the gap between two ops of a training step, far shorter than a time slice of the scheduler.
constexpr auto kSpin = std::chrono::microseconds(20);

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// True as soon as `ready` is, false when it still is not after kSpin.
template <typename Ready>
bool spin(Ready ready) {
  if (ready()) return true;
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 32; ++i) {
      pause();
      if (ready()) return true;
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

int hardware_threads() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
#endif
  const int count = static_cast<int>(std::thread::hardware_concurrency());
  return count > 0 ? count : 1;
}

}  // namespace

ThreadPool::ThreadPool(int threads) : size_(threads > 0 ? threads : hardware_threads()) {
  threads_.reserve(static_cast<size_t>(size_ - 1));
  try {
    for (int i = 1; i < size_; ++i) threads_.emplace_back([this, i] { worker(i); });
  } catch (const std::system_error&) {
    size_ = static_cast<int>(threads_.size()) + 1;  // the system has no more threads to give
  } catch (const std::bad_alloc&) {
    size_ = static_cast<int>(threads_.size()) + 1;  // nor memory for one
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (auto& thread : threads_) thread.join();
}

void ThreadPool::run_job(int64_t tasks, const Job& job) {
  if (tasks <= 0) return;
  if (tasks == 1 || size_ == 1) {
    for (int64_t task = 0; task < tasks; ++task) {
      if (task > 0) Cancellation::poll();
      job.call(job.body, task, 0);
    }
    return;
  }
  job_ = job;
  cancelled_ = Cancellation::flag();
  tasks_ = tasks;
  next_.store(0, std::memory_order_relaxed);
  state_.store((state_.load(std::memory_order_relaxed) / kJob + 1) * kJob | kOpen);
  if (sleepers_.load() > 0) {
    { std::lock_guard<std::mutex> lock(mutex_); }  // who is about to sleep has looked before or waits by now
    wake_.notify_all();
  }
  work(0);
  state_.fetch_and(~kOpen);
  if (!spin([this] { return (state_.load(std::memory_order_acquire) & kInside) == 0; })) {
    std::unique_lock<std::mutex> lock(mutex_);
    caller_sleeps_ = true;
    done_.wait(lock, [this] { return (state_.load() & kInside) == 0; });
    caller_sleeps_ = false;
  }
  if (error_) {
    std::exception_ptr error;
    std::swap(error, error_);
    std::rethrow_exception(error);
  }
}

void ThreadPool::work(int thread) {
  for (;;) {
    const int64_t task = next_.fetch_add(1, std::memory_order_relaxed);
    if (task >= tasks_) return;
    try {
      Cancellation::poll(cancelled_);
      job_.call(job_.body, task, thread);
    } catch (...) {
      next_.store(tasks_, std::memory_order_relaxed);
      std::lock_guard<std::mutex> lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }
}

// The number of the first open job that is not `last`, or `last` when the pool stops.
uint64_t ThreadPool::wait_for_job(uint64_t last) {
  const auto fresh = [&] {
    const uint64_t state = state_.load();
    return (state & kOpen) && state / kJob != last;
  };
  if (!spin([&] { return fresh() || stop_.load(std::memory_order_relaxed); })) {
    std::unique_lock<std::mutex> lock(mutex_);
    sleepers_.fetch_add(1);
    wake_.wait(lock, [&] { return fresh() || stop_.load(); });
    sleepers_.fetch_sub(1);
  }
  return stop_.load() ? last : state_.load() / kJob;
}

void ThreadPool::worker(int thread) {
  uint64_t last = 0;
  for (;;) {
    const uint64_t job = wait_for_job(last);
    if (job == last) {
      if (stop_.load()) return;
      continue;
    }
    uint64_t state = state_.load();
    bool entered = false;
    while ((state & kOpen) && !(entered = state_.compare_exchange_weak(state, state + 1))) {
    }
    if (!entered) continue;
    last = state / kJob;
    work(thread);
    if ((state_.fetch_sub(1) & kInside) == 1 && caller_sleeps_.load()) {
      std::lock_guard<std::mutex> lock(mutex_);
      done_.notify_one();
    }
  }
}

}  // namespace allmrec
