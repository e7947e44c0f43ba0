// What kernels get from the emulator: coordinates, barriers, warp operations, atomics, matrix fragments,
// asynchronous copies, 16-bit floats, arithmetic.

#include <cmath>
#include <cstring>
#include <random>

#include "../cpp/io/float_bits.h"
#include "emulator_test.h"

namespace allmrec::test {

namespace {

using cuda::launch;
constexpr unsigned kAll = cuda::kAllLanes;

__global__ void coordinates_kernel(int* out) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] =
      static_cast<int>(threadIdx.x + 10 * threadIdx.y + 100 * threadIdx.z + 1000 * blockIdx.x +
                       10000 * blockIdx.y + 100000 * blockIdx.z);
}

void test_coordinates() {
  in_every_schedule([] {
    const DeviceArray<int> out(2 * 3 * 2 * 5 * 4 * 3);
    launch(coordinates_kernel, dim3(2, 3, 2), dim3(5, 4, 3), 0, nullptr, out.get());
    const std::vector<int> got = out.values();
    size_t i = 0;
    bool right = true;
    for (int block = 0; block < 12; ++block) {
      for (int thread = 0; thread < 60; ++thread)
        right = right && got[i++] == thread % 5 + 10 * (thread / 5 % 4) + 100 * (thread / 20) +
                                         1000 * (block % 2) + 10000 * (block / 2 % 3) + 100000 * (block / 6);
    }
    CHECK(right);
  });
}

template <typename T>
__global__ void shuffle_kernel(T* out) {
  const int lane = static_cast<int>(threadIdx.x);
  const T own = static_cast<T>(100 + lane);
  out[lane] = __shfl_sync(kAll, own, 5);
  out[32 + lane] = __shfl_sync(kAll, own, lane + 1, 8);
  out[64 + lane] = __shfl_up_sync(kAll, own, 3);
  out[96 + lane] = __shfl_up_sync(kAll, own, 1, 4);
  out[128 + lane] = __shfl_down_sync(kAll, own, 3);
  out[160 + lane] = __shfl_down_sync(kAll, own, 2, 16);
  out[192 + lane] = __shfl_xor_sync(kAll, own, 16);
  out[224 + lane] = __shfl_xor_sync(kAll, own, 1, 2);
  // Two groups of one warp, each with its own mask and count of operations.
  if (lane < 12) {
    out[256 + lane] = __shfl_sync(0xfffu, own, 11);
  } else {
    T sum = own;
    for (int i = 0; i < 3; ++i) sum = __shfl_sync(0xfffff000u, own, 31 - i);
    out[256 + lane] = sum;
  }
}

template <typename T>
void test_shuffle() {
  const DeviceArray<T> out(288);
  launch(shuffle_kernel<T>, 1, 32, 0, nullptr, out.get());
  const std::vector<T> got = out.values();
  const auto source = [](int test, int lane) {
    switch (test) {
      case 0:
        return 5;
      case 1:
        return lane / 8 * 8 + (lane + 1) % 8;
      case 2:
        return lane < 3 ? lane : lane - 3;
      case 3:
        return lane % 4 < 1 ? lane : lane - 1;
      case 4:
        return lane > 28 ? lane : lane + 3;
      case 5:
        return lane % 16 > 13 ? lane : lane + 2;
      case 6:
        return lane ^ 16;
      case 7:
        return lane ^ 1;
      default:
        return lane < 12 ? 11 : 29;
    }
  };
  for (int test = 0; test < 9; ++test) {
    bool right = true;
    for (int lane = 0; lane < 32; ++lane)
      right = right && got[static_cast<size_t>(test * 32 + lane)] == static_cast<T>(100 + source(test, lane));
    CHECK_WHAT(right, "shuffle " + std::to_string(test) + " of " + std::to_string(sizeof(T)) + " bytes");
  }
}

