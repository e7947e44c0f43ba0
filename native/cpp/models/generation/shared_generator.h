#pragma once

#include <functional>
#include <mutex>
#include <vector>

#include "generator.h"

namespace allmrec {

// A generator that one thread steps and others send requests to: those join a batch that is running.
class SharedGenerator {
 public:
  SharedGenerator(Opt& model, const GeneratorOptions& options) : generator_(model, options) {}

  // From any thread: takes its place in the queue. Throws ErrorCode::invalid_argument when it cannot be
  // served.
  void submit(GenerationRequest request);
  // From any thread: ends a request with what there is of it; unknown ones are done.
  void abort(int64_t request);

  // From the stepping thread only: steps until there is something to tell, nothing to do, or `make_way` says
  // that others wait. What it throws has dropped every request.
  GenerationEvents advance(const std::function<bool()>& make_way);
  // From the stepping thread only: drops everything.
  void clear();

 private:
  void take_requests(GenerationEvents& events);

  Generator generator_;
  std::mutex mutex_;
  std::vector<GenerationRequest> submitted_;
  std::vector<int64_t> aborted_;
};

}  // namespace allmrec
