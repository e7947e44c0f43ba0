#include "shared_generator.h"

#include <utility>

namespace allmrec {

void SharedGenerator::submit(GenerationRequest request) {
  generator_.check(request);
  const std::lock_guard<std::mutex> lock(mutex_);
  submitted_.push_back(std::move(request));
}

void SharedGenerator::abort(int64_t request) {
  const std::lock_guard<std::mutex> lock(mutex_);
  aborted_.push_back(request);
}

GenerationEvents SharedGenerator::advance(const std::function<bool()>& make_way) {
  GenerationEvents events;
  try {
    take_requests(events);
    while (events.empty() && generator_.step(events) && !make_way()) take_requests(events);
  } catch (...) {
    generator_.clear();
    throw;
  }
  return events;
}

void SharedGenerator::clear() {
  generator_.clear();
}

void SharedGenerator::take_requests(GenerationEvents& events) {
  std::vector<GenerationRequest> requests;
  std::vector<int64_t> ended;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    requests.swap(submitted_);
    ended.swap(aborted_);
  }
  for (GenerationRequest& request : requests) generator_.submit(std::move(request));
  for (const int64_t id : ended) generator_.abort(id, events);
}

}  // namespace allmrec