__global__ void vote_kernel(unsigned* out) {
  const unsigned lane = threadIdx.x;
  if (lane >= 30) return;  // exited lanes no longer count
  out[lane] = __ballot_sync(kAll, lane % 3 == 0);
  out[32 + lane] = static_cast<unsigned>(__any_sync(kAll, lane == 7)) * 2 +
                   static_cast<unsigned>(__all_sync(kAll, lane < 30));
  out[64 + lane] =
      static_cast<unsigned>(__any_sync(kAll, 0)) * 2 + static_cast<unsigned>(__all_sync(kAll, lane != 3));
  out[96 + lane] = __match_any_sync(kAll, lane % 4);
  out[128 + lane] = __reduce_add_sync(kAll, lane);
  out[160 + lane] = static_cast<unsigned>(__reduce_min_sync(kAll, static_cast<int>(lane) - 10));
  out[192 + lane] = __reduce_max_sync(kAll, lane);
  out[224 + lane] = __reduce_or_sync(kAll, 1u << lane);
  out[256 + lane] = lane % 2 ? __ballot_sync(0x2aaaaaaau, 1) : __ballot_sync(0x15555555u, lane > 10);
}

void test_votes() {
  const DeviceArray<unsigned> out(288);
  launch(vote_kernel, 1, 32, 0, nullptr, out.get());
  const std::vector<unsigned> got = out.values();
  unsigned thirds = 0, upper = 0;
  for (unsigned lane = 0; lane < 30; ++lane) {
    thirds |= lane % 3 == 0 ? 1u << lane : 0;
    upper |= lane % 2 == 0 && lane > 10 ? 1u << lane : 0;
  }
  bool right = true;
  for (unsigned lane = 0; lane < 30; ++lane) {
    const unsigned expected[] = {thirds,
                                 3,
                                 0,
                                 0x11111111u << lane % 4 & 0x3fffffffu,
                                 435,
                                 static_cast<unsigned>(-10),
                                 29,
                                 0x3fffffffu,
                                 lane % 2 ? 0x2aaaaaaau : upper};
    for (unsigned test = 0; test < 9; ++test) {
      if (got[test * 32 + lane] == expected[test]) continue;
      right = false;
      CHECK_WHAT(false, "vote " + std::to_string(test) + ", lane " + std::to_string(lane) + ": " +
                            std::to_string(got[test * 32 + lane]));
    }
  }
  CHECK(right);
}

__global__ void block_kernel(int* out) {
  __shared__ int value[96];
  const int i = static_cast<int>(threadIdx.x);
  value[i] = i * i;
  __syncthreads();
  out[i] = value[95 - i];
  out[96 + i] = __syncthreads_count(i % 5 == 0);
  out[192 + i] = __syncthreads_or(i == 94) * 2 + __syncthreads_and(i != 94);
  value[i] = static_cast<int>(__activemask());
  __syncwarp();
  out[288 + i] = value[i] >> i % 32 & 1;
}

void test_block() {
  const DeviceArray<int> out(384);
  launch(block_kernel, 1, 96, 0, nullptr, out.get());
  const std::vector<int> got = out.values();
  bool right = true;
  for (int i = 0; i < 96; ++i) {
    const auto at = static_cast<size_t>(i);
    right = right && got[at] == (95 - i) * (95 - i) && got[96 + at] == 20 && got[192 + at] == 2 &&
            got[288 + at] == 1;
  }
  CHECK(right);
}

struct AtomicResults {
  int sum, low, high, bits, swapped;
  unsigned unsigned_sum;
  unsigned long long wide;
  float real;
  double precise;
};

__global__ void atomic_kernel(AtomicResults* out, int* order) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  order[atomicAdd(&out->sum, 1)] = i;
  atomicMin(&out->low, -i);
  atomicMax(&out->high, i);
  atomicOr(&out->bits, 1 << i % 30);
  atomicAdd(&out->unsigned_sum, 3u);
  atomicAdd(&out->wide, 1ull << 33);
  atomicAdd(&out->real, 0.5f);
  atomicAdd(&out->precise, 0.25);
  for (int seen = atomicCAS(&out->swapped, 0, 0), other;
       (other = atomicCAS(&out->swapped, seen, seen + 2)) != seen;)
    seen = other;
}

