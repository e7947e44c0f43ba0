#pragma once

#include <cstdint>

#include "opt.h"

namespace allmrec {

// How the activations beside weights of a dtype are stored: float32 with float32 weights and on the CPU;
// elsewhere bfloat16 beside bfloat16 weights and float16 beside all others.
int32_t opt_activation_dtype(const OptConfig& config, bool on_cpu);
// Keys and values of a cache: float32 with float32 weights, else half, whatever the activations are.
int32_t opt_cache_dtype(const OptConfig& config, bool on_cpu);

// Every weight, in the order of memory.
std::vector<ParameterSet::Entry> opt_layout(const OptConfig& config);

// One pass through the model without gradients.
struct OptPass {
  int64_t tokens = 0;  // packed
  int64_t rows = 0;    // whose hidden states are wanted
  int64_t sequences = 1;
  bool cached = false;  // keys and values go to a cache
};

// Bytes that Opt::hidden takes of its arena; it reserves them. With T tokens, R rows, a bytes per activation,
// C, E and F the hidden, embedding and feed-forward widths, all that lives at once is
//   x a·T·C, integers, and the largest of attention's norm, query, key, value and output, a·5·T·C (or the
//   half copy of keys and values for a cache instead of the output), the last layer's share of that with its
//   rows apart, a·(3·T·C + 4·R·C), and the feed-forward's norm and hidden, a·T·(C + F), F twice with an
//   activation other than relu. Where E differs, the embedded tokens and positions a·T·(C + E) leave a gap
//   beside.
size_t opt_hidden_bytes(const OptConfig& config, bool on_cpu, const OptPass& pass);
// Rows of logits that Opt::log_probs computes at once, and the bytes it takes for `rows` rows and `pairs`
// pairs.
int64_t opt_logit_rows(const OptConfig& config, bool on_cpu, int64_t rows);
size_t opt_log_probs_bytes(const OptConfig& config, bool on_cpu, int64_t rows, int64_t pairs);

// Bytes, besides what the process has anyway.
struct OptMemory {
  int64_t parameters = 0;  // numbers
  int64_t weights = 0;
  int64_t cache = 0;  // keys and values
  int64_t arena = 0;  // of one pass, with its logits
  int64_t work = 0;   // a thread's copies of operands
};
// generate: the pass fills a cache of `capacity` positions for each sequence and its logits are kept whole;
// otherwise it scores one token of every row.
OptMemory opt_memory(const OptConfig& config, bool on_cpu, const OptPass& pass, int64_t capacity,
                     int threads);

}  // namespace allmrec
