// One planted fault of every kind. Each has to be named: its kind, its kernel and its lines.

#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "emulator_test.h"

namespace allmrec::test {

namespace {

using cuda::launch;
constexpr unsigned kAll = cuda::kAllLanes;

std::string at(int line) {
  return "emulator_test_faults.cpp:" + std::to_string(line);
}

struct Expected {
  const char* kind;
  std::vector<int> lines;
};

// The launch has to end with a fault of the kind that names the kernel and every line.
template <typename... Params, typename... Args>
void expect_fault(const char* name, const Expected& expected, void (*kernel)(Params...), dim3 grid,
                  dim3 block, size_t shared, Args... args) {
  emulator::set_quiet(true);
  in_every_schedule([&] {
    launch(kernel, grid, block, shared, nullptr, args...);
    const cudaError_t error = cudaDeviceSynchronize();
    const std::vector<emulator::Fault> faults = emulator::faults();
    bool found = false;
    std::string all;
    for (const emulator::Fault& fault : faults) {
      bool right = fault.kind == expected.kind && fault.kernel == name;
      for (const int line : expected.lines) right = right && fault.text.find(at(line)) != std::string::npos;
      found = found || right;
      all += "\n  " + fault.text;
    }
    CHECK_WHAT(found, std::string(name) + " should fault with \"" + expected.kind + "\", got" + all);
    CHECK(error == cudaErrorLaunchFailure && cudaGetLastError() == cudaErrorLaunchFailure);
    void* p = nullptr;
    CHECK(cudaMalloc(&p, 4) == cudaErrorLaunchFailure);
    emulator::clear_faults();
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
  });
  emulator::set_quiet(false);
}

constexpr int kLineOfTwoBarriers = __LINE__ + 4;
__global__ void two_barriers(float* out) {
  out[threadIdx.x] = 0;
  if (threadIdx.x < 40) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

constexpr int kLineOfBarrierInBranch = __LINE__ + 2;
__global__ void barrier_in_branch(float* out) {
  if (threadIdx.x < 32) __syncthreads();
  out[threadIdx.x] = 0;
}

constexpr int kLineOfBarrierAgainstShuffle = __LINE__ + 3;
__global__ void barrier_against_shuffle(int* out) {
  if (threadIdx.x < 16) {
    __syncthreads();
  } else {
    out[threadIdx.x] = __shfl_xor_sync(kAll, 1, 1);
  }
}

constexpr int kLineOfAbsentLane = __LINE__ + 3;
__global__ void absent_lane(int* out) {
  if (threadIdx.x >= 20) return;
  out[threadIdx.x] = __shfl_down_sync(kAll, static_cast<int>(threadIdx.x), 1);
}

constexpr int kLineOfOwnMask = __LINE__ + 2;
__global__ void not_in_own_mask(int* out) {
  out[threadIdx.x] = __any_sync(0xffffu, 1);
}

constexpr int kLineOfTwoOperations = __LINE__ + 3;
__global__ void two_operations(unsigned* out) {
  if (threadIdx.x % 2 == 0) {
    out[threadIdx.x] = __ballot_sync(kAll, 1);
  } else {
    out[threadIdx.x] = static_cast<unsigned>(__any_sync(kAll, 1));
  }
}

constexpr int kLineOfMatrixOfSome = __LINE__ + 4;
__global__ void matrix_of_some(float* out) {
  float d[4] = {};
  const uint32_t a[4] = {}, b[2] = {};
  if (threadIdx.x < 31) cuda::mma_m16n8k16<__half>(d, a, b);
  out[threadIdx.x] = d[0];
}

constexpr int kLineOfMisalignedCopy = __LINE__ + 3;
__global__ void misaligned_copy(const float* in) {
  auto* const tile = static_cast<float*>(cuda::dynamic_shared());
  cuda::cp_async_16(tile + 1, in);
  cuda::cp_async_commit();
  cuda::cp_async_wait<0>();
}

constexpr int kLineOfTrap = __LINE__ + 2;
__global__ void trapping() {
  if (threadIdx.x == 3) __trap();
}

void test_synchronisation() {
  const DeviceArray<float> out(64);
  const DeviceArray<int> integers(64);
  const DeviceArray<unsigned> bits(64);
  expect_fault("two_barriers", {"mismatched barriers", {kLineOfTwoBarriers, kLineOfTwoBarriers + 2}},
               two_barriers, 1, 64, 0, out.get());
  expect_fault("barrier_in_branch", {"threads exited before a barrier", {kLineOfBarrierInBranch}},
               barrier_in_branch, 1, 64, 0, out.get());
  expect_fault("barrier_against_shuffle",
               {"deadlock", {kLineOfBarrierAgainstShuffle, kLineOfBarrierAgainstShuffle + 2}},
               barrier_against_shuffle, 1, 32, 0, integers.get());
  expect_fault("absent_lane", {"absent lane", {kLineOfAbsentLane}}, absent_lane, 1, 32, 0, integers.get());
  expect_fault("not_in_own_mask", {"absent lane", {kLineOfOwnMask}}, not_in_own_mask, 1, 32, 0,
               integers.get());
  expect_fault("two_operations",
               {"mismatched warp operations", {kLineOfTwoOperations, kLineOfTwoOperations + 2}},
               two_operations, 1, 32, 0, bits.get());
  expect_fault("matrix_of_some", {"absent lane", {kLineOfMatrixOfSome}}, matrix_of_some, 1, 32, 0, out.get());
  expect_fault("misaligned_copy", {"misaligned address", {kLineOfMisalignedCopy}}, misaligned_copy, 1, 1, 64,
               out.get());
  expect_fault("trapping", {"trap", {kLineOfTrap}}, trapping, 1, 32, 0);
}

constexpr int kLineOfMissingBarrier = __LINE__ + 4;
__global__ void missing_barrier(int* out) {
  __shared__ int value[64];
  const unsigned i = threadIdx.x;
  value[i] = static_cast<int>(i);
  out[i] = value[63 - i];
}

constexpr int kLineOfMissingSyncwarp = __LINE__ + 4;
__global__ void missing_syncwarp(int* out) {
  __shared__ int value[32];
  const unsigned i = threadIdx.x;
  value[i] = static_cast<int>(i);
  out[i] = value[31 - i];
}

constexpr int kLineOfMissingWait = __LINE__ + 3;
__global__ void missing_wait(const int* in, int* out) {
  auto* const tile = static_cast<int*>(cuda::dynamic_shared());
  cuda::cp_async_16(tile + 4 * threadIdx.x, in + 4 * threadIdx.x);
  cuda::cp_async_commit();
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x];
}

constexpr int kLineOfCrossBlockWrite = __LINE__ + 2;
__global__ void cross_block_write(int* out) {
  out[threadIdx.x + 16 * blockIdx.x] = static_cast<int>(blockIdx.x);
}

constexpr int kLineOfCrossBlockRead = __LINE__ + 3;
__global__ void cross_block_read(int* out) {
  const unsigned i = threadIdx.x + 32 * blockIdx.x;
  out[i] = out[i ^ 32] + 1;
}

constexpr int kLineOfGlobalRace = __LINE__ + 2;
__global__ void global_race(int* out) {
  out[threadIdx.x / 64] = 1;
}

constexpr int kLineOfUnwritten = __LINE__ + 5;
__global__ void unwritten(int* out) {
  __shared__ int value[64];
  if (threadIdx.x != 7) value[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = value[threadIdx.x];
}

constexpr int kLineOfHostMemory = __LINE__ + 2;
__global__ void host_memory(const int* in, int* out) {
  out[threadIdx.x] = in[threadIdx.x];
}

template <typename Fn>
bool differs_somewhere(const DeviceArray<int>& out, Fn expected, void (*kernel)(int*), unsigned threads) {
  bool differs = false;
  in_every_schedule([&] {
    launch(kernel, 1, threads, 0, nullptr, out.get());
    const std::vector<int> got = out.values();
    for (int i = 0; i < static_cast<int>(threads); ++i)
      differs = differs || got[static_cast<size_t>(i)] != expected(i);
  });
  return differs;
}

// Without the race build a missing barrier is a wrong result in some order of threads.
void test_wrong_results() {
  const DeviceArray<int> in(std::vector<int>(128, 5)), out(64);
  CHECK(differs_somewhere(
      out, [](int i) { return 63 - i; }, missing_barrier, 64));
  CHECK(differs_somewhere(
      out, [](int i) { return 31 - i; }, missing_syncwarp, 32));
  launch(missing_wait, 1, 32, 512, nullptr, in.get(), out.get());
  CHECK(out.values()[0] == -1);
}

void test_races() {
  const DeviceArray<int> in(std::vector<int>(128, 5)), out(64);
  const auto both = [](int line) { return std::vector<int>{line, line + 1}; };
  expect_fault("missing_barrier", {"shared memory race", both(kLineOfMissingBarrier)}, missing_barrier, 1, 64,
               0, out.get());
  expect_fault("missing_syncwarp", {"shared memory race within a warp", both(kLineOfMissingSyncwarp)},
               missing_syncwarp, 1, 32, 0, out.get());
  expect_fault("missing_wait",
               {"access before the asynchronous copy landed", {kLineOfMissingWait, kLineOfMissingWait + 3}},
               missing_wait, 1, 32, 512, in.get(), out.get());
  expect_fault("cross_block_write", {"race between blocks", {kLineOfCrossBlockWrite}}, cross_block_write, 2,
               32, 0, out.get());
  expect_fault("cross_block_read", {"race between blocks", {kLineOfCrossBlockRead}}, cross_block_read, 2, 32,
               0, out.get());
  expect_fault("global_race", {"global memory race", {kLineOfGlobalRace}}, global_race, 1, 64, 0, out.get());
  expect_fault("unwritten", {"read of never-written shared memory", {kLineOfUnwritten}}, unwritten, 1, 64, 0,
               out.get());
  const std::vector<int> host(64);
  expect_fault("host_memory", {"access to host memory", {kLineOfHostMemory}}, host_memory, 1, 32, 0,
               host.data(), out.get());
}

// What looks like a race and is none.
__global__ void last_block_sums(int* partial, unsigned* count, int* out) {
  __shared__ bool is_last;
  partial[blockIdx.x * blockDim.x + threadIdx.x] = static_cast<int>(threadIdx.x);
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    is_last = atomicAdd(count, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (!is_last) return;
  int sum = 0;
  for (unsigned i = 0; i < gridDim.x; ++i) sum += partial[i * blockDim.x + threadIdx.x];
  out[threadIdx.x] = sum;
}

// Neighbours write halves of one word, and bytes of one.
__global__ void small_neighbours(int* out) {
  __shared__ unsigned short halves[64];
  __shared__ unsigned char bytes[64];
  halves[threadIdx.x] = static_cast<unsigned short>(threadIdx.x);
  bytes[threadIdx.x] = static_cast<unsigned char>(threadIdx.x);
  __syncthreads();
  out[threadIdx.x] = halves[63 - threadIdx.x] + bytes[63 - threadIdx.x];
}

// A shuffle, a ballot and a partial __syncwarp order what their lanes did before.
__global__ void ordered_by_warp(int* out) {
  __shared__ int value[32];
  const unsigned i = threadIdx.x;
  value[i] = 1;
  const int one = __shfl_xor_sync(kAll, 1, 1);
  int sum = value[i ^ 1] + one;
  __ballot_sync(kAll, 1);
  value[i] = 2;
  if (i < 16) {
    __syncwarp(0xffffu);
    sum += value[i ^ 2];
  }
  __syncwarp();
  out[i] = sum + value[i ^ 16];
}

void test_no_false_alarm() {
  in_every_schedule([] {
    const DeviceArray<int> partial(256), out(64);
    const DeviceArray<unsigned> count(std::vector<unsigned>{0});
    launch(last_block_sums, 4, 64, 0, nullptr, partial.get(), count.get(), out.get());
    CHECK(out.values()[5] == 20);
    launch(small_neighbours, 1, 64, 0, nullptr, out.get());
    CHECK(out.values()[0] == 126);
    launch(ordered_by_warp, 1, 32, 0, nullptr, out.get());
    CHECK(out.values()[0] == 6 && out.values()[31] == 4);
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
  });
  CHECK(emulator::faults().empty());
}

__global__ void tile_sum(const int* in, int* out) {
  __shared__ int tile[64];
  tile[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = tile[63 - threadIdx.x];
}
constexpr int kLineOfTileBarrier = __LINE__ - 3;

// A barrier that is left out shows, and nothing hangs.
void test_skipped_site() {
  std::vector<int> values(64);
  for (size_t i = 0; i < 64; ++i) values[i] = static_cast<int>(i);
  const DeviceArray<int> in(values), out(64);
  const auto is_right = [&] {
    bool right = true;
    in_every_schedule([&] {
      launch(tile_sum, 1, 64, 0, nullptr, in.get(), out.get());
      const std::vector<int> got =
          cudaDeviceSynchronize() == cudaSuccess ? out.values() : std::vector<int>(64);
      for (int i = 0; i < 64; ++i) right = right && got[static_cast<size_t>(i)] == 63 - i;
    });
    return right;
  };
  CHECK(is_right());
  emulator::set_quiet(true);
  emulator::skip_site("other_file.cpp:" + std::to_string(kLineOfTileBarrier));
  CHECK(is_right());
  emulator::skip_site(at(kLineOfTileBarrier));
  CHECK(!is_right());
  CHECK(emulator::faults().empty() == !is_build("race"));
  emulator::skip_site("");
  emulator::clear_faults();
  CHECK(is_right());
  emulator::set_quiet(false);
}

__global__ void beyond_global(float* out, unsigned offset) {
  out[threadIdx.x + offset] = 1;
}
__global__ void beyond_dynamic(float* out, unsigned offset) {
  auto* const tile = static_cast<float*>(cuda::dynamic_shared());
  tile[threadIdx.x + offset] = 1;
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x];
}
template <typename T>
__global__ void beyond_static(T* out, unsigned offset) {
  __shared__ T tile[64];
  T* const moved = tile + offset;  // no array bound to check here
  moved[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x];
}
__global__ void beyond_index(float* out, unsigned offset) {
  __shared__ float tile[64];
  tile[threadIdx.x + offset] = 1;
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x];
}
__global__ void misaligned_vector(float* out, unsigned offset) {
  *reinterpret_cast<float4*>(out + offset) = make_float4(1, 2, 3, 4);
}
__global__ void far_away(float* out, unsigned offset) {
  out[(static_cast<size_t>(offset) << 44) + threadIdx.x] = 1;
}

// What the kernel's process prints before it ends; empty when it ends well.
std::string last_words(void (*kernel)(float*, unsigned), unsigned threads, size_t shared, unsigned offset) {
  std::fflush(stdout);
  int ends[2];
  if (pipe(ends) != 0) return "";
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], 2);
    close(ends[0]);
    const DeviceArray<float> out(64);
    launch(kernel, 1, threads, shared, nullptr, out.get(), offset);
    _exit(cudaDeviceSynchronize() == cudaSuccess ? 0 : 3);
  }
  close(ends[1]);
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) > 0;)
    text.append(buffer, static_cast<size_t>(n));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? "" : text;
}

