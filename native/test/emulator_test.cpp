#include "emulator_test.h"

#include <chrono>
#include <cstdio>

namespace allmrec::test {

namespace {

__global__ void barrier_kernel(int rounds, float* out) {
  __shared__ float value[2][256];
  const int i = static_cast<int>(threadIdx.x);
  value[0][i] = static_cast<float>(i);
  __syncthreads();
  for (int round = 0; round < rounds; ++round) {
    value[(round + 1) % 2][i] = value[round % 2][(i + 1) % 256];
    __syncthreads();
  }
  out[blockIdx.x * 256 + threadIdx.x] = value[rounds % 2][i];
}

// Prints what the emulator does in a second here; its limit is far below, for a loaded machine.
void test_speed() {
  constexpr int kRounds = 200, kBlocks = 20;
  const DeviceArray<float> out(256 * kBlocks);
  const auto begin = std::chrono::steady_clock::now();
  const emulator::Statistics before = emulator::statistics();
  cuda::launch(barrier_kernel, kBlocks, 256, 0, nullptr, kRounds, out.get());
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  const auto switches = static_cast<double>(emulator::statistics().switches - before.switches);
  std::printf("%s build: %.1f million switches of threads a second\n", emulator::build_kind(),
              switches / seconds / 1e6);
  CHECK(switches >= 256.0 * kRounds * kBlocks);
  CHECK(out.values()[0] == 200);
}

}  // namespace

}  // namespace allmrec::test

int main() {
  allmrec::test::test_primitives();
  allmrec::test::test_faults();
  allmrec::test::test_runtime();
  allmrec::test::test_speed();
  return allmrec::test::report();
}