void test_atomics() {
  const DeviceArray<AtomicResults> out(std::vector<AtomicResults>{{}});
  const DeviceArray<int> order(300);
  launch(atomic_kernel, 3, 100, 0, nullptr, out.get(), order.get());
  const AtomicResults got = out.values()[0];
  CHECK(got.sum == 300 && got.low == -299 && got.high == 299 && got.bits == (1 << 30) - 1 &&
        got.swapped == 600);
  CHECK(got.unsigned_sum == 900 && got.wide == 300ull << 33 && got.real == 150 && got.precise == 75);
  long total = 0;
  for (const int i : order.values()) total += i;
  CHECK(total == 299 * 300 / 2);
}

template <typename T>
__global__ void matrix_kernel(const T* a, const T* b, float* d) {
  __shared__ __align__(16) T tile_a[16 * 16];
  __shared__ __align__(16) T tile_b[16 * 8];
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 256; i += 32) tile_a[i] = a[i];
  for (int i = lane; i < 128; i += 32) tile_b[i] = b[i];
  __syncwarp();
  uint32_t fragment_a[4], fragment_b[2];
  cuda::ldmatrix_x4(fragment_a, tile_a + lane % 16 * 16 + lane / 16 * 8);
  cuda::ldmatrix_x2_trans(fragment_b, tile_b + lane % 16 * 8);
  float sum[4];
  const int g = lane / 4, t = lane % 4;
  for (int i = 0; i < 4; ++i) sum[i] = d[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
  cuda::mma_m16n8k16<T>(sum, fragment_a, fragment_b);
  for (int i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = sum[i];
}

template <typename T>
void test_matrix(T (*narrow)(float), float (*widen)(T)) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::vector<T> a(256), b(128);
  std::vector<float> d(128), expected(128);
  for (T& x : a) x = narrow(normal(random));
  for (T& x : b) x = narrow(normal(random));
  for (float& x : d) x = normal(random);
  for (size_t row = 0; row < 16; ++row) {
    for (size_t column = 0; column < 8; ++column) {
      double sum = d[row * 8 + column];
      for (size_t k = 0; k < 16; ++k)
        sum += static_cast<double>(widen(a[row * 16 + k])) * widen(b[k * 8 + column]);
      expected[row * 8 + column] = static_cast<float>(sum);
    }
  }
  const DeviceArray<T> device_a(a), device_b(b);
  const DeviceArray<float> device_d(d);
  launch(matrix_kernel<T>, 1, 32, 0, nullptr, device_a.get(), device_b.get(), device_d.get());
  const std::vector<float> got = device_d.values();
  float worst = 0;
  for (size_t i = 0; i < 128; ++i) worst = std::fmax(worst, std::fabs(got[i] - expected[i]));
  CHECK_WHAT(worst < 1e-4f, "mma is off by " + std::to_string(worst));
}

// Element (row, column) of matrix m is m * 64 + row * 8 + column.
__global__ void ldmatrix_kernel(uint32_t* out) {
  __shared__ __align__(16) uint16_t matrices[256];
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 256; i += 32) matrices[i] = static_cast<uint16_t>(i);
  __syncwarp();
  uint32_t plain[4], transposed[4], two[2], two_transposed[2];
  cuda::ldmatrix_x4(plain, matrices + lane * 8);
  cuda::ldmatrix_x4_trans(transposed, matrices + lane * 8);
  cuda::ldmatrix_x2(two, matrices + lane % 16 * 8);
  cuda::ldmatrix_x2_trans(two_transposed, matrices + lane % 16 * 8);
  for (int m = 0; m < 4; ++m) {
    out[m * 32 + lane] = plain[m];
    out[128 + m * 32 + lane] = transposed[m];
    if (m >= 2) continue;
    out[256 + m * 32 + lane] = two[m];
    out[320 + m * 32 + lane] = two_transposed[m];
  }
}

