// The thread pool and the executor, driven from many threads. Plain counters are on purpose: the thread
// sanitizer sees them where no lock or handover orders their uses.
#include "../cpp/core/executor.h"

#include <chrono>
#include <cstdint>
#include <numeric>
#include <vector>

#include "../cpp/core/thread_pool.h"
#include "check.h"

using namespace allmrec;
using namespace std::chrono_literals;

namespace {

template <typename Fn>
void in_threads(int threads, const Fn& fn) {
  std::vector<std::thread> team;
  for (int t = 0; t < threads; ++t) team.emplace_back([&fn, t] { fn(t); });
  for (std::thread& thread : team) thread.join();
}

// — thread pool —

// Every task once, and whatever it writes is seen by the caller.
void tasks_once(ThreadPool& pool, int jobs) {
  std::vector<int64_t> counts(257, 0);
  for (int job = 0; job < jobs; ++job) {
    const int64_t tasks = 1 + job % 257;
    pool.run(tasks, [&](int64_t task, int) { counts[static_cast<size_t>(task)] += task + job; });
    if (job % 50 == 0) std::this_thread::sleep_for(100us);  // workers fall asleep in between
  }
  std::vector<int64_t> expected(257, 0);
  for (int job = 0; job < jobs; ++job)
    for (int64_t task = 0; task < 1 + job % 257; ++task) expected[static_cast<size_t>(task)] += task + job;
  CHECK(counts == expected);
}

void exceptions(ThreadPool& pool) {
  for (int round = 0; round < 50; ++round) {
    CHECK_THROWS(pool.run(64,
                          [&](int64_t task, int) {
                            if (task % 7 == round % 7)
                              throw Error(ErrorCode::internal, "task " + std::to_string(task));
                          }),
                 "task ");
    std::atomic<int64_t> sum{0};
    pool.parallel_for(1000, 10, [&](int64_t begin, int64_t end, int) { sum += end - begin; });
    CHECK(sum == 1000);
  }
}

void pool_tests() {
  for (const int size : {1, 2, 3, 5, 8}) {
    ThreadPool pool(size);
    CHECK(pool.size() == size);
    tasks_once(pool, 600);
    exceptions(pool);
  }
  // Pools of several owners, made and ended while others work.
  in_threads(4, [](int t) {
    for (int round = 0; round < 20; ++round) {
      ThreadPool pool(1 + (t + round) % 4);
      if (round % 3 != 0) tasks_once(pool, 20);
    }
  });
  // Handed from one thread to another, as engines are from the thread that opens them to the executor.
  ThreadPool pool(3);
  for (int round = 0; round < 10; ++round) in_threads(1, [&](int) { tasks_once(pool, 20); });
}

// — executor —

// A thread with a queue of finished jobs, as the event loop of Node is one. Made and used on one thread.
class Loop final : public JobOwner {
 public:
  void job_queued() override { ++pending_; }
  void job_done(std::unique_ptr<Job> job) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    done_.push_back(std::move(job));
    wake_.notify_one();
  }

  // Finishes jobs until none is pending.
  void run() {
    while (pending_ > 0) finish_one();
  }
  void finish_one() {
    std::unique_ptr<Job> job;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [this] { return !done_.empty(); });
      job = std::move(done_.front());
      done_.pop_front();
    }
    --pending_;
    job->finish();
  }
  // As at the end of an environment: jobs that have run are destroyed without being finished.
  void drop() { done_.clear(); }

 private:
  int64_t pending_ = 0;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::unique_ptr<Job>> done_;
};

// What jobs did; each number belongs to one thread at a time.
struct Record {
  std::thread::id owner = std::this_thread::get_id();
  std::vector<int> executed, finished;
  int destroyed = 0;
};

template <typename Execute, typename Finish>
class TestJob final : public Job {
 public:
  TestJob(Record& record, int number, Flag flag, Execute execute, Finish finish)
      : Job(std::move(flag)),
        record_(record),
        number_(number),
        execute_(std::move(execute)),
        finish_(std::move(finish)) {}
  ~TestJob() override {
    CHECK(std::this_thread::get_id() == record_.owner);
    ++record_.destroyed;
  }
  void execute() noexcept override {
    record_.executed.push_back(number_);
    execute_(*cancelled());
  }
  void finish() noexcept override {
    CHECK(std::this_thread::get_id() == record_.owner);
    record_.finished.push_back(number_);
    finish_();
  }

 private:
  Record& record_;
  int number_;
  Execute execute_;
  Finish finish_;
};

Flag flag() {
  return std::make_shared<std::atomic<bool>>(false);
}

template <typename Execute, typename Finish>
std::unique_ptr<Job> job(Record& record, int number, Execute execute, Finish finish, Flag cancel = flag()) {
  return std::make_unique<TestJob<Execute, Finish>>(record, number, std::move(cancel), std::move(execute),
                                                    std::move(finish));
}

const auto nothing = [](const std::atomic<bool>&) {};
const auto until_cancelled = [](const std::atomic<bool>& cancelled) {
  while (!cancelled.load()) std::this_thread::sleep_for(50us);
};

std::vector<int> ascending(int n) {
  std::vector<int> numbers(static_cast<size_t>(n));
  std::iota(numbers.begin(), numbers.end(), 0);
  return numbers;
}

