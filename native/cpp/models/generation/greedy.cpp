#include "greedy.h"

#include <limits>

#include "generator.h"

namespace allmrec {

std::vector<std::vector<int32_t>> generate_greedy(Opt& model, const LlmBatch& prompts,
                                                  const std::vector<float>& soft,
                                                  const std::vector<std::vector<int32_t>>& seen,
                                                  const GreedyOptions& options,
                                                  const std::function<bool()>& on_step) {
  const auto sequences = static_cast<size_t>(prompts.sequences());
  if (sequences == 0) return {};
  if (!prompts.prefix.empty() || !prompts.own_begin.empty())
    throw Error(ErrorCode::invalid_argument,
                "Prompts to go on from are causal: leave `prefix` and `ownBegin` out.");
  GeneratorOptions together;
  together.slots = static_cast<int64_t>(sequences);
  together.prompt_tokens = std::numeric_limits<int64_t>::max();
  Generator generator(model, together);
  const int64_t embed = model.config().embed_size;
  for (size_t s = 0; s < sequences; ++s) {
    GenerationRequest request;
    request.id = static_cast<int64_t>(s);
    for (int32_t t = prompts.offsets[s]; t < prompts.offsets[s + 1]; ++t) {
      int32_t id = prompts.ids[t];
      // Each request takes the soft tokens it names.
      if (id < 0 && (-static_cast<int64_t>(id) - 1) * embed < static_cast<int64_t>(soft.size())) {
        const auto row = soft.begin() + (-static_cast<int64_t>(id) - 1) * embed;
        id = -static_cast<int32_t>(static_cast<int64_t>(request.soft.size()) / embed) - 1;
        request.soft.insert(request.soft.end(), row, row + embed);
      }
      request.ids.push_back(id);
      request.positions.push_back(prompts.positions[t]);
    }
    if (s < seen.size()) request.seen = seen[s];
    request.options.max_new_tokens = options.max_new_tokens;
    request.options.repetition_penalty = options.repetition_penalty;
    request.options.eos_id = options.eos_id;
    request.options.log_probs = false;
    generator.check(request);
    generator.submit(std::move(request));
  }
  GenerationEvents events;
  while (!generator.idle()) {
    generator.step(events);
    if (on_step && !on_step()) break;
  }
  for (size_t s = 0; s < sequences; ++s) generator.abort(static_cast<int64_t>(s), events);
  std::vector<std::vector<int32_t>> result(sequences);
  for (FinishedRequest& finished : events.finished)
    result[static_cast<size_t>(finished.request)] = std::move(finished.sequences.front().ids);
  return result;
}

}  // namespace allmrec