void test_ldmatrix() {
  const DeviceArray<uint32_t> out(384);
  launch(ldmatrix_kernel, 1, 32, 0, nullptr, out.get());
  const std::vector<uint32_t> got = out.values();
  bool right = true;
  for (uint32_t m = 0; m < 4; ++m) {
    for (uint32_t lane = 0; lane < 32; ++lane) {
      const uint32_t g = lane / 4, t = lane % 4, base = m * 64;
      const uint32_t plain = base + g * 8 + 2 * t, next = base + 2 * t * 8 + g;
      right = right && got[m * 32 + lane] == (plain | (plain + 1) << 16);
      right = right && got[128 + m * 32 + lane] == (next | (next + 8) << 16);
      if (m >= 2) continue;
      right = right && got[256 + m * 32 + lane] == got[m * 32 + lane];
      right = right && got[320 + m * 32 + lane] == got[128 + m * 32 + lane];
    }
  }
  CHECK(right);
}

// Two groups of copies: the first has landed after the first wait, the second after the second.
__global__ void copy_kernel(const float* in, float* out) {
  auto* const tile = static_cast<float*>(cuda::dynamic_shared());
  const unsigned i = threadIdx.x * 4;
  cuda::cp_async_16(tile + i, in + i);
  cuda::cp_async_commit();
  cuda::cp_async_16(tile + 128 + i, in + 128 + i, threadIdx.x != 3);
  cuda::cp_async_commit();
  cuda::cp_async_wait<1>();
  __syncthreads();
  for (unsigned j = 0; j < 4; ++j) out[i + j] = tile[127 - i - j];
  cuda::cp_async_wait<0>();
  __syncthreads();
  for (unsigned j = 0; j < 4; ++j) out[128 + i + j] = tile[255 - i - j];
}

void test_copies() {
  std::vector<float> in(256);
  for (size_t i = 0; i < 256; ++i) in[i] = static_cast<float>(i);
  const DeviceArray<float> device_in(in), out(256);
  launch(copy_kernel, 1, 32, 1024, nullptr, device_in.get(), out.get());
  const std::vector<float> got = out.values();
  bool right = true;
  for (size_t i = 0; i < 256; ++i) {
    const size_t source = i < 128 ? 127 - i : 383 - i;
    const bool zero = source >= 128 && (source - 128) / 4 == 3;
    right = right && got[i] == (zero ? 0 : static_cast<float>(source));
  }
  CHECK(right);
}

// Memory nobody wrote holds NaN, in every block anew.
__global__ void poison_kernel(float* out) {
  __shared__ float fixed[32];
  auto* const dynamic = static_cast<float*>(cuda::dynamic_shared());
  const float before = fixed[threadIdx.x], dynamic_before = dynamic[threadIdx.x];
  fixed[threadIdx.x] = dynamic[threadIdx.x] = 1;
  out[blockIdx.x * 32 + threadIdx.x] = before != before && dynamic_before != dynamic_before ? 1.0f : 0.0f;
}

void test_poison() {
  const DeviceArray<float> fresh(100);
  bool nan = true;
  for (const float x : fresh.values()) nan = nan && x != x;
  for (uint16_t part : DeviceArray<uint16_t>(100).values())
    nan = nan && std::isnan(io::float_from_half(part));
  CHECK(nan);
  if (is_build("race")) return;  // it would tell
  const DeviceArray<float> out(64);
  launch(poison_kernel, 2, 32, 128, nullptr, out.get());
  for (const float x : out.values()) nan = nan && x == 1;
  CHECK(nan);
}

