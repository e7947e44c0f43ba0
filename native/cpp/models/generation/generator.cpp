#include "generator.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "../training_step.h"

namespace allmrec {
namespace {

int64_t most_rows(const Opt& model, const GeneratorOptions& options) {
  const int64_t rows =
      options.cache_rows > 0 ? options.cache_rows : options.slots * model.config().max_positions;
  return std::min<int64_t>(rows, std::numeric_limits<int32_t>::max());
}

}  // namespace

Generator::Generator(Opt& model, const GeneratorOptions& options)
    : model_(model),
      options_(options),
      cache_(model.parameters().device(), model.config().num_layers, model.config().hidden_size,
             model.cache_dtype(), most_rows(model, options)),
      reader_(model),
      penalty_(model.config().vocab_size) {}

void Generator::check(const GenerationRequest& request) const {
  const auto fail = [](const std::string& message) { throw Error(ErrorCode::invalid_argument, message); };
  const GenerationOptions& o = request.options;
  const OptConfig& config = model_.config();
  if (request.ids.empty()) fail("Cannot generate from an empty prompt.");
  if (!request.positions.empty() && request.positions.size() != request.ids.size())
    fail("A prompt needs a position for every token.");
  const int64_t soft = static_cast<int64_t>(request.soft.size()) / config.embed_size;
  for (const int32_t id : request.ids)
    if (id >= config.vocab_size || -static_cast<int64_t>(id) - 1 >= soft)
      fail("Token " + std::to_string(id) + " is outside the vocabulary of " +
           std::to_string(config.vocab_size) + " and the " + std::to_string(soft) + " soft tokens.");
  for (size_t t = 0; t < request.ids.size(); ++t) {
    const int64_t position = request.positions.empty() ? static_cast<int64_t>(t) : request.positions[t];
    if (position < 0 || position >= config.max_positions)
      fail("Position " + std::to_string(position) + " is outside the language model's " +
           std::to_string(config.max_positions) + " positions; shorten the prompt.");
  }
  if (o.max_new_tokens < 0) fail("Expected `maxNewTokens` to be at least 0.");
  if (!(o.repetition_penalty > 0.0f)) fail("Expected `repetitionPenalty` to be positive.");
  const SamplingOptions& s = o.sampling;
  if (s.enabled && (!(s.temperature > 0.0f) || s.top_k < 0 || !(s.top_p > 0.0f && s.top_p <= 1.0f)))
    fail("Expected `temperature` to be positive, `topK` not negative and `topP` in (0, 1].");
  if (o.beam.beams < 1 || o.sequences < 1)
    fail("Expected `numBeams` and `numReturnSequences` to be at least 1.");
  if (o.beam.beams > 1 && s.enabled)
    fail("Beam search does not sample; leave `numBeams` or the sampling out.");
  if (o.beam.beams > 1 ? o.sequences > o.beam.beams : !s.enabled && o.sequences > 1)
    fail("Expected at most `numBeams` sequences to return of a beam search, and one of greedy decoding.");
  if (o.stream && SequenceGroup::width(request) > 1) fail("Only a single sequence can be streamed.");
  if (!o.stop_bytes.empty() && !request.bytes) fail("Stopping at text needs the tokens' bytes.");
  for (const std::vector<int32_t>& stop : o.stop_tokens)
    if (stop.empty()) fail("A stop sequence holds no tokens.");
  for (const std::string& stop : o.stop_bytes)
    if (stop.empty()) fail("A stop string is empty.");
  if (request.trie) {
    if (request.trie->eos_id() != o.eos_id) fail("The trie ends with another end token than the request.");
    if (request.trie->largest_token() >= config.vocab_size)
      fail("The trie's token " + std::to_string(request.trie->largest_token()) +
           " is outside the vocabulary of " + std::to_string(config.vocab_size) + ".");
  }
  if (SequenceGroup::width(request) > options_.slots)
    fail("The request has " + std::to_string(SequenceGroup::width(request)) +
         " sequences, the generator only " + std::to_string(options_.slots) + " slots.");
  if (o.max_new_tokens > 0 && SequenceGroup::room(request, config.max_positions) < 1)
    fail("The prompt leaves nothing of the language model's " + std::to_string(config.max_positions) +
         " positions; shorten it.");
  if (rows_of(request) > cache_.max_rows())
    fail("The request needs " + std::to_string(rows_of(request)) + " rows of a key-value cache of " +
         std::to_string(cache_.max_rows()) + ".");
}

void Generator::submit(GenerationRequest request) {
  queue_.push_back(std::move(request));
}

void Generator::abort(int64_t request, GenerationEvents& events) {
  const auto queued = std::find_if(queue_.begin(), queue_.end(),
                                   [request](const GenerationRequest& r) { return r.id == request; });
  if (queued != queue_.end()) {
    GeneratedSequence nothing;
    nothing.reason = FinishReason::abort;
    events.finished.push_back(
        {request, std::vector<GeneratedSequence>(static_cast<size_t>(queued->options.sequences), nothing)});
    queue_.erase(queued);
  }
  const auto running = std::find_if(groups_.begin(), groups_.end(),
                                    [request](const SequenceGroup& g) { return g.request().id == request; });
  if (running != groups_.end()) {
    events.finished.push_back(running->abort());
    finish(running);
  }
  if (idle()) clear();
}

void Generator::finish(std::list<SequenceGroup>::iterator group) {
  used_slots_ -= SequenceGroup::width(group->request());
  cache_.release(group->start(), rows_of(group->request()));
  groups_.erase(group);
}

void Generator::clear() {
  decoder_.reset();
  groups_.clear();
  queue_.clear();
  used_slots_ = 0;
  arena_.reset();
  cache_.clear();
}

void Generator::admit(GenerationEvents& events) {
  if (groups_.empty() && !queue_.empty()) {
    // Memory for what will run together, in one piece.
    int64_t rows = 0, slots = 0;
    for (const GenerationRequest& request : queue_) {
      slots += SequenceGroup::width(request);
      if (slots > options_.slots) break;
      rows += rows_of(request);
    }
    cache_.grow(rows);
  }
  int64_t tokens = 0;
  while (!queue_.empty()) {
    GenerationRequest& request = queue_.front();
    if (request.options.max_new_tokens == 0) {
      GeneratedSequence nothing;
      events.finished.push_back({request.id, std::vector<GeneratedSequence>(
                                                 static_cast<size_t>(request.options.sequences), nothing)});
      queue_.pop_front();
      continue;
    }
    const int64_t width = SequenceGroup::width(request), rows = rows_of(request);
    tokens += static_cast<int64_t>(request.ids.size());
    if (used_slots_ + width > options_.slots ||
        (tokens > options_.prompt_tokens && tokens > static_cast<int64_t>(request.ids.size())))
      break;
    const int64_t start = cache_.reserve(rows);
    if (start == KvCache::kNone) break;
    if (width > 1) {
      const auto prompt = static_cast<int64_t>(request.ids.size());
      cache_.zero(start + prompt, rows - prompt);
    }
    used_slots_ += width;
    decoder_.reset();
    groups_.emplace_back(std::move(request), start, model_.config().max_positions);
    queue_.pop_front();
  }
}

bool Generator::step(GenerationEvents& events) {
  admit(events);
  advance_certain(events);
  if (!groups_.empty() && !decode_on_device(events)) decode(events);
  if (!idle()) return true;
  clear();
  return false;
}

// Steps that need no model, for a trie leaves every sequence of a group one token.
void Generator::advance_certain(GenerationEvents& events) {
  for (auto group = groups_.begin(); group != groups_.end();) {
    const auto current = group++;
    const auto certain = [&] {
      const auto& branches = current->branches();
      return std::none_of(branches.begin(), branches.end(),
                          [&](const SequenceGroup::Branch& b) { return current->needs_model(b); });
    };
    bool finished = false;
    while (!finished && certain())
      finished =
          current->advance(std::vector<NextTokens>(current->branches().size()), penalty_, cache_, events);
    if (finished) finish(current);
  }
}

bool Generator::decode_on_device(GenerationEvents& events) {
  if (!model_.parameters().device()->has_graphs()) return false;
  std::vector<SequenceGroup*> groups;
  for (SequenceGroup& group : groups_) {
    if (!group.plain()) return false;
    groups.push_back(&group);
  }
  if (!decoder_ || !decoder_->serves(groups)) {
    decoder_.reset();
    decoder_ = std::make_unique<DeviceDecoder>(model_, cache_, groups);
  }
  std::vector<NextTokens> next;
  try {
    next = decoder_->step(groups);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::numeric) throw;
    return false;  // `decode` computes the same step and finds the op
  }
  size_t i = 0;
  for (auto group = groups_.begin(); group != groups_.end(); ++i) {
    const auto current = group++;
    current->fed(current->branches().front());
    if (current->advance({next[i]}, penalty_, cache_, events)) finish(current);
  }
  return true;
}

