// A job that is cancelled: in the thread pool, between two ops of a device, and where it must not be.
#include "../cpp/core/cancellation.h"

#include <atomic>

#include "../cpp/backend/device.h"
#include "../cpp/core/thread_pool.h"
#include "check.h"

namespace allmrec::test {
namespace {

constexpr int64_t kTasks = 1000;

void pool_tests(int threads) {
  ThreadPool pool(threads);
  std::atomic<bool> flag{false};
  std::atomic<int64_t> done{0};
  const auto run = [&](int64_t cancel_at) {
    done = 0;
    flag = false;
    const Cancellation scope(&flag);
    pool.run(kTasks, [&](int64_t task, int) {
      ++done;
      if (task == cancel_at) flag = true;
    });
  };
  run(-1);
  CHECK(done == kTasks);
  CHECK_THROWS(run(10), "cancelled");
  CHECK(done < kTasks);
  // The pool goes on afterwards, and a flag means nothing outside its scope.
  flag = true;
  done = 0;
  pool.parallel_for(kTasks, 7, [&](int64_t begin, int64_t end, int) { done += end - begin; });
  CHECK(done == kTasks);
  {
    const Cancellation scope(&flag);
    const Cancellation whole(nullptr);
    done = 0;
    pool.run(kTasks, [&](int64_t, int) { ++done; });
    CHECK(done == kTasks);
  }
}

void device_tests() {
  const std::shared_ptr<Device> device = Device::open("cpu", 2);
  constexpr int64_t kNumbers = 1 << 16;
  const DeviceBuffer x(device, kNumbers * sizeof(float)), y(device, kNumbers * sizeof(float));
  device->fill(x.as<float>(), kNumbers, 1.0f);
  const auto copy = [&] { device->cast({kNumbers, x.as<float>(), ALLMREC_F32, y.as<float>(), ALLMREC_F32}); };
  copy();
  std::atomic<bool> flag{true};
  float first = 0;
  {
    const Cancellation scope(&flag);
    CHECK_THROWS(copy(), "cancelled");
    CHECK_THROWS(device->download(&first, y.as<float>(), sizeof first), "cancelled");
    CHECK_THROWS(device->upload(y.as<float>(), &first, sizeof first), "cancelled");
  }
  copy();
  device->download(&first, y.as<float>(), sizeof first);
  CHECK(first == 1.0f);
}

}  // namespace
}  // namespace allmrec::test

int main() {
  for (const int threads : {1, 4}) allmrec::test::pool_tests(threads);
  allmrec::test::device_tests();
  return allmrec::test::report();
}