bool says(const std::string& text, const char* what, const char* kernel) {
  const bool right = text.find(what) != std::string::npos && text.find(kernel) != std::string::npos;
  if (!right) std::printf("%s: got \"%s\"\n", kernel, text.substr(0, 2000).c_str());
  return right;
}

void test_bounds() {
  CHECK(last_words(beyond_global, 64, 0, 0).empty());
  CHECK(last_words(beyond_dynamic, 64, 256, 0).empty());
  CHECK(last_words(beyond_index, 64, 0, 0).empty());
  if (is_build("asan")) {
    CHECK(
        says(last_words(beyond_global, 64, 0, 1), "heap-buffer-overflow", "in beyond_global, block (0,0,0)"));
    CHECK(says(last_words(beyond_dynamic, 64, 256, 1), "heap-buffer-overflow",
               "in beyond_dynamic, block (0,0,0)"));
    CHECK(says(last_words(beyond_static<float>, 64, 0, 1), "insufficient space for an object",
               "emulator_test_faults.cpp"));
    CHECK(says(last_words(beyond_index, 64, 0, 1), "out of bounds", "emulator_test_faults.cpp"));
    CHECK(says(last_words(misaligned_vector, 1, 0, 1), "misaligned address", "emulator_test_faults.cpp"));
  } else {
    CHECK(says(last_words(beyond_dynamic, 64, 256, 1), "out of bounds", "beyond_dynamic"));
    CHECK(says(last_words(far_away, 1, 0, 1), "illegal or misaligned address", "in far_away, block (0,0,0)"));
  }
}

}  // namespace

void test_faults() {
  test_no_false_alarm();
  test_synchronisation();
  if (is_build("race")) {
    test_races();
  } else {
    test_wrong_results();
  }
  test_skipped_site();
  test_bounds();
  CHECK(cudaGetLastError() == cudaSuccess);
}

}  // namespace allmrec::test
