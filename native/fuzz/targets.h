#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace allmrec::fuzz {

// What stands for the path of the file; every message must name it.
inline constexpr const char* kLabel = "fuzzed.bin";

// Takes one input. Throws allmrec::Error where it is refused; whatever else it throws is a finding.
struct Target {
  const char* name;
  void (*run)(const uint8_t* data, size_t size);
};

void run_json(const uint8_t* data, size_t size);
void run_safetensors(const uint8_t* data, size_t size);
void run_torch(const uint8_t* data, size_t size);
void run_pickle(const uint8_t* data, size_t size);
void run_zip(const uint8_t* data, size_t size);
void run_weights(const uint8_t* data, size_t size);
void run_token_trie(const uint8_t* data, size_t size);

inline constexpr Target kTargets[] = {
    {"json", run_json},
    {"safetensors", run_safetensors},
    {"torch", run_torch},
    {"pickle", run_pickle},
    {"zip", run_zip},
    {"weights", run_weights},
    {"token-trie", run_token_trie},
};

// Something that must hold for every input did not.
inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "FINDING: %s\n", what);
  std::abort();
}

// Fills tiny good files and hostile ones of every target into folders below `folder`.
void write_seeds(const std::string& folder);

}  // namespace allmrec::fuzz
