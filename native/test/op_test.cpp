// The op test: every op of the table × shapes against float64 references.
//   op_test [--device cpu|cuda|cudaemu] [--once] [--threads n] [op]
// Only the cases of ops whose name contains `op`. The CPU runs each instruction set with 1, 2 and 3 threads,
// whose results must agree bit by bit, and a CUDA device runs each case twice, which must agree bit by bit as
// well; with --once each case runs once, with --threads once on the CPU with so many.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include "../cpp/backend/registry.h"
#include "op_fixture.h"

using namespace allmrec::test;

namespace {

// One case; its downloaded bits go to `bits`.
bool run_case(const allmrec_backend& backend, allmrec_device* device, const Case& c, const char* where,
              std::vector<unsigned char>& bits) {
  Fixture fixture(backend, device, std::string(c.op) + " " + c.variant, c.tolerance);
  c.test(fixture, c.number);
  bits = fixture.bits();
  if (!fixture.ok())
    std::printf("FAIL %s: %s (%s)%s\n", where, c.op, c.variant.c_str(), fixture.failures().c_str());
  return fixture.ok();
}

// Every case on one back end. `threads` are compared with the first of them.
void run_table(const allmrec_backend& backend, const Cases& cases, const std::vector<int>& threads,
               const char* label) {
  long passed = 0, failed = 0;
  std::vector<std::vector<unsigned char>> first(cases.size());
  for (size_t round = 0; round < threads.size(); ++round) {
    allmrec_device* device = nullptr;
    char reason[256] = "";
    if (backend.open(0, threads[round], &device, reason, sizeof reason) != ALLMREC_OK) {
      // An instruction set this processor lacks is no failure; a device that was asked for, or was lost, is.
      if (std::strcmp(backend.name, "cpu") == 0) return skip(std::string(label) + ": " + reason);
      std::printf("FAIL %s cannot be opened: %s\n", label, reason);
      ++failed;
      break;
    }
    const std::string where = std::string(label) + ", " + std::to_string(threads[round]) + " threads";
    for (size_t i = 0; i < cases.size(); ++i) {
      std::vector<unsigned char> bits;
      bool ok = run_case(backend, device, cases[i], where.c_str(), bits);
      if (round == 0) {
        first[i] = std::move(bits);
      } else if (bits != first[i]) {
        std::printf("FAIL %s: %s (%s): other bits than in the first round\n", where.c_str(), cases[i].op,
                    cases[i].variant.c_str());
        ok = false;
      }
      ++(ok ? passed : failed);
    }
    backend.close(device);
  }
  std::printf("%s: %ld passed, %ld failed\n", label, passed, failed);
  counts().passed += passed;
  counts().failed += failed;
}

// Freed memory comes back for requests of about its size, and only for those.
void memory_tests() {
  const allmrec_backend& backend = *allmrec::find_backend("cpu");
  allmrec_device* device = nullptr;
  char reason[256] = "";
  CHECK(backend.open(0, 1, &device, reason, sizeof reason) == ALLMREC_OK);
  const auto alloc = [&](size_t bytes) {
    void* memory = nullptr;
    CHECK(backend.alloc(device, bytes, &memory) == ALLMREC_OK);
    CHECK(memory && reinterpret_cast<uintptr_t>(memory) % 64 == 0);
    std::memset(memory, 0xff, bytes);
    return memory;
  };
  for (const size_t bytes :
       {size_t{0}, size_t{1}, size_t{65472}, size_t{65473}, size_t{1} << 20, size_t{40} << 20}) {
    backend.free(device, alloc(bytes));
  }
  void* large = alloc(size_t{8} << 20);
  void* other = alloc(size_t{8} << 20);
  CHECK(large != other);
  backend.free(device, large);
  backend.free(device, other);
  void* small = alloc(3 << 20);
  CHECK(small != other);  // less than half: not worth a block of 8 MB
  backend.free(device, small);
  void* again = alloc((size_t{8} << 20) - 1000);  // of the two that fit the one freed last
  CHECK(again == other);
  backend.free(device, again);
  backend.free(device, nullptr);
  void* none = &none;
  for (const size_t bytes : {SIZE_MAX / 8, SIZE_MAX / 4, SIZE_MAX / 2 - 8, SIZE_MAX / 2, SIZE_MAX - 100})
    CHECK(backend.alloc(device, bytes, &none) == ALLMREC_OUT_OF_MEMORY);
  backend.close(device);
}

}  // namespace

int main(int argc, char** argv) {
  std::string device = "cpu", only;
  bool once = false;
  std::vector<int> threads = {1, 2, 3};
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--device") == 0 && i + 1 < argc)
      device = argv[++i];
    else if (std::strcmp(argv[i], "--once") == 0)
      once = true, threads = {2};
    else if (std::strcmp(argv[i], "--threads") == 0 && i + 1 < argc)
      threads = {std::atoi(argv[++i])};
    else
      only = argv[i];
  }
  Cases all, cases;
  dense_cases(all);
  element_cases(all);
  attention_cases(all);
  row_cases(all);
  loss_cases(all);
  model_cases(all);
  half_dense_cases(all);
  quantized_cases(all);
  half_attention_cases(all);
  cache_attention_cases(all);
  half_row_cases(all);
  sequence_cases(all);
  for (const Case& c : all) {
    if (std::strstr(c.op, only.c_str())) cases.push_back(c);
  }
  if (device != "cpu") {
    try {
      run_table(*allmrec::find_backend(device), cases, once ? std::vector<int>{0} : std::vector<int>{0, 0},
                device.c_str());
    } catch (const allmrec::Error& error) {
      record(false, __FILE__, __LINE__, error.what());
    }
    return report();
  }
  if (only.empty()) {
    philox_tests();
    memory_tests();
    gradient_tests();
  }
  for (const char* instruction : {"generic", "avx2", "avx512", "avx512+vnni+bf16"}) {
    setenv("ALLMREC_ISA", instruction, 1);  // read at open
    run_table(*allmrec::find_backend("cpu"), cases, threads, instruction);
  }
  return report();
}