void Generator::decode(GenerationEvents& events) {
  decoder_.reset();
  struct Entry {
    SequenceGroup* group;
    size_t branch;
    NextTokenQuery query;
  };
  std::vector<Entry> entries;
  bool fixed_order = false;
  for (SequenceGroup& group : groups_) {
    for (size_t b = 0; b < group.branches().size(); ++b)
      if (group.needs_model(group.branches()[b]))
        entries.push_back({&group, b, group.query(group.branches()[b])});
    // What a seed draws must not depend on the requests beside it.
    fixed_order = fixed_order || group.request().options.sampling.enabled;
  }
  std::stable_sort(entries.begin(), entries.end(),
                   [](const Entry& a, const Entry& b) { return NextTokenReader::before(a.query, b.query); });
  LlmBatch batch;
  CachedBatch cached{cache_, {}};
  std::vector<int32_t> rows;
  std::vector<float> soft;
  std::vector<NextTokenQuery> queries;
  const int64_t embed = model_.config().embed_size;
  for (const Entry& entry : entries) {
    SequenceGroup& group = *entry.group;
    SequenceGroup::Branch& branch = group.branches()[entry.branch];
    const GenerationRequest& request = group.request();
    if (group.started()) {
      int32_t position = group.next_position(branch);
      for (const int32_t id : branch.pending) {
        batch.ids.push_back(id);
        batch.positions.push_back(position++);
      }
    } else {
      const auto before = static_cast<int32_t>(static_cast<int64_t>(soft.size()) / embed);
      for (size_t t = 0; t < request.ids.size(); ++t) {
        batch.ids.push_back(request.ids[t] < 0 ? request.ids[t] - before : request.ids[t]);
        batch.positions.push_back(request.positions.empty() ? static_cast<int32_t>(t) : request.positions[t]);
      }
      soft.insert(soft.end(), request.soft.begin(), request.soft.end());
    }
    batch.offsets.push_back(static_cast<int32_t>(batch.ids.size()));
    rows.push_back(batch.offsets.back() - 1);
    cached.sequences.push_back(branch.cache);
    queries.push_back(entry.query);
  }
  if (!arena_) arena_ = std::make_unique<Arena>(model_.parameters().device());
  // Keys and values go to their places in the cache again when it is called a second time.
  const auto compute = [&] {
    arena_->reset();
    Tape tape(*model_.parameters().device(), *arena_, false);
    const WithPrecision with(tape, {ALLMREC_F32, fixed_order});
    Tensor soft_rows;
    if (!soft.empty())
      soft_rows = tape.from_host(soft.data(), static_cast<int64_t>(soft.size()) / embed, embed);
    return reader_.read(tape, model_.hidden(tape, batch, soft_rows, rows, &cached), queries);
  };
  std::vector<NextTokens> next;
  try {
    next = compute();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::numeric) throw;
    fail_not_finite(error.what(), {&model_.parameters()}, compute);
  }
  for (auto group = groups_.begin(); group != groups_.end();) {
    const auto current = group++;
    std::vector<NextTokens> own(current->branches().size());
    bool asked = false;
    for (size_t i = 0; i < entries.size(); ++i) {
      if (entries[i].group != &*current) continue;
      own[entries[i].branch] = next[i];
      current->fed(current->branches()[entries[i].branch]);
      asked = true;
    }
    if (asked && current->advance(std::move(own), penalty_, cache_, events)) finish(current);
  }
}

}  // namespace allmrec
