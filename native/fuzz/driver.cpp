// What runs the targets where there is no libFuzzer: replays files, then mutates them from a seed. It does
// not see what an input covers, so it finds less. Usage: fuzz [--seconds N] [--seed N] [--save PATH] folder…,
// or fuzz --write-seeds folder

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

#include "targets.h"

extern "C" void __sanitizer_set_death_callback(void (*callback)());
extern "C" int LLVMFuzzerInitialize(int*, char***);
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

namespace fs = std::filesystem;
using Bytes = std::vector<uint8_t>;

constexpr size_t kLongest = 16384;
constexpr unsigned kTimeout = 10;  // seconds of one input

const Bytes* running = nullptr;
std::string save_to;

// The input that ended this process.
void save_running() {
  if (running == nullptr || save_to.empty()) return;
  std::ofstream(save_to, std::ios::binary)
      .write(reinterpret_cast<const char*>(running->data()), static_cast<std::streamsize>(running->size()));
  std::fprintf(stderr, "the input is in %s\n", save_to.c_str());
}

void on_signal(int signal) {
  std::fprintf(stderr, "%s\n", signal == SIGALRM ? "FINDING: an input takes too long" : "aborted");
  save_running();
  ::_exit(1);
}

void run(const Bytes& input) {
  running = &input;
  ::alarm(kTimeout);
  LLVMFuzzerTestOneInput(input.data(), input.size());
  ::alarm(0);
  running = nullptr;
}

template <typename T>
void put(Bytes& bytes, size_t at, T value) {
  const auto* from = reinterpret_cast<const uint8_t*>(&value);
  for (size_t i = 0; i < sizeof value && at + i < bytes.size(); ++i) bytes[at + i] = from[i];
}

void mutate(Bytes& bytes, const std::vector<Bytes>& corpus, std::mt19937_64& random) {
  const auto below = [&](size_t n) { return static_cast<size_t>(random() % std::max<size_t>(n, 1)); };
  constexpr uint64_t kTelling[] = {0,          1,       0x7f,       0xff,       0xffff,     0x7fffffff,
                                   0xffffffff, 1 << 20, 1ull << 40, 1ull << 62, 1ull << 63, ~0ull};
  for (size_t edits = 1 + below(6); edits > 0; --edits) {
    const size_t at = below(bytes.size()), length = 1 + below(16);
    switch (below(7)) {
      case 0:
        if (!bytes.empty()) bytes[at] = static_cast<uint8_t>(bytes[at] ^ 1u << below(8));
        break;
      case 1:
        if (!bytes.empty()) bytes[at] = static_cast<uint8_t>(random());
        break;
      case 2:
        bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(at), length, static_cast<uint8_t>(random()));
        break;
      case 3:
        bytes.erase(bytes.begin() + static_cast<std::ptrdiff_t>(at),
                    bytes.begin() + static_cast<std::ptrdiff_t>(std::min(bytes.size(), at + length)));
        break;
      case 4:
        put(bytes, at, kTelling[below(std::size(kTelling))]);
        break;
      case 5:
        put(bytes, at, static_cast<uint32_t>(kTelling[below(std::size(kTelling))]));
        break;
      default: {  // a piece of another
        const Bytes& other = corpus[below(corpus.size())];
        const size_t from = below(other.size()), count = std::min(other.size() - from, 1 + below(64));
        bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(at),
                     other.begin() + static_cast<std::ptrdiff_t>(from),
                     other.begin() + static_cast<std::ptrdiff_t>(from + count));
      }
    }
  }
  if (bytes.size() > kLongest) bytes.resize(kLongest);
}

}  // namespace

int main(int argc, char** argv) {
  double seconds = 0;
  uint64_t seed = 1;
  std::vector<Bytes> corpus;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const bool has_value = i + 1 < argc;
    if (argument == "--write-seeds" && has_value) {
      allmrec::fuzz::write_seeds(argv[i + 1]);
      return 0;
    }
    if (argument == "--seconds" && has_value) {
      seconds = std::atof(argv[++i]);
    } else if (argument == "--seed" && has_value) {
      seed = std::strtoull(argv[++i], nullptr, 10);
    } else if (argument == "--save" && has_value) {
      save_to = argv[++i];
    } else if (fs::is_directory(argument)) {
      std::vector<fs::path> paths;
      for (const auto& entry : fs::directory_iterator(argument)) paths.push_back(entry.path());
      std::sort(paths.begin(), paths.end());
      for (const fs::path& path : paths) {
        std::ifstream in(path, std::ios::binary);
        corpus.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
      }
    }
  }
  LLVMFuzzerInitialize(&argc, &argv);
  __sanitizer_set_death_callback(save_running);
  ::signal(SIGALRM, on_signal);
  ::signal(SIGABRT, on_signal);
  corpus.emplace_back();
  uint64_t executions = 0;
  for (const Bytes& input : corpus) {
    run(input);
    ++executions;
  }
  std::mt19937_64 random(seed);
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (std::chrono::steady_clock::now() < end) {
    Bytes input = corpus[random() % corpus.size()];
    mutate(input, corpus, random);
    run(input);
    ++executions;
  }
  std::printf("executions: %llu\n", static_cast<unsigned long long>(executions));
  return 0;
}
