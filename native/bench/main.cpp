// Our own speed, without Node: every op of the table at the sizes of the real work, the models' steps, and
// candidate scoring, each beside the floor its device allows.
//   a-llmrec-bench --device cpu|cuda|cudaemu --suite ops|models|scoring|all [--quick] [--filter TEXT]
//                  [--threads N] [--seconds S] [--limit S] [--models 125m,6.7b] [--json out.json]
// --quick: tiny sizes, each row once: whether it runs. --filter: rows whose name, shape or dtype contain
// TEXT.

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "harness.h"

namespace {

constexpr const char* kUsage =
    "Usage: a-llmrec-bench --device cpu|cuda|cudaemu --suite ops|models|scoring|all [--quick]\n"
    "                      [--filter TEXT] [--threads N] [--seconds S] [--limit S]\n"
    "                      [--models 125m,6.7b] [--json out.json]\n";

bool parse(int argc, char** argv, allmrec::bench::Options& options) {
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--quick") {
      options.quick = true;
      continue;
    }
    if (i + 1 == argc) return false;
    const char* value = argv[++i];
    if (flag == "--device")
      options.device = value;
    else if (flag == "--suite")
      options.suite = value;
    else if (flag == "--filter")
      options.filter = value;
    else if (flag == "--json")
      options.json = value;
    else if (flag == "--models")
      options.models = value;
    else if (flag == "--threads")
      options.threads = std::atoi(value);
    else if (flag == "--seconds")
      options.seconds = std::atof(value);
    else if (flag == "--limit")
      options.limit = std::atof(value);
    else
      return false;
  }
  // An emulated card runs some thousand blocks a second, and its times say nothing.
  if (options.device == "cudaemu") options.quick = true;
  for (const char* suite : {"ops", "models", "scoring", "all"})
    if (options.suite == suite) return true;
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace allmrec::bench;
  Options options;
  if (!parse(argc, argv, options)) {
    std::fputs(kUsage, stderr);
    return 2;
  }
  try {
    Bench bench(options);
    const auto asked = [&](const char* suite) { return options.suite == "all" || options.suite == suite; };
    bool complete = true;
    if (asked("ops")) {
      op_suite(bench);
      // Every op has a row: a new op without one ends here.
      if (options.filter.empty() && options.limit > 1e8) {
#define ALLMREC_NAME(op, args) #op,
        for (const char* op : {ALLMREC_OPS(ALLMREC_NAME)}) {
#undef ALLMREC_NAME
          if (bench.op_was_timed(op)) continue;
          std::fprintf(stderr, "No row of op %s has a figure.\n", op);
          complete = false;
        }
      }
    }
    if (asked("models")) model_suite(bench);
    if (asked("scoring")) scoring_suite(bench);
    bench.write_json();
    return complete && !bench.failed() ? 0 : 1;
  } catch (const allmrec::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