void test_halves() {
  bool widened = true, narrowed = true, bfloat16 = true;
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float expected = io::float_from_half(half), got = __half2float(__ushort_as_half(half));
    const bool nan = expected != expected;
    widened = widened && (nan ? got != got : std::memcmp(&got, &expected, 4) == 0);
    narrowed = narrowed && (nan ? (__half_as_ushort(__float2half_rn(expected)) & 0x7fffu) > 0x7c00u
                                : __half_as_ushort(__float2half_rn(expected)) == half);
    const float wide = __bfloat162float(__ushort_as_bfloat16(half)),
                wide_expected = io::float_from_bfloat16(half);
    bfloat16 = bfloat16 && std::memcmp(&wide, &wide_expected, 4) == 0;
  }
  CHECK(widened);
  CHECK(narrowed);
  CHECK(bfloat16);
  // Every float between two halves, at steps that meet all ties.
  bool rounds = true;
  for (uint64_t step = 0; step < (1ull << 32); step += 0x800) {
    for (const uint32_t near : {0u, 1u, 0x7ffu}) {
      const float x = io::float_from_bits(static_cast<uint32_t>(step) + near);
      if (x != x) continue;
      rounds = rounds && __half_as_ushort(__float2half_rn(x)) == io::half_from_float(x);
      rounds = rounds && __bfloat16_as_ushort(__float2bfloat16_rn(x)) == io::bfloat16_from_float(x);
    }
  }
  CHECK(rounds);
  const float2 pair = __half22float2(__floats2half2_rn(1.5f, -2));
  CHECK(pair.x == 1.5f && pair.y == -2);
  static_assert(std::is_trivial<__half2>::value && std::is_trivial<__nv_bfloat162>::value,
                "no guard variables");
}

void test_arithmetic() {
  CHECK(__dp4a(0x01ff7f80, 0x02030405, 10) == 10 + 2 - 3 + 127 * 4 - 128 * 5);
  CHECK(__brev(1) == 0x80000000u && __brev(0x12345678u) == 0x1e6a2c48u);
  CHECK(__clz(1) == 31 && __clz(0) == 32 && __ffs(8) == 4 && __ffs(0) == 0 && __popc(0xff) == 8);
  CHECK(__umulhi(0xffffffffu, 3) == 2 && __umul64hi(~0ull, 3) == 2);
  CHECK(__byte_perm(0x33221100, 0x77665544, 0x7250) == 0x77225500u);
  CHECK(__byte_perm(0x80, 0, 0x0008) == 0x808080ffu);
  CHECK(__float_as_uint(1.0f) == 0x3f800000u && __int_as_float(0x40000000) == 2.0f);
  CHECK(__float2int_rn(2.5f) == 2 && __float2int_rn(3.5f) == 4 && __float2int_rz(-1.9f) == -1);
  CHECK(min(3, 4) == 3 && max(3u, 4u) == 4u && max(NAN, 1.0f) == 1.0f);
  CHECK(std::fabs(rsqrtf(4.0f) - 0.5f) < 1e-7f && std::fabs(__expf(1.0f) - 2.7182818f) < 1e-6f);
  CHECK(__saturatef(1.5f) == 1 && __saturatef(NAN) == 0 && __fdividef(1, 4) == 0.25f);
}

}  // namespace

void test_primitives() {
  test_coordinates();
  in_every_schedule([] {
    test_shuffle<int>();
    test_shuffle<double>();
    test_shuffle<unsigned short>();
    test_votes();
    test_block();
    test_atomics();
    test_matrix<__half>(__float2half_rn, __half2float);
    test_matrix<__nv_bfloat16>(__float2bfloat16_rn, __bfloat162float);
    test_ldmatrix();
    test_copies();
    test_poison();
  });
  test_halves();
  test_arithmetic();
  CHECK(cudaGetLastError() == cudaSuccess);
  CHECK(emulator::faults().empty());
}

}  // namespace allmrec::test