// Jobs of two executors of one owner, half of them queued by what finished before.
void in_order() {
  const auto loop = std::make_shared<Loop>();
  Record a, b;
  int ended = 0;
  {
    Executor first(loop, [&] { ++ended; }), second(loop, [&] { ++ended; });
    for (int n = 0; n < 200; ++n) {
      first.enqueue(job(a, n, nothing, [&, n] { second.enqueue(job(b, n, nothing, [] {})); }));
    }
    loop->run();
    CHECK(a.executed == ascending(200) && a.finished == ascending(200) && a.destroyed == 200);
    CHECK(b.executed == ascending(200) && b.finished == ascending(200) && b.destroyed == 200);
    CHECK(!first.waiting() && ended == 0);
  }
  CHECK(ended == 2);
}

// A job that goes on until others stand behind it.
void making_way() {
  const auto loop = std::make_shared<Loop>();
  Record record;
  Executor executor(loop);
  for (int n = 0; n < 20; n += 2) {
    executor.enqueue(job(
        record, n,
        [&](const std::atomic<bool>&) {
          while (!executor.waiting()) std::this_thread::yield();
        },
        [] {}));
    executor.enqueue(job(record, n + 1, nothing, [] {}));
  }
  loop->run();
  CHECK(record.finished == ascending(20));
}

// Flags set from a third thread reach jobs that run and jobs that wait.
void cancelling() {
  const auto loop = std::make_shared<Loop>();
  Record record;
  Executor executor(loop);
  std::vector<Flag> flags;
  for (int n = 0; n < 40; ++n) {
    flags.push_back(flag());
    executor.enqueue(job(
        record, n, until_cancelled, [] {}, flags.back()));
  }
  std::thread canceller([flags] {
    for (auto it = flags.rbegin(); it != flags.rend(); ++it) (*it)->store(true);
  });
  loop->run();
  canceller.join();
  CHECK(record.finished == ascending(40));
}

void stopping() {
  const auto loop = std::make_shared<Loop>();
  Record record;
  int ended = 0;
  Executor executor(loop, [&] { ++ended; });
  std::atomic<bool> began{false};
  executor.enqueue(job(
      record, 0,
      [&](const std::atomic<bool>& cancelled) {
        began = true;
        until_cancelled(cancelled);
      },
      [] {}));
  for (int n = 1; n < 10; ++n) executor.enqueue(job(record, n, nothing, [] {}));
  while (!began) std::this_thread::yield();
  executor.stop();
  CHECK(ended == 1 && record.destroyed == 9 && record.executed == ascending(1));
  CHECK(executor.waiting());
  CHECK_THROWS(executor.enqueue(job(record, 10, nothing, [] {})), "ended");
  loop->finish_one();  // what ran is still reported
  CHECK(record.finished == ascending(1) && record.destroyed == 11);
  executor.stop();
  CHECK(ended == 1);
  // At once after the first job, whichever of the two comes first.
  for (int round = 0; round < 200; ++round) {
    Record other;
    const auto own = std::make_shared<Loop>();
    {
      Executor short_lived(own);
      if (round % 2) short_lived.enqueue(job(other, 0, nothing, [] {}));
    }
    own->drop();
    CHECK(other.destroyed == round % 2);
  }
}

// What an engine is to its jobs: they hold it, and its end joins the thread that ran them.
struct Engine {
  Executor executor;
  explicit Engine(const std::shared_ptr<JobOwner>& owner) : executor(owner) {}
};

void last_reference() {
  const auto loop = std::make_shared<Loop>();
  Record record;
  for (int round = 0; round < 50; ++round) {
    auto engine = std::make_shared<Engine>(loop);
    const std::weak_ptr<Engine> alive = engine;
    auto* executor = &engine->executor;
    for (int n = 0; n < 3; ++n)
      executor->enqueue(job(
          record, n, [engine](const std::atomic<bool>&) {}, [] {}));
    engine.reset();
    loop->run();
    CHECK(alive.expired());
  }
  CHECK(record.destroyed == 150);
}

// An owner that ends while jobs run and wait, each of which may hold the last reference to an engine.
void closing() {
  for (int round = 0; round < 50; ++round) {
    Record records[3];
    const auto loop = std::make_shared<Loop>();
    std::vector<std::weak_ptr<Engine>> engines;
    for (Record& record : records) {
      const auto engine = std::make_shared<Engine>(loop), other = std::make_shared<Engine>(loop);
      engines.push_back(engine);
      engines.push_back(other);
      for (int n = 0; n < 3; ++n)
        engine->executor.enqueue(job(
            record, n, [engine, other](const std::atomic<bool>& c) { until_cancelled(c); }, [] {}));
    }
    if (round % 2) std::this_thread::sleep_for(1ms);
    loop->close();
    CHECK(loop->closed());
    CHECK_THROWS(Engine(loop), "ended");
    loop->drop();
    for (const auto& engine : engines) CHECK(engine.expired());
    for (const Record& record : records) CHECK(record.destroyed == 3 && record.finished.empty());
  }
}

}  // namespace

int main() {
  pool_tests();
  // The main thread and two workers at once, as environments of Node.
  const auto executors = [](int) {
    in_order();
    making_way();
    cancelling();
    stopping();
    last_reference();
    closing();
  };
  executors(0);
  in_threads(3, executors);
  return test::report();
}
